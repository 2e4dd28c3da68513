//! The top-p filter, and the draw, without sorting a whole vocabulary.
//!
//! The nucleus is mostly a few dozen of some hundred thousand tokens, so only as much of the order
//! as it needs is worked out, in growing pieces. The result is that of a full sort.

use crate::sampler::Candidate;

/// How many of the highest are ordered first, and how much each further piece grows.
const FIRST_PIECE: usize = 256;
const GROWTH: usize = 8;

/// Keeps the fewest highest candidates whose share of the whole weight reaches `top_p`, highest
/// first; at least one.
pub(crate) fn keep(candidates: &mut Vec<Candidate>, top_p: f64) {
    let total: f64 = candidates.iter().map(|c| c.weight).sum();
    let mut missing = top_p * total;
    let (mut sorted, mut piece) = (0, FIRST_PIECE);
    while sorted < candidates.len() {
        let rest = &mut candidates[sorted..];
        let count = piece.min(rest.len());
        if count < rest.len() {
            rest.select_nth_unstable_by(count, Candidate::rank);
        }
        rest[..count].sort_unstable_by(Candidate::rank);
        for (index, candidate) in rest[..count].iter().enumerate() {
            missing -= candidate.weight;
            if missing <= 0.0 {
                candidates.truncate(sorted + index + 1);
                return;
            }
        }
        sorted += count;
        piece = piece.saturating_mul(GROWTH);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidates(logits: &[f32]) -> Vec<Candidate> {
        let make = |(id, &logit): (u32, &f32)| Candidate {
            logit,
            id,
            weight: f64::from(logit).exp(),
        };
        (0..).zip(logits).map(make).collect()
    }

    fn ids(candidates: &[Candidate]) -> Vec<u32> {
        candidates.iter().map(|c| c.id).collect()
    }

    fn by_full_sort(mut all: Vec<Candidate>, top_p: f64) -> Vec<u32> {
        let mut missing = top_p * all.iter().map(|c| c.weight).sum::<f64>();
        all.sort_by(Candidate::rank);
        let mut kept = Vec::new();
        for candidate in all {
            kept.push(candidate.id);
            missing -= candidate.weight;
            if missing <= 0.0 {
                break;
            }
        }
        kept
    }

    proptest! {
        #[test]
        fn equals_a_full_sort(
            // Steps of a half make ties; up to 5000 candidates take three pieces.
            halves in prop::collection::vec(-12i8..=0, 1..5000),
            top_p in 0.001f64..1.0,
        ) {
            let logits: Vec<f32> = halves.iter().map(|&h| f32::from(h) / 2.0).collect();
            let mut kept = candidates(&logits);
            keep(&mut kept, top_p);
            prop_assert_eq!(ids(&kept), by_full_sort(candidates(&logits), top_p));
        }
    }

    #[test]
    fn the_candidate_that_crosses_the_bound_stays() {
        // Probabilities of a half, a quarter, a quarter.
        let logits = [0.0, 0.5f32.ln(), 0.5f32.ln()];
        for (top_p, count) in [(1e-9, 1), (0.49, 1), (0.51, 2), (0.74, 2), (0.76, 3)] {
            let mut kept = candidates(&logits);
            keep(&mut kept, top_p);
            assert_eq!(ids(&kept), (0..count).collect::<Vec<_>>(), "{top_p}");
        }
    }
}
