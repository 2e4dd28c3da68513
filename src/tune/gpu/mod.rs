//! Ways to cut products by measurement on a GPU.
//!
//! Every candidate of every product of a model is compiled, checked on the card against plain sums,
//! and timed in a chain of launches that read their signs from memory, as a model's would. All times
//! go into the cache, from which `compile --tuned` chooses; [`tables`] has the choice.

mod bench;
mod chain;
pub mod demand;
pub mod entry;
pub mod gain;
mod problem;
pub mod tables;

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use rabitc_codegen::cuda::Compiler;
use rabitc_codegen::cuda::plan::product::Product;
use rabitc_runtime::cuda::driver::installed;
use rabitc_runtime::cuda::workbench::Workbench;

use super::cache::Timing;
use bench::Bench;
use chain::Chain;
use entry::{Gpu, GpuCandidate, GpuEntry};
use problem::Stored;

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

/// What was found of the products of one program.
pub struct Tuned {
    /// The program.
    pub program: &'static str,
    /// The kind of its kernels, see [`Cut::KIND`](rabitc_codegen::cuda::plan::product::Cut::KIND).
    pub kind: &'static str,
    /// The products.
    pub products: Vec<TunedProduct>,
    /// Links of the chain in a run of the program: layers, where all are alike.
    pub links: usize,
    /// Median nanoseconds of a link, every product once: as the cost model cuts them, and as the
    /// measurements do. Both were measured anew after all choices were made, so no choice was made
    /// by these times.
    pub link_ns: [f64; 2],
    /// Bytes of signs that a link reads.
    pub sign_bytes: usize,
}

/// What was found of one product.
pub struct TunedProduct {
    /// What goes into the cache.
    pub entry: GpuEntry,
    /// Index of the fastest candidate. The first is the cost model's choice.
    pub best: usize,
}

/// Measures every product; `progress` is told which one, often.
///
/// # Errors
/// A candidate that does not compile or computes something else, or a device that was lost.
pub fn tune(request: &Request<'_>, progress: &mut dyn FnMut(&str, Duration)) -> Result<Vec<Tuned>> {
    let start = Instant::now();
    let mut programs: Vec<Vec<&Product>> = Vec::new();
    for product in request.products {
        match programs.last_mut() {
            Some(last) if last[0].program == product.program => last.push(product),
            _ => programs.push(vec![product]),
        }
    }
    let (mut tuned, mut layers) = (Vec::new(), Vec::new());
    for (n, products) in programs.iter().enumerate() {
        let left = request.budget.saturating_sub(start.elapsed());
        let share = left / (programs.len() - n) as u32;
        let mut tick = |problem: &str| progress(problem, start.elapsed());
        tuned.push(program(request, products, &mut layers, share, &mut tick)?);
    }
    Ok(tuned)
}

/// Chooses for one product after the other, then compares all choices with the cost model's.
fn program(
    request: &Request<'_>,
    products: &[&Product],
    layers: &mut Vec<Rc<Stored>>,
    budget: Duration,
    progress: &mut dyn FnMut(&str),
) -> Result<Tuned> {
    let start = Instant::now();
    let mut prepared = |p: &Product| progress(&p.problem);
    let (bench, compiler) = (request.bench, request.compiler);
    let mut chain = Chain::new(bench, compiler, products, layers, &mut prepared)?;
    let mut found = Vec::new();
    for (place, product) in products.iter().enumerate() {
        // One share more for the comparison.
        let left = budget.saturating_sub(start.elapsed());
        let share = left / (products.len() - place + 1) as u32;
        let times = chain.measure(place, share, &mut || progress(&product.problem))?;
        let best = fastest(&times).ok_or_else(|| anyhow!("there is no candidate"))?;
        chain.chosen[place] = best;
        let entry = entry(request, product, chain.product(place), &times)?;
        found.push(TunedProduct { entry, best });
    }
    let choices = [vec![0; products.len()], chain.chosen.clone()];
    let left = budget.saturating_sub(start.elapsed());
    let times = chain.compare(&choices, left, &mut || progress("all products"))?;
    Ok(Tuned {
        program: products[0].program,
        kind: products[0].kind,
        products: found,
        links: products.iter().map(|p| p.launches).max().unwrap_or(1),
        link_ns: [median(&times[0]), median(&times[1])],
        sign_bytes: products.iter().map(|p| p.task.layout.sign_bytes()).sum(),
    })
}

fn entry(
    request: &Request<'_>,
    product: &Product,
    bench: &Bench<'_>,
    times: &[Vec<f64>],
) -> Result<GpuEntry> {
    let info = &request.bench.device().info;
    let (major, minor) = installed()?.version;
    let candidates = times.iter().enumerate().map(|(n, times)| {
        let (kernel, estimate) = bench.describe(n);
        Some(GpuCandidate {
            kernel,
            time: Timing::of(times)?,
            estimate_ns: estimate * 1e9,
        })
    });
    let candidates = candidates.collect::<Option<Vec<_>>>();
    Ok(GpuEntry {
        gpu: Gpu {
            gpu: info.name.clone(),
            arch: product.arch,
            driver: format!("CUDA {major}.{minor}"),
            generator: tables::generator(product),
        },
        problem: product.problem.clone(),
        candidates: candidates.ok_or_else(|| anyhow!("nothing was measured"))?,
    })
}

fn median(times: &[f64]) -> f64 {
    Timing::of(times).map_or(f64::INFINITY, |t| t.median_ns)
}

fn fastest(all: &[Vec<f64>]) -> Option<usize> {
    (0..all.len()).min_by(|a, b| median(&all[*a]).total_cmp(&median(&all[*b])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_median_is_fastest() {
        let all = [vec![3.0; 3], vec![9.0, 2.0, 2.0], vec![1.0, 4.0, 4.0]];
        assert_eq!((fastest(&all), fastest(&[])), (Some(1), None));
    }
}
