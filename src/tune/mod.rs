//! Tiles by measurement: which row tiles suit the layers of a model on this machine.
//!
//! Every candidate of every shape of layer is compiled, checked and timed as a model would run it:
//! on the runtime's threads, with weights that come from memory. All times go into a cache file,
//! from which `compile --tuned` chooses.

pub mod cache;
pub mod choose;
pub mod gpu;
pub mod host;
mod layer;
mod measure;
mod native;
pub mod shapes;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rabitc_codegen::backend::Backend;
use rabitc_passes::tiles::{LayerShape, Tiles};
use rabitc_runtime::pool::Pool;

use crate::bandwidth::more_than_caches;
use cache::{Candidate, Entry, Shape, Timing};
use host::Host;
use measure::{Bench, Samples, Variant};
use native::Generator;
use shapes::Demand;

pub use layer::BLOCK_TOKENS;

/// What is tuned, where, and for how long.
pub struct Request<'a> {
    /// The layers of a model.
    pub demands: &'a [Demand],
    /// This machine and the code.
    pub host: &'a Host,
    /// The code generator.
    pub backend: &'a dyn Backend,
    /// The threads, as many as the host says.
    pub pool: &'a Pool,
    /// What chooses without measurements.
    pub heuristic: &'a Tiles,
    /// Time for all shapes together.
    pub budget: Duration,
}

/// What was found of one shape.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// The shape, and how many layers have it.
    pub demand: Demand,
    /// Every candidate.
    pub candidates: Vec<Candidate>,
    /// Index of the one to use.
    pub best: usize,
    /// Index of the one that the heuristic uses.
    pub heuristic: usize,
    /// How many times faster than the heuristic's a measured choice decodes: chosen by one half of
    /// the rounds and held against the other, since the fastest of several equals looks faster
    /// than it is in the rounds that it was chosen by.
    pub gain: f64,
}

impl Tuned {
    /// The entry for the cache.
    pub fn entry(&self, host: &Host) -> Entry {
        Entry {
            host: host.clone(),
            shape: Shape::of(&self.demand.shape),
            candidates: self.candidates.clone(),
        }
    }
}

/// Measures every shape; `progress` is told which one, many times a second.
///
/// # Errors
/// A candidate that cannot be compiled or computes something else, memory that is refused.
pub fn tune(
    request: &Request<'_>,
    progress: &mut dyn FnMut(&LayerShape, Duration),
) -> Result<Vec<Tuned>> {
    let start = Instant::now();
    let variants = request
        .demands
        .iter()
        .map(|d| Ok(measure::variants(&d.shape, heuristic(request, d)?)))
        .collect::<Result<Vec<_>>>()?;
    let generator = Generator {
        backend: request.backend,
        level: request.host.level,
    };
    let bytes = weight_bytes(request.demands, &variants)?;
    let bench = Bench::new(generator, request.pool, bytes)?;
    let mut results = Vec::new();
    for (n, (demand, variants)) in request.demands.iter().zip(&variants).enumerate() {
        let left = request.budget.saturating_sub(start.elapsed());
        let share = left / (request.demands.len() - n) as u32;
        let mut tick = || progress(&demand.shape, start.elapsed());
        let samples = bench.measure(&demand.shape, variants, share, &mut tick);
        let samples = samples.with_context(|| name(&demand.shape))?;
        results.push(summarise(demand, &samples, heuristic(request, demand)?)?);
    }
    Ok(results)
}

/// A shape as people write it, such as `4096+4096 × 4096`.
pub fn name(shape: &LayerShape) -> String {
    let segments: Vec<_> = shape.segments.iter().map(usize::to_string).collect();
    format!("{} × {}", segments.join("+"), shape.d_in)
}

/// Row tiles without measurements.
fn heuristic(request: &Request<'_>, demand: &Demand) -> Result<usize> {
    let activations = demand.shape.activations.parse();
    let activations = activations.map_err(|e: String| anyhow!(e))?;
    Ok(request.heuristic.row_tiles(&demand.shape, activations))
}

