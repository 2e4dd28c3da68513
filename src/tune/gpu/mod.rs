//! Ways to cut products by measurement on a GPU.
//!
//! Every candidate of every product of a model is compiled, checked on the card against plain sums,
//! and timed in a chain of launches that read their signs from memory, as a model's would. All times
//! go into the cache, from which `compile --tuned` chooses; [`tables`] has the choice.

mod bench;
pub mod demand;
pub mod entry;
mod problem;
pub mod tables;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rabitc_codegen::cuda::Compiler;
use rabitc_codegen::cuda::plan::product::Product;
use rabitc_runtime::cuda::driver::installed;
use rabitc_runtime::cuda::workbench::Workbench;

use super::cache::Timing;
use bench::{Bench, Samples};
use entry::{Gpu, GpuCandidate, GpuEntry};

/// What is tuned, where, and for how long.
pub struct Request<'a> {
    /// The products of a model.
    pub products: &'a [Product],
    /// The card.
    pub bench: &'a Workbench,
    /// What compiles candidates.
    pub compiler: &'a Compiler,
    /// Time for all products together.
    pub budget: Duration,
}

/// What was found of one product.
pub struct Tuned {
    /// What goes into the cache.
    pub entry: GpuEntry,
    /// Launches of a run of the program that the product is for.
    pub launches: usize,
    /// Bytes of signs that a launch reads.
    pub sign_bytes: usize,
    /// Index of the fastest candidate.
    pub best: usize,
    /// Index of the cost model's choice.
    pub model: usize,
    /// How many times faster than the cost model's a measured choice is: chosen by one half of the
    /// rounds and held against the other, since the fastest of several equals looks faster than it
    /// is in the rounds that it was chosen by.
    pub gain: f64,
}

/// Measures every product; `progress` is told which one, often.
///
/// # Errors
/// A candidate that does not compile or computes something else, or a device that was lost.
pub fn tune(request: &Request<'_>, progress: &mut dyn FnMut(&str, Duration)) -> Result<Vec<Tuned>> {
    let start = Instant::now();
    let mut tuned = Vec::new();
    for (n, product) in request.products.iter().enumerate() {
        let left = request.budget.saturating_sub(start.elapsed());
        let share = left / (request.products.len() - n) as u32;
        let mut tick = || progress(&product.problem, start.elapsed());
        let samples = measure(request, product, share, &mut tick);
        let samples = samples.with_context(|| product.problem.clone())?;
        tuned.push(summarise(request, product, &samples)?);
    }
    Ok(tuned)
}

fn measure(
    request: &Request<'_>,
    product: &Product,
    budget: Duration,
    tick: &mut dyn FnMut(),
) -> Result<Vec<Samples>> {
    let start = Instant::now();
    let bench = Bench::new(request.bench, request.compiler, product)?;
    tick();
    bench.measure(budget.saturating_sub(start.elapsed()), tick)
}

fn summarise(request: &Request<'_>, product: &Product, samples: &[Samples]) -> Result<Tuned> {
    let info = &request.bench.device().info;
    let (major, minor) = installed()?.version;
    let candidates = samples.iter().map(|s| {
        Some(GpuCandidate {
            kernel: s.kernel.clone(),
            time: Timing::of(&s.times)?,
            estimate_ns: s.estimate * 1e9,
        })
    });
    let candidates = candidates.collect::<Option<Vec<_>>>();
    let candidates = candidates.ok_or_else(|| anyhow!("nothing was measured"))?;
    let entry = GpuEntry {
        gpu: Gpu {
            gpu: info.name.clone(),
            arch: product.arch,
            driver: format!("CUDA {major}.{minor}"),
            generator: tables::generator(product),
        },
        problem: product.problem.clone(),
        candidates,
    };
    let all: Vec<&[f64]> = samples.iter().map(|s| &s.times[..]).collect();
    Ok(Tuned {
        best: fastest(&all).ok_or_else(|| anyhow!("there is no candidate"))?,
        // Candidates come in the order of their costs.
        model: 0,
        gain: gain(&all),
        launches: product.launches,
        sign_bytes: product.task.layout.sign_bytes(),
        entry,
    })
}

fn median(times: &[f64]) -> f64 {
    Timing::of(times).map_or(f64::INFINITY, |t| t.median_ns)
}

fn fastest(all: &[&[f64]]) -> Option<usize> {
    (0..all.len()).min_by(|a, b| median(all[*a]).total_cmp(&median(all[*b])))
}

/// See [`Tuned::gain`]; the first is the cost model's choice.
fn gain(all: &[&[f64]]) -> f64 {
    let half = |n: usize, half: usize| -> Vec<f64> {
        let rounds = all[n].iter().skip(half).step_by(2);
        rounds.copied().collect()
    };
    let halves = [0, 1].map(|which| {
        let chosen_by: Vec<Vec<f64>> = (0..all.len()).map(|n| half(n, which)).collect();
        let chosen_by: Vec<&[f64]> = chosen_by.iter().map(Vec::as_slice).collect();
        let chosen = fastest(&chosen_by).unwrap_or(0);
        median(&half(0, 1 - which)) / median(&half(chosen, 1 - which))
    });
    (halves[0] * halves[1]).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn luck_is_no_gain() {
        let lucky: [&[f64]; 2] = [&[1.0, 2.0, 1.0, 2.0], &[2.0, 1.0, 2.0, 1.0]];
        assert!(gain(&lucky) < 1.0);
        let faster: [&[f64]; 2] = [&[3.0; 4], &[2.0; 4]];
        assert_eq!((gain(&faster), fastest(&faster)), (1.5, Some(1)));
        assert_eq!((gain(&faster[..1]), fastest(&[])), (1.0, None));
    }
}
