//! What a model runs on a GPU: its plan, and the products in it that could be cut otherwise.

use std::path::Path;

use anyhow::{Context, Result};
use rabitc_codegen::cuda::plan::{GpuOptions, GpuPlan, plan};
use rabitc_frontend::graph_of_config;
use rabitc_ir::Graph;
use rabitc_passes::Options;
use rabitc_passes::materialize::materialize;
use rabitc_rbx::{Artifact, SmArch};

use super::tables::GpuTables;

/// What a model runs.
pub struct Demand {
    /// The graph at run time.
    pub graph: Graph,
    /// Its plan as the cost model has it, with all products that could be cut otherwise.
    pub plan: GpuPlan,
}

/// The demand of a model that is compiled from a dense checkpoint with this `config.json`. Runs
/// the frontend, the passes and the plan; there are no weights.
///
/// # Errors
/// A file that cannot be read, a configuration or options that are refused, or a model that there
/// are no GPU kernels for.
pub fn of_config(config: &Path, passes: &Options, options: GpuOptions) -> Result<Demand> {
    let mut graph = graph_of_config(config)?;
    rabitc_passes::run(&mut graph, passes, &mut |_, _, _| Ok(()))?;
    let (graph, _) = materialize(&graph)?;
    planned(graph, options)
}

/// The demand of an artifact, whatever targets it has code for.
///
/// # Errors
/// A graph that does not parse, or that there are no GPU kernels for.
pub fn of_artifact(artifact: &Artifact, options: GpuOptions) -> Result<Demand> {
    let graph = rabitc_ir::text::parse(artifact.graph()?).context("the artifact's graph")?;
    planned(graph, options)
}

fn planned(graph: Graph, options: GpuOptions) -> Result<Demand> {
    // Tuning is held against the cost model.
    let unmeasured = GpuTables::default();
    let plan = plan(&graph, options, &|product| unmeasured.find(product))?;
    Ok(Demand { graph, plan })
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
