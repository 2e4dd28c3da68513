//! Ways to cut products by measurement on a GPU.
//!
//! Every candidate of every product of a model is compiled, checked on the card against plain sums,
//! and timed in a chain of launches that read their signs from memory, as a model's would. The best of
//! them are then tried in whole layers of the programs for few tokens, where kernels are so short that
//! it counts what stands between the products. All times go into the cache, from which
//! `compile --tuned` chooses; [`tables`] has the choice.

mod bench;
mod chain;
mod compilation;
pub mod demand;
mod descent;
pub mod entry;
pub mod gain;
mod problem;
pub mod step;
pub mod tables;
mod turns;

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use rabitc_codegen::cuda::Compiler;
use rabitc_codegen::cuda::plan::product::Product;
use rabitc_runtime::cuda::driver::installed;
use rabitc_runtime::cuda::workbench::Workbench;

use super::cache::Timing;
use bench::Bench;
use chain::{Chain, FEW};
use compilation::Compilation;
use demand::Demand;
use descent::{Found, Tried, descend};
use entry::{Gpu, GpuCandidate, GpuEntry, StepTime, StepTimes};
use problem::Stored;
use step::Step;
use turns::in_turns;

/// Shares of the time of a program that its chain gets, for few tokens and for many.
const CHAIN_OF_FEW: f64 = 0.6;
const CHAIN_OF_MANY: f64 = 0.8;
/// Candidates of a product that are tried in whole layers, besides the cost model's.
const FINALISTS: usize = 15;
/// Times that they are expected to be tried.
const PASSES: u32 = 2;

/// What is tuned, where, and for how long.
pub struct Request<'a> {
    /// The model.
    pub demand: &'a Demand,
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
    /// The same of a layer with everything in it, where layers were measured.
    pub step_ns: Option<[f64; 2]>,
    /// Bytes of signs that a link reads.
    pub sign_bytes: usize,
}

/// What was found of one product.
pub struct TunedProduct {
    /// What goes into the cache.
    pub entry: GpuEntry,
    /// Index of the candidate that is chosen. The first is the cost model's choice.
    pub best: usize,
}

