//! What makes no sense in a recipe.

use rabitc_passes::svid::MAX_PATHS;

use super::{MOST_ORDER, Method, Noise, Recipe};
use crate::error::TrainError;

impl Recipe {
    /// Refuses what makes no sense, whatever the model.
    pub fn check(&self) -> Result<(), TrainError> {
        let bad = |what: String| Err(TrainError::Setting(what));
        if !(1..=MAX_PATHS).contains(&self.paths) {
            return bad(format!(
                "{} paths: 1 to {MAX_PATHS} are possible",
                self.paths
            ));
        }
        let counts = [
            ("steps", self.steps),
            ("sequences of a batch", self.batch as u64),
            ("tokens of a sequence", self.seq_len as u64),
            ("runs accumulated", self.accumulate as u64),
            (
                "tokens that importance is measured on",
                self.initial.tokens as u64,
            ),
        ];
        if let Some((what, _)) = counts.iter().find(|(_, n)| *n == 0) {
            return bad(format!("the number of {what} must be at least 1"));
        }
        if self.method == Method::Frozen && self.steps < self.paths as u64 {
            let (steps, paths) = (self.steps, self.paths);
            return bad(format!(
                "{steps} steps are too few to train {paths} paths one after the other"
            ));
        }
        if self.tokens_of_run().is_none() {
            return bad(
                "the run has more tokens than can be counted: give fewer steps or smaller batches"
                    .into(),
            );
        }
        self.check_numbers()
    }

    /// Refuses sequences, and windows of validation if there are any, that a model with a context
    /// of `context` tokens cannot read.
    pub fn check_lengths(&self, window: Option<usize>, context: usize) -> Result<(), TrainError> {
        for (what, len) in [
            ("sequences", self.seq_len),
            ("windows", window.unwrap_or(1)),
        ] {
            if len == 0 || len > context {
                let what = format!("{what} of {len} tokens: the model has 1 to {context}");
                return Err(TrainError::Setting(what));
            }
        }
        Ok(())
    }

    /// Tokens of all updates; `None` if they overflow.
    fn tokens_of_run(&self) -> Option<u64> {
        let batches = self.steps.checked_mul(self.accumulate as u64)?;
        let tokens = (self.batch as u64).checked_mul(self.seq_len as u64)?;
        batches.checked_mul(tokens)
    }

    fn check_numbers(&self) -> Result<(), TrainError> {
        let o = &self.optimizer;
        let not_negative = [
            ("the learning rate of shared weights", o.rates.shared),
            ("the learning rate of scales", o.rates.scales),
            ("the learning rate of the rest", o.rates.rest),
            ("the weight decay", o.decay),
            ("the limit of the gradient's norm", o.clip),
            ("the factor on hidden states", self.loss.hidden),
            ("the factor on the text's loss", self.loss.text),
            ("the factor on diversity", self.loss.diversity),
            ("the exponent of importance", self.initial.exponent),
            ("the probability of noise", self.noise.rate),
        ];
        for (what, value) in not_negative {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(TrainError::Setting(format!("{what} is {value}")));
            }
        }
        let Noise { rate, order, .. } = self.noise;
        if rate > 1.0 || order > MOST_ORDER {
            let what = format!(
                "noise with probability {rate} after {order} tokens: probabilities go to 1, and 0 \
                 to {MOST_ORDER} tokens are possible"
            );
            return Err(TrainError::Setting(what));
        }
        // A gradient of 0 divides by epsilon alone.
        if !(o.eps > 0.0 && o.eps.is_finite()) {
            let what = format!("epsilon is {}, it must be above 0", o.eps);
            return Err(TrainError::Setting(what));
        }
        if !(0.0..=1.0).contains(&o.final_rate) {
            let share = o.final_rate;
            let what = format!("the final share of the learning rate is {share}, not from 0 to 1");
            return Err(TrainError::Setting(what));
        }
        for (what, value) in [("beta1", o.beta1), ("beta2", o.beta2)] {
            if !(0.0..1.0).contains(&value) {
                let what = format!("{what} is {value}, it must be from 0 to below 1");
                return Err(TrainError::Setting(what));
            }
        }
        match [o.rates.shared, o.rates.scales, o.rates.rest] {
            [0.0, 0.0, 0.0] => Err(TrainError::Setting(
                "all learning rates are 0: nothing would be trained".into(),
            )),
            _ => Ok(()),
        }
    }
}
