//! Whether the device draws the tokens that the processor's sampler draws.
//!
//! Both get the same made-up logits: ordinary ones, many equal ones, excluded tokens, one far above
//! the others. Draws are a matter of whole sequences, so equal tokens are what is asked for; that
//! the tokens drawn have the frequencies they should have is a test of its own.

use anyhow::{Result, bail};
use rabitc_runtime::Session;
use rabitc_runtime::sampler::{Sampler, SamplerOptions};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Check;

/// Draws of every combination of logits and options.
const DRAWS: usize = 32;
/// Draws whose frequencies are counted, and tokens that they are drawn from.
const COUNTED: usize = 20_000;
const TOKENS: usize = 12;
/// Standard deviations that a sum of squares may be off.
const DEVIATIONS: f64 = 8.0;

/// Checks the device's sampler; nothing on the processor.
///
/// # Errors
/// A device that was lost, or that draws from logits that must be refused.
pub fn checks(session: &mut Session, progress: &mut dyn FnMut(&str)) -> Result<Vec<Check>> {
    let model = session.model().clone();
    let Some(kernel) = model.gpu_sampler() else {
        return Ok(Vec::new());
    };
    let vocab = model.manifest().model.vocab_size;
    let mut checks = Vec::new();
    for (what, options) in options(vocab) {
        progress(what);
        let mut differ = 0;
        for logits in kinds(vocab) {
            differ += differing(session, &logits, options)?;
        }
        let worst = if differ == 0 { 0.0 } else { f64::INFINITY };
        checks.push(check(kernel, what, DRAWS, differ as f64, worst));
    }
    let (squares, bound) = frequencies(session, vocab)?;
    let worst = squares / bound;
    checks.push(check(kernel, "frequencies", COUNTED, squares, worst));
    refuses(session, vocab)?;
    Ok(checks)
}

fn check(kernel: &str, what: &str, draws: usize, max_error: f64, worst: f64) -> Check {
    Check {
        kernels: vec![format!("{kernel} ({what})")],
        program: "sample".into(),
        node: "sample".into(),
        op: "sample".into(),
        tokens: draws,
        max_error,
        worst,
    }
}

/// Options by name: every filter alone, all together, and what chooses without chance.
fn options(vocab: usize) -> Vec<(&'static str, SamplerOptions)> {
    let drawn = SamplerOptions {
        temperature: 1.0,
        seed: 0x0123_4567_89ab_cdef,
        ..SamplerOptions::default()
    };
    let of = |name, change: &dyn Fn(&mut SamplerOptions)| {
        let mut options = drawn;
        change(&mut options);
        (name, options)
    };
    vec![
        of("temperature 1", &|_| {}),
        of("temperature 0.3", &|o| o.temperature = 0.3),
        of("top-k 40", &|o| o.top_k = 40),
        of("top-p 0.9", &|o| o.top_p = 0.9),
        of("min-p 0.05", &|o| o.min_p = 0.05),
        of("repetition penalty 1.3", &|o| o.repetition_penalty = 1.3),
        of("all filters", &|o| {
            (o.temperature, o.repetition_penalty) = (0.8, 1.1);
            (o.top_k, o.top_p, o.min_p) = (50, 0.95, 0.02);
        }),
        // Nearly all tokens have no weight, and the bound of top-k is among them.
        of("half of all tokens, temperature 0.01", &|o| {
            (o.temperature, o.top_k) = (0.01, vocab / 2);
        }),
        of("top-k 1", &|o| o.top_k = 1),
        of("temperature 0, penalty 1.5", &|o| {
            (o.temperature, o.repetition_penalty) = (0.0, 1.5);
        }),
    ]
}