/// Measures every product; `progress` is told which one, often.
///
/// # Errors
/// A candidate that does not compile or computes something else, or a device that was lost.
pub fn tune(request: &Request<'_>, progress: &mut dyn FnMut(&str, Duration)) -> Result<Vec<Tuned>> {
    let start = Instant::now();
    let products = &request.demand.plan.products;
    progress("compiling", start.elapsed());
    let compiled = compilation::compile(request.compiler, products)?;
    let mut programs: Vec<Vec<(&Product, &[Compilation])>> = Vec::new();
    for (product, candidates) in products.iter().zip(&compiled) {
        match programs.last_mut() {
            Some(last) if last[0].0.program == product.program => last.push((product, candidates)),
            _ => programs.push(vec![(product, candidates)]),
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

/// Chooses for one product after the other, in a chain and then in whole layers, and compares all
/// choices with the cost model's.
fn program(
    request: &Request<'_>,
    candidates: &[(&Product, &[Compilation])],
    layers: &mut Vec<Rc<Stored>>,
    budget: Duration,
    progress: &mut dyn FnMut(&str),
) -> Result<Tuned> {
    let start = Instant::now();
    let mut prepared = |p: &Product| progress(&p.problem);
    let (bench, compiler) = (request.bench, request.compiler);
    let mut chain = Chain::new(bench, compiler, candidates, layers, &mut prepared)?;
    let products: &[&Product] = &candidates.iter().map(|(p, _)| *p).collect::<Vec<_>>();
    let few = products.iter().all(|p| p.task.tokens <= FEW);
    let chain_budget = budget.mul_f64(if few { CHAIN_OF_FEW } else { CHAIN_OF_MANY });
    let mut found = Vec::new();
    for (place, product) in products.iter().enumerate() {
        let left = chain_budget.saturating_sub(start.elapsed());
        let share = left / (products.len() - place) as u32;
        let times = chain.measure(place, share, &mut || progress(&product.problem))?;
        let best = fastest(&times).ok_or_else(|| anyhow!("there is no candidate"))?;
        chain.chosen[place] = best;
        let entry = entry(request, product, chain.product(place), &times)?;
        found.push(TunedProduct { entry, best });
    }
    let left = || budget.saturating_sub(start.elapsed());
    let mut tick = || progress("whole layers");
    let step_ns = match few {
        true => Some(in_layers(
            request,
            products,
            &mut chain,
            &mut found,
            left(),
            &mut tick,
        )?),
        false => None,
    };
    let choices = [vec![0; products.len()], chain.chosen.clone()];
    let times = chain.compare(&choices, left(), &mut || progress("all products"))?;
    Ok(Tuned {
        program: products[0].program,
        kind: products[0].kind,
        products: found,
        links: products.iter().map(|p| p.launches).max().unwrap_or(1),
        link_ns: [median(&times[0]), median(&times[1])],
        step_ns,
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
        step: None,
    })
}

/// Tries the best candidates of every product in whole layers, and chooses by that. Gives nanoseconds
/// of a layer, as the cost model cuts the products and as the choice does.
fn in_layers(
    request: &Request<'_>,
    products: &[&Product],
    chain: &mut Chain<'_>,
    found: &mut [TunedProduct],
    budget: Duration,
    tick: &mut dyn FnMut(),
) -> Result<[f64; 2]> {
    let (bench, compiler, demand) = (request.bench, request.compiler, request.demand);
    let step = Step::new(bench, compiler, demand, products, chain.sign_bytes())?;
    // What is compared: the beginnings, every product some times, and the outcome.
    let share = budget / (2 + products.len() as u32 * PASSES);
    let mut measure = |choices: &[Vec<usize>]| {
        let start = Instant::now();
        let steps = choices.iter().map(|chosen| step.record(chain, chosen));
        let steps = steps.collect::<Result<Vec<_>>>()?;
        let mut times = in_turns(&steps, start, share, tick)?;
        for time in times.iter_mut().flatten() {
            *time /= step.layers as f64;
        }
        Ok(times)
    };
    let model = vec![0; products.len()];
    let tried: Vec<_> = found.iter().map(|p| finalists(&p.entry)).collect();
    let Found { chosen, tried } =
        descend([model.clone(), chain.chosen.clone()], &tried, &mut measure)?;
    let times = measure(&[model, chosen.clone()])?;
    for (place, (product, tried)) in found.iter_mut().zip(&tried).enumerate() {
        let kernel = |n: usize| chain.product(place).describe(n).0;
        product.entry.step = Some(step_times(tried, chosen[place], &kernel)?);
        product.best = chosen[place];
    }
    chain.chosen = chosen;
    Ok([median(&times[0]), median(&times[1])])
}

/// The candidates that are tried in whole layers: the cost model's, and those that were fastest in the
/// chain.
fn finalists(entry: &GpuEntry) -> Vec<usize> {
    let time = |n: &usize| entry.candidates[*n].time.median_ns;
    let mut others: Vec<usize> = (1..entry.candidates.len()).collect();
    others.sort_by(|a, b| time(a).total_cmp(&time(b)));
    others.truncate(FINALISTS);
    [0].into_iter().chain(others).collect()
}

fn step_times(tried: &Tried, chosen: usize, kernel: &dyn Fn(usize) -> String) -> Result<StepTimes> {
    let times = tried.times.iter().map(|(n, times)| {
        let time = Timing::of(times)?;
        let kernel = kernel(*n);
        Some(StepTime { kernel, time })
    });
    let times = times.collect::<Option<Vec<_>>>();
    Ok(StepTimes {
        positions: step::POSITIONS,
        chosen: kernel(chosen),
        noise_ns: tried.noise,
        times: times.ok_or_else(|| anyhow!("nothing was measured"))?,
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
