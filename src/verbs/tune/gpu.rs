//! `rabitc tune --device cuda`: the products of a model on a card.

use std::path::Path;

use anyhow::{Context, Result, bail};
use rabitc::tune::cache::{Cache, default_path};
use rabitc::tune::gpu::demand::{Demand, of_artifact, of_config, options};
use rabitc::tune::gpu::gain::{Gain, gains};
use rabitc::tune::gpu::step::POSITIONS;
use rabitc::tune::gpu::{Request, Tuned, TunedProduct, tune};
use rabitc_codegen::cuda::Compiler;
use rabitc_rbx::{Artifact, SmArch};
use rabitc_runtime::cuda::workbench::Workbench;
use serde_json::{Value, json};

use super::{Args, bar, is_artifact};
use crate::ui::{self, Align, Table, digits};

/// Carries the verb out on device `ordinal`.
pub fn run(args: &Args, ordinal: usize) -> Result<()> {
    if args.target != "cpu" || args.backend != "auto" {
        bail!("--target and --backend: on a GPU, NVRTC's code for that card is measured");
    }
    if args.activations == "f32" {
        bail!("--activations f32: GPUs have int8 and int16");
    }
    let cache = match &args.cache {
        Some(path) => path.clone(),
        None => default_path().context("--cache")?,
    };
    Cache::check(&cache)?;
    let bench = Workbench::open(ordinal)?;
    let compiler = Compiler::new()?;
    let demand = demand(args, bench.device().info.arch)?;
    if demand.plan.products.is_empty() {
        bail!("{}: no layer is residual-binary", args.model().display());
    }
    let request = Request {
        demand: &demand,
        bench: &bench,
        compiler: &compiler,
        budget: args.budget,
    };
    let bar = bar(args.budget);
    let tuned = tune(&request, &mut |problem, elapsed| {
        bar.set_position(elapsed.as_secs());
        bar.set_message(problem.to_owned());
    })?;
    bar.finish_and_clear();
    let entries = tuned.iter().flat_map(|t| &t.products);
    Cache::add_gpus(&cache, entries.map(|p| p.entry.clone()).collect())?;
    match args.json {
        true => ui::print_json(&json(&tuned, &cache)),
        false => ui::print(&text(&tuned, &bench, &compiler, &cache)),
    }
}

/// What the model runs.
fn demand(args: &Args, arch: SmArch) -> Result<Demand> {
    let options = options(arch, &args.activations);
    match (is_artifact(&args.model())?, args.paths) {
        (true, Some(_)) => bail!("--paths: an artifact's paths are what they are"),
        (true, None) => of_artifact(&Artifact::open(&args.model())?, options),
        (false, paths) => {
            let passes = rabitc_passes::Options {
                paths: paths.unwrap_or(2).into(),
                ..rabitc_passes::Options::default()
            };
            of_config(&args.model(), &passes, options)
        }
    }
}

/// How a candidate is cut: what its kernel's name has after the part that the product's has too.
fn tile(product: &TunedProduct, candidate: usize) -> String {
    let kernel = &product.entry.candidates[candidate].kernel;
    let problem = product.entry.problem.as_bytes();
    let common = kernel.bytes().zip(problem).take_while(|(a, b)| a == *b);
    // Names are letters, digits and `_`.
    kernel[common.count()..].trim_start_matches('_').to_owned()
}

fn text(tuned: &[Tuned], bench: &Workbench, compiler: &Compiler, cache: &Path) -> String {
    let info = &bench.device().info;
    format!(
        "{}\n{}\n{}\n\
         A link is every product of a program once, with signs from memory; a layer has everything \
         between them too, and {POSITIONS} positions cached. Where layers were measured they decide. \
         Gains are measured after the choice.\n{} ({}), {}.\n\
         All times are in {}: `rabitc compile --tuned` uses them.\n",
        products(tuned),
        programs(tuned),
        kinds(&gains(tuned)),
        info.name,
        info.arch,
        compiler.describe(),
        cache.display(),
    )
}

/// A time in microseconds; nothing for none.
fn micros(ns: Option<f64>) -> String {
    ns.map_or(String::new(), |ns| format!("{:.2}", ns / 1e3))
}

