//! The measurements: prompt and generation, interleaved with the machine's bandwidth.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use rabitc_runtime::Session;
use rabitc_runtime::pool::Pool;
use rabitc_runtime::sampler::{Sampler, SamplerOptions};

use crate::bandwidth::Bandwidth;
use crate::ui::{self, Unit};

/// Tokens of the warm-up.
const WARM_UP: usize = 4;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Tokens of the prompt; 0 for no such test.
    pub prompt: usize,
    /// Tokens to generate; 0 for no such test.
    pub generate: usize,
    /// Positions in the context before each test.
    pub depth: usize,
    /// Repetitions, at least 1.
    pub repetitions: usize,
}

/// What came out, one number a repetition.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// Prompt tokens a second.
    pub prompt: Vec<f64>,
    /// Generated tokens a second.
    pub generate: Vec<f64>,
    /// Bytes read a second, one number more.
    pub bandwidth: Vec<f64>,
}

/// Runs the tests in `session`, which has room for what `plan` needs.
pub fn measure(session: &mut Session, pool: &Arc<Pool>, plan: &Plan) -> Result<Samples> {
    let model = Arc::clone(session.model());
    let vocab = model.manifest().model.vocab_size;
    let mut sampler = Sampler::new(SamplerOptions::default(), vocab)?;
    let ids = token_ids(session.context(), vocab);
    warm_up(session, &ids, plan)?;
    let bandwidth = match session.device_bandwidth() {
        Some(_) => None,
        None => Some(Bandwidth::new(pool)?),
    };
    let read_bandwidth = |session: &Session| -> Result<f64> {
        match (&bandwidth, session.device_bandwidth()) {
            (Some(bandwidth), _) => bandwidth.measure(),
            (None, measured) => Ok(measured.transpose()?.unwrap_or(f64::NAN)),
        }
    };
    let mut samples = Samples::default();
    let bar = ui::progress(plan.repetitions as u64, Unit::Items, "measuring");
    samples.bandwidth.push(read_bandwidth(session)?);
    for _ in 0..plan.repetitions {
        if plan.prompt > 0 {
            let seconds = read(session, plan.depth, &ids[..plan.prompt])?;
            samples.prompt.push(plan.prompt as f64 / seconds);
        }
        if plan.generate > 0 {
            let seconds = generate(session, &mut sampler, plan, ids[0])?;
            samples.generate.push(plan.generate as f64 / seconds);
        }
        samples.bandwidth.push(read_bandwidth(session)?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(samples)
}

/// Fills the context up to the depth, and brings weights, code and buffers into memory.
fn warm_up(session: &mut Session, ids: &[u32], plan: &Plan) -> Result<()> {
    if plan.depth > 0 {
        let bar = ui::progress(plan.depth as u64, Unit::Items, "filling the context");
        session.read(&ids[..plan.depth], &mut |tokens| bar.inc(tokens as u64))?;
        bar.finish_and_clear();
    }
    if plan.prompt > 0 {
        let most = session.max_tokens().min(plan.prompt);
        session.read(&ids[..most], &mut |_| {})?;
        session.rewind(plan.depth);
    }
    for id in ids.iter().take(plan.generate.min(WARM_UP)) {
        session.step(&[*id], &[0])?;
    }
    Ok(())
}

/// Seconds to read `ids` at a depth.
fn read(session: &mut Session, depth: usize, ids: &[u32]) -> Result<f64> {
    session.rewind(depth);
    let start = Instant::now();
    session.read(ids, &mut |_| {})?;
    Ok(start.elapsed().as_secs_f64())
}

/// Seconds to generate tokens at a depth, beginning with `first`.
fn generate(session: &mut Session, sampler: &mut Sampler, plan: &Plan, first: u32) -> Result<f64> {
    session.rewind(plan.depth);
    let (start, mut id) = (Instant::now(), first);
    let mut left = plan.generate;
    while left > 0 {
        // Where the device chooses tokens itself, that is the speed of generating them.
        match session.greedy(id, left) {
            Some(chosen) => {
                let chosen = chosen?;
                left -= chosen.len();
                id = chosen.last().copied().unwrap_or(id);
                continue;
            }
            None => left -= 1,
        }
        id = sampler.sample(session.step(&[id], &[0])?)?;
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Token ids all over the vocabulary, the same on every run.
fn token_ids(count: usize, vocab: usize) -> Vec<u32> {
    let mut state = 1u64;
    let next = |_| {
        // Knuth's generator, whose upper bits are good enough for this.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % vocab.max(1) as u64) as u32
    };
    (0..count).map(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_in_the_vocabulary_and_spread() {
        let ids = token_ids(1000, 50);
        assert!(ids.iter().all(|id| *id < 50));
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), 50);
        assert_eq!(ids, token_ids(1000, 50));
    }
}
