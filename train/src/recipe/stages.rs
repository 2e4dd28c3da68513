//! The stages of a run, and the learning rates along them.

use super::{Method, Recipe};

/// A part of a run in which the same weights train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Binary paths that the student has.
    pub paths: usize,
    /// Leading paths that do not train.
    pub frozen: usize,
    /// Updates before this stage.
    pub begin: u64,
    /// Updates at its end.
    pub end: u64,
}

impl Recipe {
    /// The stages, in order: one, or for [`Method::Frozen`] one a path, of equal length.
    pub fn stages(&self) -> Vec<Stage> {
        let (paths, steps) = (self.paths, self.steps);
        match self.method {
            Method::Rabit | Method::Independent => vec![Stage {
                paths,
                frozen: 0,
                begin: 0,
                end: steps,
            }],
            Method::Frozen => (0..paths)
                .map(|i| Stage {
                    paths: i + 1,
                    frozen: i,
                    begin: share(steps, i, paths),
                    end: share(steps, i + 1, paths),
                })
                .collect(),
        }
    }

    /// The factor on the learning rates for update `step`, counted from 1, of `stage`: a linear
    /// rise over the warm-up, then half a cosine that would reach the final share one update after
    /// the last.
    pub fn rate(&self, stage: &Stage, step: u64) -> f32 {
        let (done, total) = (
            (step - stage.begin) as f64,
            (stage.end - stage.begin) as f64,
        );
        let warmup = (self.optimizer.warmup as f64).min(total);
        if done <= warmup && warmup > 0.0 {
            return (done / warmup) as f32;
        }
        let along = (done - warmup) / (total - warmup + 1.0);
        let low = f64::from(self.optimizer.final_rate);
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * along).cos());
        (low + (1.0 - low) * cosine) as f32
    }
}

/// `part` of `parts` of `steps`, without overflow.
fn share(steps: u64, part: usize, parts: usize) -> u64 {
    (u128::from(steps) * part as u128 / parts as u128) as u64
}
