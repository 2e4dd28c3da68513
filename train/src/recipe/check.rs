//! What makes no sense in a recipe.

use rabitc_passes::svid::MAX_PATHS;

use super::{MOST_ORDER, MOST_SPAN, Method, Recipe};
use crate::error::TrainError;

/// Most cycles of the iterative fit, which is done long before.
const MAX_ITERS: u32 = 1000;

/// What a number may be.
struct Range {
    words: &'static str,
    contains: fn(f32) -> bool,
}

const ANY: Range = Range {
    words: "0 or more, and finite",
    contains: |x| (0.0..=f32::MAX).contains(&x),
};

const SHARES: Range = Range {
    words: "from 0 to 1",
    contains: |x| (0.0..=1.0).contains(&x),
};

const BELOW_1: Range = Range {
    words: "from 0 to below 1",
    contains: |x| (0.0..1.0).contains(&x),
};

/// A gradient of 0 divides by epsilon alone.
const ABOVE_0: Range = Range {
    words: "above 0, and finite",
    contains: |x| x > 0.0 && x <= f32::MAX,
};

/// Above, factors on channels could leave the range of f32.
const EXPONENTS: Range = Range {
    words: "from 0 to 4",
    contains: |x| (0.0..=4.0).contains(&x),
};

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
        if !(1..=MAX_ITERS).contains(&self.initial.iters) {
            let iters = self.initial.iters;
            return bad(format!(
                "{iters} cycles of the fit: 1 to {MAX_ITERS} are possible"
            ));
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
        let exponent = self.initial.exponent;
        let ranges = [
            ("the learning rate of shared weights", o.rates.shared, ANY),
            ("the learning rate of scales", o.rates.scales, ANY),
            ("the learning rate of the rest", o.rates.rest, ANY),
            ("the weight decay", o.decay, ANY),
            ("the limit of the gradient's norm", o.clip, ANY),
            ("the factor on hidden states", self.loss.hidden, ANY),
            ("the factor on the text's loss", self.loss.text, ANY),
            ("the factor on diversity", self.loss.diversity, ANY),
            ("the exponent of importance", exponent, EXPONENTS),
            ("the share of noise", self.noise.rate, SHARES),
            ("the final share of the learning rate", o.final_rate, SHARES),
            ("beta1", o.beta1, BELOW_1),
            ("beta2", o.beta2, BELOW_1),
            ("epsilon", o.eps, ABOVE_0),
        ];
        for (what, value, range) in ranges {
            if !(range.contains)(value) {
                let what = format!("{what} is {value}; it must be {}", range.words);
                return Err(TrainError::Setting(what));
            }
        }
        if self.noise.order > MOST_ORDER {
            let order = self.noise.order;
            let what = format!("noise after {order} tokens: 0 to {MOST_ORDER} are possible");
            return Err(TrainError::Setting(what));
        }
        if !(1..=MOST_SPAN).contains(&self.noise.span) {
            let span = self.noise.span;
            let what = format!("noise of {span} tokens in a row: 1 to {MOST_SPAN} are possible");
            return Err(TrainError::Setting(what));
        }
        match [o.rates.shared, o.rates.scales, o.rates.rest] {
            [0.0, 0.0, 0.0] => Err(TrainError::Setting(
                "all learning rates are 0: nothing would be trained".into(),
            )),
            _ => Ok(()),
        }
    }
}
