//! Tokens that the teacher writes into a batch.
//!
//! Each run of replaced tokens is what the teacher says after the text before it, as far as that
//! has been written: the first tokens of all runs are drawn at once, then their second ones, and
//! so on, in one pass of the teacher each.

use std::ops::Range;

use rand_chacha::rand_core::RngCore;

use super::{Spans, draws};
use crate::corpus::Batch;
use crate::engine::{Engine, EngineError, Program};
use crate::recipe::Noise;

/// The name of the input of [`crate::graphs::writing`] with the draws, −1 where there is none.
pub const DRAWS: &str = "draws";
/// The name of its output with the tokens drawn, −1 where there is no draw.
pub const TOKENS: &str = "tokens";

/// The tokens of a batch that the teacher is to write.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Blanks {
    /// By place in a run: the token of the batch that is before it, and what it is drawn with.
    passes: Vec<Vec<(usize, i32)>>,
}

impl Blanks {
    /// Marks some of those after the tokens `at` of the batch, which are the sequence `number` of
    /// the run.
    pub fn mark(&mut self, noise: &Noise, seed: u64, number: u64, at: Range<usize>) {
        let (mut spans, mut rng) = (Spans::new(noise), draws(seed, number));
        for token in at {
            let Some(place) = spans.next(&mut rng) else {
                continue;
            };
            if self.passes.len() <= place {
                self.passes.resize(place + 1, Vec::new());
            }
            let draw = (rng.next_u64() >> 33) as i32;
            self.passes[place].push((token, draw));
        }
    }

    /// How many they are.
    pub fn tokens(&self) -> usize {
        self.passes.iter().map(Vec::len).sum()
    }

    /// Has the teacher write them, with a program of [`crate::graphs::writing`] for sequences of
    /// `seq_len` tokens.
    ///
    /// # Errors
    /// What the engine refuses.
    pub fn fill(
        &self,
        engine: &mut dyn Engine,
        program: Program,
        batch: &mut Batch,
        seq_len: usize,
    ) -> Result<(), EngineError> {
        for pass in &self.passes {
            let mut draws = vec![-1; batch.ids.len()];
            pass.iter().for_each(|(token, draw)| draws[*token] = *draw);
            let inputs = [
                ("ids", &batch.ids[..]),
                ("positions", &batch.positions),
                (DRAWS, &draws),
            ];
            let outputs = engine.run(program, &inputs)?;
            let missing = || EngineError::new(format!("the engine gave no `{TOKENS}`"));
            let written = outputs.get(TOKENS).ok_or_else(missing)?.ints();
            for (token, _) in pass {
                batch.labels[*token] = written[*token];
                if (token + 1) % seq_len != 0 {
                    batch.ids[token + 1] = written[*token];
                }
            }
        }
        Ok(())
    }
}
