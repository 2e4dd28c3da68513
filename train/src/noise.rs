//! Other text out of the text there is.
//!
//! What a teacher says of a sequence is right whatever the sequence, so a student can learn from
//! sequences that nobody wrote. They keep it from learning the text's contexts by heart when the
//! text is read several times. Replacing tokens follows Xie et al., "Data noising as smoothing in
//! neural network language models", arXiv 1703.02573.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::batches::below;
use crate::corpus::{Corpus, Place};
use crate::recipe::{Noise, NoiseKind};

/// Keeps these draws apart from those of the order of the text.
const SEED: u64 = 0x6e6f_6973_655f_7267;

/// Makes sequences that differ from those of a corpus at random.
pub struct Noiser {
    noise: Noise,
    seed: u64,
    /// The places of each token that have another after them, token by token.
    places: Vec<Place>,
    /// Where those of a token begin; one more than there are tokens.
    begins: Vec<usize>,
}

impl Noiser {
    /// For this corpus; nothing if there is no noise.
    pub fn new(corpus: &Corpus, noise: Noise, seed: u64) -> Option<Noiser> {
        if noise.rate == 0.0 {
            return None;
        }
        let followed = || {
            corpus
                .places()
                .filter(|p| corpus.token(p.after()).is_some())
        };
        let id = |place: Place| corpus.token(place).unwrap_or(0) as usize;
        let mut begins = Vec::new();
        for place in followed() {
            let id = id(place);
            if begins.len() < id + 2 {
                begins.resize(id + 2, 0);
            }
            begins[id + 1] += 1;
        }
        for i in 1..begins.len() {
            begins[i] += begins[i - 1];
        }
        let (mut next, mut places) = (begins.clone(), vec![Place::default(); followed().count()]);
        for place in followed() {
            places[next[id(place)]] = place;
            next[id(place)] += 1;
        }
        Some(Noiser {
            noise,
            seed,
            places,
            begins,
        })
    }

    /// The sequence of `len` tokens that begins at `place`, with noise that depends on nothing but
    /// the seed and `number`.
    pub fn sequence(&self, corpus: &Corpus, place: Place, len: usize, number: u64) -> Vec<i32> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ SEED);
        rng.set_stream(number);
        let mut place = place;
        let mut out: Vec<i32> = Vec::with_capacity(len);
        for _ in 0..len {
            let drawn = self.draw(&mut rng, out.last().copied());
            let other = drawn.or_else(|| match corpus.token(place) {
                Some(_) => None,
                // Behind the end of a file, where a jump may have led.
                None => self.any(&mut rng),
            });
            if let Some(other) = other {
                if self.noise.kind == NoiseKind::Splice {
                    place = other;
                }
                out.push(corpus.token(other).unwrap_or(0));
            } else {
                out.push(corpus.token(place).unwrap_or(0));
            }
            place = place.after();
        }
        out
    }

    /// The place to take a token from in place of the next, if the dice say so.
    fn draw(&self, rng: &mut ChaCha8Rng, last: Option<i32>) -> Option<Place> {
        let share = (rng.next_u64() >> 40) as f32 / (1u64 << 24) as f32;
        if share >= self.noise.rate {
            return None;
        }
        match self.noise.kind {
            NoiseKind::Unigram => self.any(rng),
            NoiseKind::Bigram | NoiseKind::Splice => {
                let last = usize::try_from(last?).ok()?;
                let begin = *self.begins.get(last)?;
                let count = self.begins.get(last + 1)? - begin;
                (count > 0).then(|| self.places[begin + below(rng, count)].after())
            }
        }
    }

    fn any(&self, rng: &mut ChaCha8Rng) -> Option<Place> {
        let count = self.places.len();
        (count > 0).then(|| self.places[below(rng, count)])
    }
}
