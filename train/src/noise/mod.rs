//! Sequences that nobody wrote.
//!
//! What a teacher says of a sequence is right whatever the sequence, so a student can learn from
//! sequences that differ from the text. They keep it from learning contexts by heart where a short
//! text is read many times. Runs of tokens are replaced: by tokens that stand after the same tokens
//! elsewhere in the [`text`], or by what the [`teacher`] says instead.
//!
//! What is replaced depends on nothing but the seed and the sequence's place in the run, so that
//! going on needs no state.

pub mod teacher;
pub mod text;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::recipe::Noise;

/// Keeps these draws apart from those of the order of the text.
const SEED: u64 = 0x6e6f_6973_655f_7267;

/// The draws of sequence `number`.
fn draws(seed: u64, number: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ SEED);
    rng.set_stream(number);
    rng
}

/// Goes over the tokens of a sequence and says which are replaced.
struct Spans {
    /// The probability that a run begins at a token that is in none.
    begin: f32,
    span: usize,
    /// Tokens of the run under way that are done; 0 for no run.
    done: usize,
}

impl Spans {
    /// Runs of `noise.span` tokens that take up a share of `noise.rate` of a long sequence.
    ///
    /// With probability q that a run of n begins, (1 − q) / q tokens lie between two on average:
    /// the share is n / (n + (1 − q) / q), which is solved for q.
    fn new(noise: &Noise) -> Spans {
        let (share, n) = (f64::from(noise.rate), noise.span as f64);
        Spans {
            begin: (share / (share + n * (1.0 - share))) as f32,
            span: noise.span,
            done: 0,
        }
    }

    /// Whether the next token is replaced: how many before it are, of the same run.
    fn next(&mut self, rng: &mut ChaCha8Rng) -> Option<usize> {
        if (1..self.span).contains(&self.done) {
            self.done += 1;
            return Some(self.done - 1);
        }
        let share = (rng.next_u64() >> 40) as f32 / (1u64 << 24) as f32;
        self.done = usize::from(share < self.begin);
        (self.done == 1).then_some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(rate: f32, span: usize) -> Noise {
        Noise {
            rate,
            span,
            ..Noise::default()
        }
    }

    /// As many tokens are replaced as were asked for, in runs of the length asked for.
    #[test]
    fn the_rate_is_that_of_replaced_tokens() {
        const TOKENS: usize = 200_000;
        for (share, span) in [(0.1, 1), (0.3, 4), (0.5, 7), (0.9, 2)] {
            let (mut spans, mut rng) = (Spans::new(&noise(share, span)), draws(1, 2));
            let places: Vec<_> = (0..TOKENS).map(|_| spans.next(&mut rng)).collect();
            let replaced = places.iter().flatten().count() as f64 / TOKENS as f64;
            // Five standard deviations were all tokens of a run one draw.
            let share = f64::from(share);
            let deviation = (share * (1.0 - share) * span as f64 / TOKENS as f64).sqrt();
            assert!((replaced - share).abs() < 5.0 * deviation, "{replaced}");
            for pair in places.windows(2) {
                match pair[0] {
                    Some(place) if place + 1 < span => assert_eq!(pair[1], Some(place + 1)),
                    _ => assert!(matches!(pair[1], None | Some(0))),
                }
            }
        }
    }

    #[test]
    fn everything_can_be_replaced() {
        let (mut spans, mut rng) = (Spans::new(&noise(1.0, 3)), draws(1, 2));
        let places: Vec<_> = (0..6).map(|_| spans.next(&mut rng)).collect();
        assert_eq!(places, [0, 1, 2, 0, 1, 2].map(Some));
    }
}
