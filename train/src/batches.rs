//! The order in which a run reads its text.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::corpus::{Batch, Corpus, Window};
use crate::error::TrainError;
use crate::noise::teacher::Blanks;
use crate::noise::text::Noiser;
use crate::recipe::{Noise, NoiseSource};

/// How far a run has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Times that the whole text has been read.
    pub epoch: u64,
    /// Sequences read since then.
    pub sequence: usize,
}

/// Sequences of a corpus in a random order that depends on nothing but the seed.
///
/// Each time through the text, sequences begin at another offset and come in another order, so
/// that the same tokens are seen in other surroundings.
pub struct Batches<'a> {
    corpus: &'a Corpus,
    seq_len: usize,
    seed: u64,
    position: Position,
    /// The sequences of the present epoch, in order.
    order: Vec<Window>,
    noise: Noise,
    /// Makes the noise, if it comes from the text.
    noiser: Option<Noiser>,
}

impl<'a> Batches<'a> {
    /// Goes on from `position`.
    ///
    /// # Errors
    /// A corpus that does not fill one batch of `batch` sequences.
    pub fn new(
        corpus: &'a Corpus,
        seq_len: usize,
        batch: usize,
        seed: u64,
        noise: Noise,
        position: Position,
    ) -> Result<Self, TrainError> {
        corpus.at_least(seq_len, batch)?;
        let order = order(corpus, seq_len, seed, position.epoch);
        let of_text = noise.rate > 0.0 && noise.from == NoiseSource::Text;
        Ok(Batches {
            corpus,
            seq_len,
            seed,
            position,
            order,
            noise,
            noiser: of_text.then(|| Noiser::new(corpus, noise, seed)),
        })
    }

    /// How far the text has been read.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The next `count` sequences, and what the teacher is to write in them. The last ones of an
    /// epoch may be followed by the first ones of the next.
    pub fn next(&mut self, count: usize) -> (Batch, Blanks) {
        let (mut batch, mut blanks) = (Batch::default(), Blanks::default());
        let (corpus, len) = (self.corpus, self.seq_len);
        for before in (0..count).map(|n| n * len) {
            let (window, number) = self.window();
            let place = window.place();
            if let Some(noiser) = &self.noiser {
                batch.push(&noiser.sequence(corpus, place, len + 1, number));
                continue;
            }
            batch.push(corpus.at(place, len + 1));
            if self.noise.by_teacher() {
                let at = before..before + len;
                blanks.mark(&self.noise, self.seed, number, at);
            }
        }
        (batch, blanks)
    }

    /// The next sequence, and its number in the run.
    fn window(&mut self) -> (Window, u64) {
        if self.position.sequence >= self.order.len() {
            self.position.epoch += 1;
            self.position.sequence = 0;
            self.order = order(self.corpus, self.seq_len, self.seed, self.position.epoch);
        }
        let Position { epoch, sequence } = self.position;
        self.position.sequence += 1;
        (self.order[sequence], epoch << 32 | sequence as u64)
    }
}

/// The sequences of one epoch in their order. Never empty: an offset that left no sequence is 0.
fn order(corpus: &Corpus, seq_len: usize, seed: u64, epoch: u64) -> Vec<Window> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(epoch);
    let offset = below(&mut rng, seq_len);
    let mut windows = corpus.windows(seq_len, offset);
    if windows.is_empty() {
        windows = corpus.windows(seq_len, 0);
    }
    for last in (1..windows.len()).rev() {
        let other = below(&mut rng, last + 1);
        windows.swap(last, other);
    }
    windows
}

/// A number below `n`. The remainder's bias is below n / 2⁶⁴.
pub(crate) fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    (rng.next_u64() % n as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;

    fn corpus(lens: &[usize]) -> Corpus {
        let mut next = 0;
        let files = lens.iter().map(|len| {
            next += 1000;
            (next..next + *len as i32).collect()
        });
        let files: Vec<Vec<i32>> = files.collect();
        let names = files.iter().map(|_| PathBuf::from("text")).collect();
        Corpus::of_tokens(files, names)
    }

    #[test]
    fn text_that_fills_no_batch_is_refused() {
        let corpus = corpus(&[40, 9]);
        let start = Position::default();
        assert!(Batches::new(&corpus, 8, 5, 0, Noise::default(), start).is_ok());
        let error = Batches::new(&corpus, 8, 6, 0, Noise::default(), start)
            .err()
            .unwrap();
        let expected = "text, text: 49 tokens make 5 sequences of 8, but 6 are needed";
        assert!(error.to_string().starts_with(expected), "{error}");
    }

    proptest! {
        /// Whatever was read before, going on from a position gives the same sequences; each is
        /// a stretch of one file with its labels one token further on.
        #[test]
        fn going_on_changes_nothing(
            lens in prop::collection::vec(20usize..90, 1..4),
            seed in any::<u64>(),
            skip in 0usize..30,
            batch in 1usize..4,
        ) {
            let corpus = corpus(&lens);
            let start = Position::default();
            let mut whole = Batches::new(&corpus, 5, batch, seed, Noise::default(), start).unwrap();
            for _ in 0..skip {
                whole.next(batch);
            }
            let mut rest = Batches::new(&corpus, 5, batch, seed, Noise::default(), whole.position()).unwrap();
            for _ in 0..8 {
                let (found, _) = rest.next(batch);
                prop_assert_eq!(&found, &whole.next(batch).0);
                for (ids, labels) in found.ids.chunks(5).zip(found.labels.chunks(5)) {
                    for (i, (id, label)) in ids.iter().zip(labels).enumerate() {
                        prop_assert_eq!(*id, ids[0] + i as i32);
                        prop_assert_eq!(*label, id + 1);
                    }
                }
            }
        }

        /// No token is read twice in an epoch.
        #[test]
        fn an_epoch_reads_no_token_twice(len in 20usize..200, seed in any::<u64>(), epoch in 0u64..4) {
            let corpus = corpus(&[len]);
            let windows = order(&corpus, 7, seed, epoch);
            let ids: HashSet<_> = windows.iter().flat_map(|w| corpus.ids(*w, 7)).collect();
            prop_assert_eq!(ids.len(), windows.len() * 7);
            prop_assert!(windows.len() + 1 >= (len - 1) / 7);
        }
    }
}
