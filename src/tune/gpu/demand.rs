//! The products that a model runs on a GPU.

use std::path::Path;

use anyhow::{Context, Result};
use rabitc_codegen::cuda::plan::product::Product;
use rabitc_codegen::cuda::plan::{GpuOptions, plan};
use rabitc_frontend::graph_of_config;
use rabitc_ir::Graph;
use rabitc_passes::Options;
use rabitc_passes::materialize::materialize;
use rabitc_rbx::{Artifact, SmArch};

use super::tables::GpuTables;

/// The products of a model that is compiled from a dense checkpoint with this `config.json`. Runs
/// the frontend, the passes and the plan; there are no weights.
///
/// # Errors
/// A file that cannot be read, a configuration or options that are refused, or a model that there
/// are no GPU kernels for.
pub fn of_config(config: &Path, passes: &Options, options: GpuOptions) -> Result<Vec<Product>> {
    let mut graph = graph_of_config(config)?;
    rabitc_passes::run(&mut graph, passes, &mut |_, _, _| Ok(()))?;
    let (graph, _) = materialize(&graph)?;
    products(&graph, options)
}

/// The products of an artifact, whatever targets it has code for.
///
/// # Errors
/// A graph that does not parse, or that there are no GPU kernels for.
pub fn of_artifact(artifact: &Artifact, options: GpuOptions) -> Result<Vec<Product>> {
    let graph = rabitc_ir::text::parse(artifact.graph()?).context("the artifact's graph")?;
    products(&graph, options)
}

fn products(graph: &Graph, options: GpuOptions) -> Result<Vec<Product>> {
    // Tuning is held against the cost model.
    let unmeasured = GpuTables::default();
    let plan = plan(graph, options, &|product| unmeasured.find(product))?;
    Ok(plan.products)
}

/// Bits of quantised inputs that a format of activations stands for on GPUs.
pub fn planes(activations: &str) -> usize {
    match activations {
        "int8" => 8,
        _ => 16,
    }
}

/// What is planned for.
pub fn options(arch: SmArch, activations: &str) -> GpuOptions {
    GpuOptions {
        arch,
        planes: planes(activations),
    }
}
