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
}

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
    let finish = loop {
        ids.push(next);
        if limits.eos.contains(&next) {
            break Finish::Eos;
        }
        sink.push(next)?;
        if ids.len() >= limits.max_tokens {
            break Finish::Length;
        }
        if session.position() == session.context() {
            break Finish::Context;
        }
        next = sampler.sample(session.step(&[next], &[0])?)?;
    };
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

/// Reads a prompt and gives the logits of its last token.
fn read<'a>(session: &'a mut Session, prompt: &[u32]) -> Result<&'a [f32]> {
    let bar = ui::progress(prompt.len() as u64, Unit::Items, "reading the prompt");
    let logits = session.read(prompt, &mut |tokens| bar.inc(tokens as u64))?;
    bar.finish_and_clear();
    Ok(logits)
}
