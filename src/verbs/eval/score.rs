//! Log likelihood, divergence and agreement, from logits.

use std::sync::Mutex;
use std::sync::PoisonError;

use anyhow::{Result, bail};
use rabitc_runtime::pool::Pool;

/// Sums over predictions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    predictions: usize,
    nll: f64,
    reference_nll: f64,
    kl: f64,
    agreements: usize,
}

/// One prediction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Score {
    /// −log of the target's probability.
    nll: f64,
    reference_nll: f64,
    /// KL(reference ‖ model).
    kl: f64,
    /// Whether both find the same token most probable.
    agrees: bool,
}

impl Totals {
    /// Adds predictions: `logits` and `reference` are `[len(targets), vocab]`. The rows are shared
    /// among the workers of `pool`.
    ///
    /// # Errors
    /// Logits that are not finite.
    pub fn add(
        &mut self,
        pool: &Pool,
        logits: &[f32],
        reference: Option<&[f32]>,
        targets: &[u32],
    ) -> Result<()> {
        let vocab = logits.len() / targets.len().max(1);
        let row = |n: usize| {
            let columns = n * vocab..(n + 1) * vocab;
            let reference = reference.map(|all| &all[columns.clone()]);
            score(&logits[columns.clone()], reference, targets[n] as usize)
        };
        let shares: Vec<_> = (0..pool.threads()).map(|_| Mutex::default()).collect();
        pool.run(&|worker| {
            let scores: Vec<_> = worker.range(targets.len(), 1).map(row).collect();
            *shares[worker.index]
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = scores;
        })?;
        // In the order of the rows, so that the sums do not depend on the number of threads.
        for share in shares {
            let scores: Vec<Option<Score>> = share.into_inner().unwrap_or_default();
            for score in scores {
                match score {
                    Some(score) => self.count(score),
                    None => bail!("the model's logits are not finite"),
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, score: Score) {
        self.predictions += 1;
        self.nll += score.nll;
        self.reference_nll += score.reference_nll;
        self.kl += score.kl;
        self.agreements += usize::from(score.agrees);
    }

    /// Mean negative log likelihood, in nats.
    pub fn nll(&self) -> f64 {
        self.nll / self.predictions as f64
    }

    /// exp of the mean negative log likelihood.
    pub fn perplexity(&self) -> f64 {
        self.nll().exp()
    }

    /// The reference's perplexity.
    pub fn reference_perplexity(&self) -> f64 {
        (self.reference_nll / self.predictions as f64).exp()
    }

    /// Mean KL(reference ‖ model), in nats a token.
    pub fn kl(&self) -> f64 {
        self.kl / self.predictions as f64
    }

    /// Share of predictions whose most probable token is the reference's.
    pub fn top1(&self) -> f64 {
        self.agreements as f64 / self.predictions as f64
    }
}

/// Scores one row of logits; `None` if they are not finite.
fn score(logits: &[f32], reference: Option<&[f32]>, target: usize) -> Option<Score> {
    let (best, normaliser) = normaliser(logits)?;
    let nll = normaliser - f64::from(*logits.get(target)?);
    let Some(reference) = reference else {
        return Some(Score {
            nll,
            ..Score::default()
        });
    };
    let (reference_best, reference_normaliser) = self::normaliser(reference)?;
    let mut kl = 0.0;
    for (&q, &p) in logits.iter().zip(reference) {
        let log_p = f64::from(p) - reference_normaliser;
        let probability = f64::from((log_p as f32).exp());
        // Where p is 0 its logarithm may be −∞, and the term is 0.
        if probability > 0.0 {
            kl += probability * (log_p - (f64::from(q) - normaliser));
        }
    }
    Some(Score {
        nll,
        reference_nll: reference_normaliser - f64::from(reference[target]),
        kl,
        agrees: best == reference_best,
    })
}

/// The index of the highest logit (the first of equals) and log Σ exp(logit); `None` if that is
/// not finite. Terms are computed in f32, sums in f64.
fn normaliser(logits: &[f32]) -> Option<(usize, f64)> {
    let (mut best, mut highest) = (0, f32::NEG_INFINITY);
    for (n, &logit) in logits.iter().enumerate() {
        if logit > highest {
            (best, highest) = (n, logit);
        }
    }
    let sum: f64 = logits.iter().map(|l| f64::from((l - highest).exp())).sum();
    let normaliser = f64::from(highest) + sum.ln();
    normaliser.is_finite().then_some((best, normaliser))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn totals(threads: usize, a: &[f32], b: Option<&[f32]>, targets: &[u32]) -> Result<Totals> {
        let pool = Pool::new(threads).unwrap();
        let mut totals = Totals::default();
        totals.add(&pool, a, b, targets)?;
        Ok(totals)
    }

    #[test]
    fn equal_logits_give_the_vocabulary_as_perplexity() {
        let t = totals(2, &[3.0; 12], None, &[0, 1, 3]).unwrap();
        assert!((t.perplexity() - 4.0).abs() < 1e-6, "{t:?}");
    }

    #[test]
    fn divergence_is_that_of_the_definition() {
        // p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/2); any constant may be added to logits.
        let p = [0.5f32.ln() + 9.0, 0.25f32.ln() + 9.0, 0.25f32.ln() + 9.0];
        let q = [0.25f32.ln(), 0.25f32.ln(), 0.5f32.ln()];
        let t = totals(1, &q, Some(&p), &[0]).unwrap();
        let kl = 0.5 * 2f64.ln() - 0.25 * 2f64.ln();
        assert!((t.kl() - kl).abs() < 1e-6, "{t:?}");
        assert_eq!(t.top1(), 0.0);
        assert!((t.reference_perplexity() - 2.0).abs() < 1e-5, "{t:?}");
        assert!((t.perplexity() - 4.0).abs() < 1e-5, "{t:?}");
    }

    #[test]
    fn excluded_tokens_count_for_nothing_and_nan_is_refused() {
        let excluded = [0.0, f32::NEG_INFINITY];
        let t = totals(1, &[0.0, 0.0], Some(&excluded), &[0]).unwrap();
        assert!((t.kl() - 2f64.ln()).abs() < 1e-6, "{t:?}");
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(totals(1, &[0.0, bad], None, &[0]).is_err(), "{bad}");
        }
        assert!(totals(1, &[f32::NEG_INFINITY; 2], None, &[0]).is_err());
    }

    proptest! {
        #[test]
        fn threads_change_nothing_and_divergence_is_no_less_than_zero(
            rows in 1usize..20,
            values in prop::collection::vec(-20f32..20.0, 2 * 20 * 7),
        ) {
            let (a, b) = (&values[..rows * 7], &values[140..140 + rows * 7]);
            let targets: Vec<u32> = (0..rows as u32).map(|n| n % 7).collect();
            let one = totals(1, a, Some(b), &targets).unwrap();
            prop_assert_eq!(one, totals(3, a, Some(b), &targets).unwrap());
            prop_assert!(one.kl() > -1e-6);
            let same = totals(2, a, Some(a), &targets).unwrap();
            prop_assert!(same.kl().abs() < 1e-6 && same.top1() == 1.0);
        }
    }
}
