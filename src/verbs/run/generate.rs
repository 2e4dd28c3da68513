//! The loop that reads a prompt and generates token after token.

use std::time::{Duration, Instant};

use anyhow::Result;
use rabitc_runtime::Session;
use rabitc_runtime::sampler::Sampler;
use serde::Serialize;

use super::report::Sink;
use crate::ui::{self, Unit};

/// When generation stops.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The most tokens, at least 1.
    pub max_tokens: usize,
    /// Tokens that end the text.
    pub eos: Vec<u32>,
    /// Whether the most probable token is always taken.
    pub greedy: bool,
}

/// Tokens that a device chooses before they are shown.
const AHEAD: usize = 16;

/// Why generation stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// The model ended the text.
    Eos,
    /// The number of tokens asked for was reached.
    Length,
    /// The context has no room for another token.
    Context,
}

/// What was generated, and how fast.
#[derive(Clone, Debug)]
pub struct Generation {
    /// The tokens, one that ended the text included.
    pub ids: Vec<u32>,
    /// Why there are no more.
    pub finish: Finish,
    /// Tokens that were read, and how long that took.
    pub prompt: Timed,
    /// Tokens that were generated one by one after the first, and how long that took.
    pub steps: Timed,
}

/// A number of tokens and the time they took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timed {
    /// Tokens.
    pub tokens: usize,
    /// Time.
    pub time: Duration,
}

impl Timed {
    /// Tokens a second, if there were any.
    pub fn rate(&self) -> Option<f64> {
        let seconds = self.time.as_secs_f64();
        (self.tokens > 0 && seconds > 0.0).then(|| self.tokens as f64 / seconds)
    }

    /// Both together.
    pub fn plus(self, other: Timed) -> Timed {
        Timed {
            tokens: self.tokens + other.tokens,
            time: self.time + other.time,
        }
    }
}

/// Reads `prompt` (all that the session has not read yet; not empty) and generates after it.
/// Every token goes to `sink` as it comes, one that ends the text excepted.
pub fn generate(
    session: &mut Session,
    sampler: &mut Sampler,
    prompt: &[u32],
    limits: &Limits,
    sink: &mut Sink<'_>,
) -> Result<Generation> {
    let start = Instant::now();
    let mut next = sampler.sample(read(session, prompt)?)?;
    let prompt = Timed {
        tokens: prompt.len(),
        time: start.elapsed(),
    };
    let (start, mut ids) = (Instant::now(), Vec::new());
    let mut ahead = Ahead::default();
    let finish = loop {
        ids.push(next);
        if limits.eos.contains(&next) {
            break Finish::Eos;
        }
        sink.push(next)?;
        if ids.len() >= limits.max_tokens {
            break Finish::Length;
        }
        if ahead.is_empty() && session.position() == session.context() {
            break Finish::Context;
        }
        let wanted = limits.max_tokens - ids.len();
        next = ahead.next(session, sampler, next, wanted, limits.greedy)?;
    };
    ahead.forget(session);
    let steps = Timed {
        tokens: ids.len() - 1,
        time: start.elapsed(),
    };
    Ok(Generation {
        ids,
        finish,
        prompt,
        steps,
    })
}

/// Tokens that a device chose before they were asked for.
#[derive(Default)]
struct Ahead {
    chosen: std::collections::VecDeque<u32>,
}

impl Ahead {
    fn is_empty(&self) -> bool {
        self.chosen.is_empty()
    }

    /// The token after `id`, of which at most `wanted` are still wanted; the most probable one if
    /// `greedy`, else as the sampler says.
    fn next(
        &mut self,
        session: &mut Session,
        sampler: &mut Sampler,
        id: u32,
        wanted: usize,
        greedy: bool,
    ) -> Result<u32> {
        if self.chosen.is_empty() {
            let room = session.context() - session.position();
            let count = AHEAD.min(wanted).min(room);
            let chosen = match greedy {
                true => session.greedy(id, count),
                false => session.sample(id, count, sampler),
            };
            match chosen {
                Some(chosen) => self.chosen.extend(chosen?),
                None => return Ok(sampler.sample(session.step(&[id], &[0])?)?),
            }
        }
        let next = self.chosen.pop_front().unwrap_or(id);
        sampler.accept(next)?;
        Ok(next)
    }

    /// Takes back what the session has read of tokens that nobody asked for.
    fn forget(&self, session: &mut Session) {
        session.rewind(session.position() - self.chosen.len());
    }
}

/// Reads a prompt and gives the logits of its last token.
fn read<'a>(session: &'a mut Session, prompt: &[u32]) -> Result<&'a [f32]> {
    let bar = ui::progress(prompt.len() as u64, Unit::Items, "reading the prompt");
    let logits = session.read(prompt, &mut |tokens| bar.inc(tokens as u64))?;
    bar.finish_and_clear();
    Ok(logits)
}