/// Logits of every kind.
fn kinds(vocab: usize) -> Vec<Vec<f32>> {
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let mut normal = || {
        (0..12)
            .map(|_| random.random_range(-1.0f32..1.0))
            .sum::<f32>()
            * 1.5
    };
    let plain: Vec<f32> = (0..vocab).map(|_| normal()).collect();
    let map = |f: &dyn Fn(usize, f32) -> f32| {
        let pairs = plain.iter().enumerate();
        pairs.map(|(i, v)| f(i, *v)).collect::<Vec<_>>()
    };
    vec![
        // Whole numbers, so that there are many ties, zeros of both signs among them.
        map(&|_, v| v.round()),
        map(&|_, _| 1.5),
        map(&|i, v| if i % 4 == 1 { v } else { f32::NEG_INFINITY }),
        map(&|i, v| if i == vocab / 3 { v + 30.0 } else { v }),
        map(&|_, v| v - 100.0),
        plain,
    ]
}

/// How many of the tokens that both draw are not the same.
fn differing(session: &mut Session, logits: &[f32], options: SamplerOptions) -> Result<usize> {
    let mut sampler = Sampler::new(options, logits.len())?;
    // Some were drawn and seen before.
    for id in [0, 7, 1] {
        sampler.accept(id % logits.len() as u32)?;
    }
    let drawn = drawn(session, logits, DRAWS, &sampler)?;
    let mut differ = DRAWS - drawn.len();
    for id in drawn {
        differ += usize::from(sampler.sample(logits)? != id);
    }
    Ok(differ)
}

fn drawn(
    session: &mut Session,
    logits: &[f32],
    count: usize,
    sampler: &Sampler,
) -> Result<Vec<u32>> {
    match session.sample_logits(logits, count, sampler) {
        Some(drawn) => Ok(drawn?),
        None => bail!("the model does not run on a GPU"),
    }
}

/// Pearson's sum of squares of drawn frequencies against the probabilities, and its bound.
fn frequencies(session: &mut Session, vocab: usize) -> Result<(f64, f64)> {
    let tokens = TOKENS.min(vocab);
    let mut logits = vec![f32::NEG_INFINITY; vocab];
    let place = |n: usize| n * vocab / tokens;
    for n in 0..tokens {
        logits[place(n)] = n as f32 / 4.0 - 7.0;
    }
    let options = SamplerOptions {
        temperature: 1.0,
        seed: 11,
        ..SamplerOptions::default()
    };
    let mut sampler = Sampler::new(options, vocab)?;
    let (mut counts, mut left) = (vec![0usize; tokens], COUNTED);
    while left > 0 {
        let ids = drawn(session, &logits, left, &sampler)?;
        if ids.is_empty() {
            bail!("the device draws no tokens");
        }
        left -= ids.len();
        for id in ids {
            sampler.accept(id)?;
            match (0..tokens).find(|n| place(*n) == id as usize) {
                Some(n) => counts[n] += 1,
                None => bail!("the device drew token {id}, which is excluded"),
            }
        }
    }
    let weights: Vec<f64> = (0..tokens).map(|n| (n as f64 / 4.0).exp()).collect();
    let total: f64 = weights.iter().sum();
    let squares = counts.iter().zip(&weights).map(|(count, weight)| {
        let expected = COUNTED as f64 * weight / total;
        (*count as f64 - expected).powi(2) / expected
    });
    // Distributed by χ² with so many degrees of freedom: its mean, and its variance twice that.
    let freedom = tokens.saturating_sub(1).max(1) as f64;
    Ok((squares.sum(), freedom + DEVIATIONS * (2.0 * freedom).sqrt()))
}

/// Logits that no token can be drawn from must be an error on the device too.
fn refuses(session: &mut Session, vocab: usize) -> Result<()> {
    let sampler = Sampler::new(
        SamplerOptions {
            temperature: 1.0,
            ..SamplerOptions::default()
        },
        vocab,
    )?;
    for (value, everywhere) in [
        (f32::NAN, false),
        (f32::INFINITY, false),
        (f32::NEG_INFINITY, true),
    ] {
        let mut logits = vec![if everywhere { value } else { 0.0 }; vocab];
        logits[vocab - 1] = value;
        if drawn(session, &logits, 1, &sampler).is_ok() {
            bail!("the device draws from logits of {value}");
        }
    }
    Ok(())
}
