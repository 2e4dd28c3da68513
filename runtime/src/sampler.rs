//! From the logits of one position to the next token.
//!
//! The steps, in this order (that of Hugging Face `transformers`):
//! 1. repetition penalty on the tokens seen: positive logits divided by it, negative multiplied;
//! 2. temperature 0: the highest logit wins, and nothing below happens. Else logits divided by it;
//! 3. top-k: the `top_k` highest stay;
//! 4. top-p: of those, the fewest highest whose probabilities reach `top_p` together;
//! 5. min-p: of those, the ones at least `min_p` times as probable as the highest;
//! 6. one drawn by probability: the first, from the highest down, at which the probabilities reach
//!    a random share of those that stayed.
//!
//! Equal logits rank by token id, the lowest first, everywhere; so greedy choice, top-k of 1 and
//! a seeded draw give the same token on every run. Draw n of a seed takes the n-th pair of words of
//! its stream (see [`Sampler::draws`]), so that a device that draws by the same definition gives the
//! same tokens.

use crate::error::Error;
use crate::nucleus;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::cmp::Ordering;

/// How tokens are chosen. The default is greedy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Divides the logits; 0 chooses the most probable token always. Finite, 0 or more.
    pub temperature: f32,
    /// Keeps this many of the most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the most probable tokens that reach this probability together; 1 keeps all.
    /// Above 0, at most 1.
    pub top_p: f32,
    /// Keeps tokens at least this many times as probable as the most probable one; 0 keeps all.
    /// 0 to 1.
    pub min_p: f32,
    /// Makes tokens seen before less probable (above 1) or more (below 1). Finite, above 0.
    pub repetition_penalty: f32,
    /// Where the random numbers start: equal seeds, options and logits give equal tokens.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> SamplerOptions {
        SamplerOptions {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

impl SamplerOptions {
    /// Checks each option against its range.
    ///
    /// # Errors
    /// The first one outside it, by name and value.
    pub fn validate(&self) -> Result<(), Error> {
        let check = |parameter, value: f32, valid: bool, expected| match valid {
            true => Ok(()),
            false => Err(Error::SamplingParameter {
                parameter,
                value,
                expected,
            }),
        };
        let (t, r) = (self.temperature, self.repetition_penalty);
        let within = |value: f32| (0.0..=1.0).contains(&value);
        check(
            "temperature",
            t,
            t.is_finite() && t >= 0.0,
            "finite and 0 or more",
        )?;
        let top_p = within(self.top_p) && self.top_p > 0.0;
        check("top_p", self.top_p, top_p, "above 0 and at most 1")?;
        check("min_p", self.min_p, within(self.min_p), "0 to 1")?;
        let penalty = r.is_finite() && r > 0.0;
        check("repetition_penalty", r, penalty, "finite and above 0")
    }
}

/// A token that may be drawn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// The logit, penalty included.
    pub logit: f32,
    /// The token.
    pub id: u32,
    /// The probability, times a factor common to all candidates that makes the highest 1.
    pub weight: f64,
}

impl Candidate {
    /// The most probable first, then the lowest id. Logits are never NaN here.
    pub fn rank(&self, other: &Candidate) -> Ordering {
        // Not `total_cmp`, for which 0 outranks −0.
        let by_logit = other.logit.partial_cmp(&self.logit);
        by_logit
            .unwrap_or(Ordering::Equal)
            .then(self.id.cmp(&other.id))
    }
}

/// Chooses tokens; remembers the random state and which tokens were seen. Choosing allocates
/// nothing.
#[derive(Debug)]
pub struct Sampler {
    options: SamplerOptions,
    rng: ChaCha8Rng,
    candidates: Vec<Candidate>,
    seen: Vec<bool>,
}

impl Sampler {
    /// A sampler for logits of `vocab` tokens.
    ///
    /// # Errors
    /// An option outside its range, or no memory for the vocabulary.
    pub fn new(options: SamplerOptions, vocab: usize) -> Result<Sampler, Error> {
        options.validate()?;
        let (mut candidates, mut seen) = (Vec::new(), Vec::new());
        let no_room = |_| Error::Allocate {
            what: "sampling candidates",
            elements: vocab,
        };
        candidates.try_reserve_exact(vocab).map_err(no_room)?;
        seen.try_reserve_exact(vocab).map_err(no_room)?;
        seen.resize(vocab, false);
        Ok(Sampler {
            options,
            rng: rng(options.seed),
            candidates,
            seen,
        })
    }