/// Bytes of weights to go around in: what the model has, or enough to pass the caches by if that
/// is less. A model that fits into the caches is measured in them.
fn weight_bytes(demands: &[Demand], variants: &[Vec<Variant>]) -> Result<usize> {
    let (mut model, mut largest) = (0usize, 0);
    for (demand, variants) in demands.iter().zip(variants) {
        let bytes = measure::most_bytes(&demand.shape, variants)?;
        model = model.saturating_add(bytes.saturating_mul(demand.layers));
        largest = largest.max(bytes);
    }
    Ok(model.min(more_than_caches()).max(largest))
}

fn summarise(demand: &Demand, samples: &[Samples], heuristic: usize) -> Result<Tuned> {
    let candidates = samples.iter().map(candidate).collect::<Option<Vec<_>>>();
    let candidates = candidates.ok_or_else(|| anyhow!("nothing was measured"))?;
    let times: Vec<_> = candidates.iter().map(Candidate::times).collect();
    let position = |n| samples.iter().position(|s| s.variant.row_tiles == n);
    let heuristic = position(heuristic).ok_or_else(|| anyhow!("{heuristic} was not measured"))?;
    let best = choose::best(&times).ok_or_else(|| anyhow!("there is no candidate"))?;
    Ok(Tuned {
        demand: demand.clone(),
        gain: gain(samples, &times, heuristic),
        candidates,
        best,
        heuristic,
    })
}

fn candidate(samples: &Samples) -> Option<Candidate> {
    let decode = Timing::of(&samples.decode)?;
    Some(Candidate {
        row_tiles: samples.variant.row_tiles,
        gigabytes_per_second: samples.bytes as f64 / decode.median_ns,
        decode,
        prompt: Timing::of(&samples.prompt)?,
    })
}

/// See [`Tuned::gain`]. `times` are those of all rounds.
fn gain(samples: &[Samples], times: &[[f64; 2]], heuristic: usize) -> f64 {
    let median = |n: usize, half: usize| {
        let rounds = samples[n].decode.iter().skip(half).step_by(2);
        let rounds: Vec<f64> = rounds.copied().collect();
        Timing::of(&rounds).map_or(times[n][0], |t| t.median_ns)
    };
    let halves = [0, 1].map(|half| {
        let chosen_by: Vec<_> = (0..samples.len())
            .map(|n| [median(n, half), times[n][1]])
            .collect();
        let chosen = choose::best(&chosen_by).unwrap_or(heuristic);
        median(heuristic, 1 - half) / median(chosen, 1 - half)
    });
    (halves[0] * halves[1]).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(row_tiles: usize, decode: &[f64]) -> Samples {
        Samples {
            variant: Variant { row_tiles },
            bytes: 1000,
            decode: decode.to_vec(),
            prompt: vec![1.0],
        }
    }

    fn gain_of(all: &[Samples]) -> f64 {
        let times: Vec<_> = all.iter().map(|s| candidate(s).unwrap().times()).collect();
        gain(all, &times, 0)
    }

    #[test]
    fn luck_is_no_gain() {
        // Each is twice as fast in half of the rounds.
        let lucky = [
            samples(1, &[1.0, 2.0, 1.0, 2.0]),
            samples(2, &[2.0, 1.0, 2.0, 1.0]),
        ];
        assert!(gain_of(&lucky) < 1.0);
        let faster = [
            samples(1, &[2.0, 2.0, 2.0, 2.0]),
            samples(2, &[1.0, 1.0, 1.0, 1.0]),
        ];
        assert_eq!(gain_of(&faster), 2.0);
        assert_eq!(gain_of(&faster[..1]), 1.0);
    }

    #[test]
    fn weights_are_a_models_or_more_than_the_caches() {
        let shape = LayerShape {
            d_in: 64,
            segments: vec![32],
            paths: 2,
            activations: "int8",
        };
        let of = |layers| {
            let demand = Demand {
                shape: shape.clone(),
                layers,
            };
            weight_bytes(&[demand], &[vec![Variant { row_tiles: 1 }]]).unwrap()
        };
        assert_eq!(of(3), 3 * 2 * 2 * 2 * 64);
        assert_eq!(of(usize::MAX), more_than_caches());
    }
}
