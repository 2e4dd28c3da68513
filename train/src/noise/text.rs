//! Other text out of the text there is.
//!
//! The idea is that of Xie et al., "Data noising as smoothing in neural network language models",
//! arXiv 1703.02573; here tokens are drawn from those that follow the same tokens elsewhere in the
//! text, so that what comes out still resembles it.

use rand_chacha::ChaCha8Rng;

use super::{Spans, draws};
use crate::batches::below;
use crate::corpus::{Corpus, Place};
use crate::recipe::{MOST_ORDER, Noise};

/// Bits of a token in a key.
const BITS: u32 = 21;

/// Makes sequences that differ from those of a corpus at random.
pub struct Noiser {
    noise: Noise,
    seed: u64,
    /// Every place with the tokens before it, nearest first, in the order of these.
    places: Vec<(u64, Place)>,
    /// Where the places after each token begin: by the first part of the key, and the end.
    begins: Vec<usize>,
}

impl Noiser {
    /// For this corpus.
    pub fn new(corpus: &Corpus, noise: Noise, seed: u64) -> Noiser {
        let mut places: Vec<_> = corpus
            .places()
            .map(|p| (key(corpus.before(p)), p))
            .collect();
        places.sort_unstable();
        let mut begins = Vec::new();
        for (i, (key, _)) in places.iter().enumerate() {
            begins.resize(begins.len().max(first(*key) + 1), i);
        }
        begins.push(places.len());
        Noiser {
            noise,
            seed,
            places,
            begins,
        }
    }

    /// `len` tokens of a file from `place` on, with noise that depends on nothing but the seed and
    /// `number`. The first is as it was.
    pub fn sequence(&self, corpus: &Corpus, place: Place, len: usize, number: u64) -> Vec<i32> {
        let (mut spans, mut rng) = (Spans::new(&self.noise), draws(self.seed, number));
        let mut out = corpus.at(place, len).to_vec();
        for i in 0..out.len() {
            if spans.next(&mut rng).is_some() && i > 0 {
                out[i] = corpus.at(self.draw(&mut rng, &out[..i]), 1)[0];
            }
        }
        out
    }

    /// A place at random after the same tokens as `before` ends in: as many of them as are asked
    /// for, fewer if the text has them only once.
    fn draw(&self, rng: &mut ChaCha8Rng, before: &[i32]) -> Place {
        let key = key(before.iter().rev().copied());
        let orders = (1..=self.noise.order.min(before.len())).rev();
        let found = orders.map(|order| self.after(key, order));
        let found = found.into_iter().find(|places| places.len() > 1);
        let places = found.unwrap_or(&self.places);
        places[below(rng, places.len())].1
    }

    /// The places after the first `order` tokens of a key, at least 1.
    fn after(&self, key: u64, order: usize) -> &[(u64, Place)] {
        let begin = |token: usize| self.begins.get(token).copied();
        let (Some(begin), Some(end)) = (begin(first(key)), begin(first(key) + 1)) else {
            return &[];
        };
        let places = &self.places[begin..end];
        if order == 1 {
            return places;
        }
        let rest = (MOST_ORDER - order) as u32 * BITS;
        let (low, size) = (key >> rest << rest, 1u64 << rest);
        let begin = places.partition_point(|(k, _)| *k < low);
        let end = places.partition_point(|(k, _)| *k < low + size);
        &places[begin..end]
    }
}

/// The first part of a key: a token's id and 1, or 0 where there is none.
fn first(key: u64) -> usize {
    (key >> ((MOST_ORDER - 1) as u32 * BITS)) as usize
}