    /// The options in force.
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// Counts tokens (those of a prompt) as seen, for the repetition penalty. Tokens that
    /// [`Sampler::sample`] returned are counted already.
    ///
    /// # Errors
    /// An id outside the vocabulary; none of the tokens is counted then.
    pub fn observe(&mut self, ids: &[u32]) -> Result<(), Error> {
        let vocab = self.seen.len();
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(Error::TokenOutOfRange { id, vocab });
        }
        ids.iter().for_each(|&id| self.seen[id as usize] = true);
        Ok(())
    }

    /// Which tokens count as seen, by id.
    pub fn seen(&self) -> &[bool] {
        &self.seen
    }

    /// Whether tokens are drawn at random, not always the most probable one.
    pub fn is_random(&self) -> bool {
        self.options.temperature > 0.0 && self.options.top_k != 1
    }

    /// How many tokens were drawn so far. The next draw takes words 2n and 2n + 1, the lower half
    /// first, of the stream of ChaCha with 8 rounds whose key is the seed in its first 8 bytes,
    /// little-endian, and 0 in the others; its upper 53 bits are the random share.
    pub fn draws(&self) -> u64 {
        // Fewer than 2⁶⁴ draws happen.
        (self.rng.get_word_pos() / 2) as u64
    }

    /// Takes over a token that was chosen elsewhere by this sampler's options, seed and
    /// [`Sampler::draws`]: it counts as seen, and its draw as made.
    ///
    /// # Errors
    /// An id outside the vocabulary.
    pub fn accept(&mut self, id: u32) -> Result<(), Error> {
        self.observe(&[id])?;
        if self.is_random() {
            self.rng.set_word_pos(self.rng.get_word_pos() + 2);
        }
        Ok(())
    }

    /// Forgets the tokens seen and starts the random numbers anew.
    pub fn reset(&mut self) {
        self.rng = rng(self.options.seed);
        self.seen.fill(false);
    }

    /// Chooses the next token and counts it as seen. A logit of −∞ excludes its token.
    ///
    /// # Errors
    /// Logits of another count than the vocabulary, a NaN or +∞ among them, or −∞ for all.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, Error> {
        if logits.len() != self.seen.len() {
            let (got, vocab) = (logits.len(), self.seen.len());
            return Err(refused(format!(
                "{got} logits for a vocabulary of {vocab} tokens"
            )));
        }
        let (best_id, best) = self.best(logits)?;
        let id = if self.is_random() {
            self.collect(logits);
            self.draw(best)
        } else {
            best_id
        };
        self.seen[id as usize] = true;
        Ok(id)
    }

    /// The token that greedy choice takes, and its logit after the penalty.
    fn best(&self, logits: &[f32]) -> Result<(u32, f32), Error> {
        let (mut best_id, mut best) = (None, f32::NEG_INFINITY);
        for (id, &logit) in (0..).zip(logits) {
            if logit.is_nan() || logit == f32::INFINITY {
                return Err(refused(format!("the logit of token {id} is {logit}")));
            }
            let logit = self.penalised(id, logit);
            if logit > best {
                (best_id, best) = (Some(id), logit);
            }
        }
        let best_id = best_id.ok_or_else(|| refused("every logit is -inf".to_owned()))?;
        Ok((best_id, best))
    }

    /// Makes candidates, in id order, of all tokens whose logit is not −∞.
    fn collect(&mut self, logits: &[f32]) {
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        let all = (0..).zip(logits).map(|(id, &logit)| Candidate {
            logit: self.penalised(id, logit),
            id,
            weight: 0.0,
        });
        candidates.extend(all.filter(|candidate| candidate.logit > f32::NEG_INFINITY));
        self.candidates = candidates;
    }

    /// The logit of a token, penalised if it was seen. A penalty below 1 does not raise it to +∞.
    fn penalised(&self, id: u32, logit: f32) -> f32 {
        let penalty = self.options.repetition_penalty;
        match self.seen[id as usize] {
            false => logit,
            true if logit < 0.0 => logit * penalty,
            true => (logit / penalty).min(f32::MAX),
        }
    }

    /// Filters the candidates and draws one; `best` is the highest logit.
    fn draw(&mut self, best: f32) -> u32 {
        let SamplerOptions {
            temperature,
            top_k,
            top_p,
            min_p,
            ..
        } = self.options;
        let candidates = &mut self.candidates;
        if top_k > 0 && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k, Candidate::rank);
            candidates.truncate(top_k);
            // Selection leaves an order that is not specified; the draw needs one that is.
            candidates.sort_unstable_by(Candidate::rank);
        }
        for candidate in candidates.iter_mut() {
            candidate.weight = f64::from((candidate.logit - best) / temperature).exp();
        }
        if top_p < 1.0 {
            nucleus::keep(candidates, f64::from(top_p));
        }
        if min_p > 0.0 {
            candidates.retain(|candidate| candidate.weight >= f64::from(min_p));
        }
        nucleus::keep(candidates, uniform(&mut self.rng));
        // Rounding may let the search run past the last candidate that has any weight.
        let drawn = candidates.iter().rev().find(|c| c.weight > 0.0);
        drawn.map_or(0, |candidate| candidate.id)
    }
}

/// The generator of a seed, spelled out so that no library update changes a seed's meaning.
fn rng(seed: u64) -> ChaCha8Rng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    ChaCha8Rng::from_seed(bytes)
}

/// A number in [0, 1), of 53 random bits.
fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

fn refused(reason: String) -> Error {
    Error::Logits { reason }
}

#[cfg(test)]
#[path = "sampler_tests.rs"]
mod tests;