/// How each product was cut and is, as a table.
fn products(tuned: &[Tuned]) -> Table {
    let mut table = Table::new(&[
        ("product", Align::Left),
        ("candidates", Align::Right),
        ("cost model", Align::Left),
        ("µs a link", Align::Right),
        ("tuned", Align::Left),
        ("µs a link", Align::Right),
        ("µs a layer, before", Align::Right),
        ("after", Align::Right),
        ("noise", Align::Right),
    ]);
    for p in tuned.iter().flat_map(|t| &t.products) {
        let candidate = |n: usize| &p.entry.candidates[n];
        let in_link = |n: usize| micros(Some(candidate(n).time.median_ns));
        let step = p.entry.step.as_ref();
        let in_step = |n: usize| micros(step.and_then(|s| s.time(&candidate(n).kernel)));
        table.row([
            p.entry.problem.clone(),
            p.entry.candidates.len().to_string(),
            tile(p, 0),
            in_link(0),
            tile(p, p.best),
            in_link(p.best),
            in_step(0),
            in_step(p.best),
            micros(step.map(|s| s.noise_ns)),
        ]);
    }
    table
}

/// What each program gains, as a table.
fn programs(tuned: &[Tuned]) -> Table {
    let mut table = Table::new(&[
        ("program", Align::Left),
        ("products", Align::Right),
        ("links", Align::Right),
        ("cost model, µs a link", Align::Right),
        ("tuned, µs a link", Align::Right),
        ("gain", Align::Right),
        ("GB/s", Align::Right),
        ("cost model, µs a layer", Align::Right),
        ("tuned, µs a layer", Align::Right),
        ("gain", Align::Right),
    ]);
    let gain = |[model, best]: [f64; 2]| format!("{:.3}×", model / best);
    for t in tuned {
        let [model, best] = t.link_ns;
        table.row([
            t.program.to_owned(),
            t.products.len().to_string(),
            t.links.to_string(),
            micros(Some(model)),
            micros(Some(best)),
            gain(t.link_ns),
            digits(t.sign_bytes as f64 / best),
            micros(t.step_ns.map(|[model, _]| model)),
            micros(t.step_ns.map(|[_, best]| best)),
            t.step_ns.map_or(String::new(), gain),
        ]);
    }
    table
}

/// The gains of kinds and of all, as a table.
fn kinds(gains: &[Gain]) -> Table {
    let mut table = Table::new(&[
        ("kernels", Align::Left),
        ("programs", Align::Right),
        ("cost model, ms", Align::Right),
        ("tuned, ms", Align::Right),
        ("gain", Align::Right),
        ("mean gain", Align::Right),
    ]);
    for gain in gains {
        let [model, best] = gain.total_ns.map(|ns| digits(ns / 1e6));
        table.row([
            gain.kind.unwrap_or("all").to_owned(),
            gain.programs.to_string(),
            model,
            best,
            format!("{:.3}×", gain.total()),
            format!("{:.3}×", gain.mean),
        ]);
    }
    table
}

fn json(tuned: &[Tuned], cache: &Path) -> Value {
    let product = |p: &TunedProduct| {
        json!({
            "problem": p.entry.problem,
            "gpu": p.entry.gpu,
            "candidates": p.entry.candidates,
            "step": p.entry.step,
            "cost_model": p.entry.candidates[0].kernel,
            "tuned": p.entry.candidates[p.best].kernel,
        })
    };
    let programs = tuned.iter().map(|t| {
        json!({
            "program": t.program,
            "kind": t.kind,
            "products": t.products.iter().map(product).collect::<Vec<_>>(),
            "links": t.links,
            "cost_model_ns": t.link_ns[0],
            "tuned_ns": t.link_ns[1],
            "gain": t.link_ns[0] / t.link_ns[1],
            "layer_ns": t.step_ns,
        })
    });
    let gains = gains(tuned).into_iter().map(|g| {
        json!({
            "kind": g.kind,
            "programs": g.programs,
            "cost_model_ns": g.total_ns[0],
            "tuned_ns": g.total_ns[1],
            "gain": g.total(),
            "mean_gain": g.mean,
        })
    });
    json!({
        "programs": programs.collect::<Vec<_>>(),
        "gains": gains.collect::<Vec<_>>(),
        "cache": cache,
    })
}