/// The first [`MOST_ORDER`] tokens as one number; where there are fewer, zeros.
fn key(before: impl Iterator<Item = i32>) -> u64 {
    let tokens = before.map(|id| id as u64 + 1).chain(std::iter::repeat(0));
    tokens
        .take(MOST_ORDER)
        .fold(0, |key, id| key << BITS | id & ((1 << BITS) - 1))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    fn corpus(files: &[Vec<i32>]) -> Corpus {
        let names = files.iter().map(|_| PathBuf::from("text")).collect();
        Corpus::of_tokens(files.to_vec(), names)
    }

    /// Files of tokens of which each occurs often.
    fn files() -> impl Strategy<Value = Vec<Vec<i32>>> {
        prop::collection::vec(prop::collection::vec(0i32..5, 40..80), 1..4)
    }

    fn noiser(corpus: &Corpus, rate: f32, order: usize) -> Noiser {
        let noise = Noise {
            rate,
            order,
            ..Noise::default()
        };
        Noiser::new(corpus, noise, 7)
    }

    /// Whether `tokens` stand side by side somewhere in the files.
    fn occurs(files: &[Vec<i32>], tokens: &[i32]) -> bool {
        let mut windows = files.iter().flat_map(|f| f.windows(tokens.len()));
        windows.any(|w| w == tokens)
    }

    proptest! {
        /// Where every token is drawn after the one before it, every pair is one of the text's.
        #[test]
        fn tokens_follow_what_they_are_drawn_after(
            files in files(),
            number in any::<u64>(),
        ) {
            // A token that ends a file and occurs nowhere else has no other after it.
            let mut files = files;
            files.iter_mut().for_each(|f| { let first = f[..2].to_vec(); f.extend(first) });
            let corpus = corpus(&files);
            let start = corpus.places().next().unwrap();
            let out = noiser(&corpus, 1.0, 1).sequence(&corpus, start, 30, number);
            prop_assert_eq!(out.len(), 30);
            for pair in out.windows(2) {
                let often = files.iter().flat_map(|f| &f[..f.len() - 1]);
                if often.filter(|id| **id == pair[0]).count() > 1 {
                    prop_assert!(occurs(&files, pair), "{pair:?}");
                }
            }
        }

        /// A sequence depends on seed, place and number alone; its first token is the text's.
        #[test]
        fn sequences_repeat(files in files(), number in any::<u64>(), order in 0usize..=3) {
            let corpus = corpus(&files);
            let start = corpus.places().nth(3).unwrap();
            let draw = |noiser: &Noiser| noiser.sequence(&corpus, start, 30, number);
            let noiser_ = noiser(&corpus, 0.3, order);
            let first = draw(&noiser_);
            prop_assert_eq!(first[0], files[0][3]);
            draw(&noiser_);
            prop_assert_eq!(&first, &draw(&noiser_));
            prop_assert_eq!(&first, &draw(&noiser(&corpus, 0.3, order)));
        }
    }

    /// Tokens that are replaced are as many as were asked for; all others are the text's.
    #[test]
    fn the_rate_is_that_of_replaced_tokens() {
        // No token occurs twice, so that whatever is drawn is another.
        let corpus = corpus(&[(0..20_000).collect()]);
        let start = corpus.places().next().unwrap();
        let noiser = noiser(&corpus, 0.2, 0);
        let out = noiser.sequence(&corpus, start, 10_000, 1);
        let changed = out.iter().zip(0..).filter(|(id, i)| *id != i).count();
        // Five standard deviations of a binomial count.
        assert!((changed as f64 - 2000.0).abs() < 5.0 * (10_000.0f64 * 0.2 * 0.8).sqrt());
    }

    /// The longest context that the text has twice is used.
    #[test]
    fn contexts_are_as_long_as_they_can_be() {
        // 1 2 is followed by 3 and 4; 2 alone also by 9.
        let text = vec![1, 2, 3, 1, 2, 4, 8, 2, 9];
        let corpus = corpus(&[text]);
        let noiser = noiser(&corpus, 1.0, 3);
        let drawn = |before: &[i32]| -> Vec<i32> {
            let mut rng = ChaCha8Rng::seed_from_u64(1);
            let places = (0..50).map(|_| noiser.draw(&mut rng, before));
            let mut ids: Vec<i32> = places.map(|p| corpus.at(p, 1)[0]).collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        assert_eq!(drawn(&[7, 1, 2]), [3, 4]);
        assert_eq!(drawn(&[1, 2]), [3, 4]);
        assert_eq!(drawn(&[5, 2]), [3, 4, 9]);
        assert_eq!(drawn(&[5]).len(), 6);
    }
}
