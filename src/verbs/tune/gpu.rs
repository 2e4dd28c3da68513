//! `rabitc tune --device cuda`: the products of a model on a card.

use std::path::Path;

use anyhow::{Context, Result, bail};
use rabitc::tune::cache::{Cache, default_path};
use rabitc::tune::gpu::demand::{of_artifact, of_config, options};
use rabitc::tune::gpu::{Request, Tuned, tune};
use rabitc_codegen::cuda::Compiler;
use rabitc_codegen::cuda::plan::product::Product;
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
    // Better now than after a minute.
    Cache::load_or_new(&cache)?;
    let bench = Workbench::open(ordinal)?;
    let compiler = Compiler::new()?;
    let products = products(args, bench.device().info.arch)?;
    if products.is_empty() {
        bail!("{}: no layer is residual-binary", args.model.display());
    }
    let request = Request {
        products: &products,
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
    Cache::add_gpus(&cache, tuned.iter().map(|t| t.entry.clone()).collect())?;
    match args.json {
        true => ui::print_json(&json(&tuned, &cache)),
        false => ui::print(&text(&tuned, &bench, &compiler, &cache)),
    }
}

/// The products of the model.
fn products(args: &Args, arch: SmArch) -> Result<Vec<Product>> {
    let options = options(arch, &args.activations);
    match (is_artifact(&args.model)?, args.paths) {
        (true, Some(_)) => bail!("--paths: an artifact's paths are what they are"),
        (true, None) => of_artifact(&Artifact::open(&args.model)?, options),
        (false, paths) => {
            let passes = rabitc_passes::Options {
                paths: paths.unwrap_or(2).into(),
                ..rabitc_passes::Options::default()
            };
            of_config(&args.model, &passes, options)
        }
    }
}

/// Median times of the cost model's choice and of the fastest, in nanoseconds.
fn times(tuned: &Tuned) -> [f64; 2] {
    [tuned.model, tuned.best].map(|n| tuned.entry.candidates[n].time.median_ns)
}

fn text(tuned: &[Tuned], bench: &Workbench, compiler: &Compiler, cache: &Path) -> String {
    let mut table = Table::new(&[
        ("product", Align::Left),
        ("launches", Align::Right),
        ("candidates", Align::Right),
        ("cost model, µs", Align::Right),
        ("tuned, µs", Align::Right),
        ("gain", Align::Right),
        ("GB/s", Align::Right),
        ("tile", Align::Left),
    ]);
    for t in tuned {
        let [model, best] = times(t);
        let kernel = &t.entry.candidates[t.best].kernel;
        let tile = kernel.strip_prefix(&t.entry.problem).unwrap_or(kernel);
        table.row([
            t.entry.problem.clone(),
            t.launches.to_string(),
            t.entry.candidates.len().to_string(),
            format!("{:.2}", model / 1e3),
            format!("{:.2}", best / 1e3),
            format!("{:.3}×", t.gain),
            digits(t.sign_bytes as f64 / best),
            tile.trim_start_matches('_').to_owned(),
        ]);
    }
    let [model, best, checked] = totals(tuned);
    let info = &bench.device().info;
    format!(
        "{table}\nAll launches: {} µs by the cost model, {} µs tuned, cross-checked gain {:.3}×.\n\
         {} ({}), {}; signs from memory, launch after launch.\n\
         All times are in {}: `rabitc compile --tuned` uses them.\n",
        digits(model / 1e3),
        digits(best / 1e3),
        model / checked,
        info.name,
        info.arch,
        compiler.describe(),
        cache.display(),
    )
}

/// Sums over all launches in nanoseconds: by the cost model, by the fastest candidates, and by the
/// gain that a choice has in rounds that it was not chosen by.
fn totals(tuned: &[Tuned]) -> [f64; 3] {
    let mut totals = [0.0; 3];
    for t in tuned {
        let launches = t.launches as f64;
        let [model, best] = times(t);
        let sums = [model, best, model / t.gain];
        for (total, time) in totals.iter_mut().zip(sums) {
            *total += launches * time;
        }
    }
    totals
}

fn json(tuned: &[Tuned], cache: &Path) -> Value {
    let products = tuned.iter().map(|t| {
        json!({
            "problem": t.entry.problem,
            "gpu": t.entry.gpu,
            "launches": t.launches,
            "candidates": t.entry.candidates,
            "cost_model": t.entry.candidates[t.model].kernel,
            "tuned": t.entry.candidates[t.best].kernel,
            "gain": t.gain,
        })
    });
    let [model, best, checked] = totals(tuned);
    json!({
        "products": products.collect::<Vec<_>>(),
        "cost_model_ns": model,
        "tuned_ns": best,
        "gain": model / checked,
        "cache": cache,
    })
}
