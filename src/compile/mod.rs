//! From a checkpoint to an artifact: frontend → passes → plan → code → file.

pub mod code;
pub mod emit;
pub mod entries;
pub mod layers;
pub mod report;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use rabitc_codegen::kernels::Spec;
use rabitc_codegen::plan::{KernelTable, PlanOptions, plan};
use rabitc_frontend::{Checkpoint, LowerOptions, ModelInfo, lower};
use rabitc_ir::Graph;
use rabitc_passes::fitted::FittedStore;
use rabitc_passes::materialize::{Materialized, materialize};
use rabitc_passes::svid::Init;
use rabitc_rbx::{Kernel, Level, Manifest, Model, Program};

use emit::Emit;

/// What is compiled, into what, and how.
pub struct Options {
    /// A checkpoint folder, a `.safetensors` file, or a sharded index.
    pub checkpoint: PathBuf,
    /// Where the artifact goes; nothing is written without one.
    pub output: Option<PathBuf>,
    /// CPU levels to generate code for.
    pub levels: Vec<Level>,
    /// What the passes are told.
    pub passes: rabitc_passes::Options,
    /// How scales are fitted to dense weights.
    pub init: Init,
    /// What the frontend is told.
    pub lower: LowerOptions,
    /// Stages to write out.
    pub emit: Vec<Emit>,
    /// The options that matter to the result, for the manifest.
    pub record: BTreeMap<String, String>,
}

/// Told how far a compilation is.
pub trait Progress {
    /// A phase begins; `total` is in bytes, 0 where it is not known.
    fn phase(&mut self, name: &'static str, total: u64);
    /// More of the phase is done.
    fn advance(&mut self, bytes: u64);
}

/// What a compilation did.
pub struct Summary {
    /// The manifest as written.
    pub manifest: Manifest,
    /// Time by phase, in order.
    pub times: Vec<(&'static str, Duration)>,
    /// Bytes of the checkpoint's tensors.
    pub source_bytes: u64,
    /// Bytes of the artifact; 0 if none was written.
    pub output_bytes: u64,
}

/// A model after the passes, planned.
struct Planned {
    graph: Graph,
    run_graph: Graph,
    tensors: Vec<Materialized>,
    kernels: Vec<Box<dyn Spec>>,
    programs: Vec<Program>,
}

/// Compiles a checkpoint.
pub fn compile(options: &Options, progress: &mut dyn Progress) -> Result<Summary> {
    let mut times = Vec::new();
    let mut clock = Instant::now();
    let mut lap = |name: &'static str, clock: &mut Instant| {
        times.push((name, clock.elapsed()));
        *clock = Instant::now();
    };
    progress.phase("reading the checkpoint", 0);
    let checkpoint = Checkpoint::open(&options.checkpoint)?;
    let lowered = lower(&checkpoint, &options.lower)?;
    emit::graph(&options.emit, "ir", &lowered.graph)?;
    lap("frontend", &mut clock);
    progress.phase("running passes", 0);
    let planned = run_passes(lowered.graph, options)?;
    lap("passes and plan", &mut clock);
    progress.phase("generating code", 0);
    let code = code::generate(&planned.kernels, &options.levels, &options.emit)?;
    lap("code", &mut clock);
    let store = FittedStore::new(&checkpoint, &planned.graph, options.init);
    let mut manifest = manifest(&planned, &lowered.model, options, &code);
    manifest.layers = layers::layers(&planned.run_graph, &planned.graph, &checkpoint, &planned.programs);
    let names = planned.kernels.iter();
    manifest.kernels = names.zip(&code.signatures).map(|(spec, (params, scalars))| Kernel {
        name: spec.name(),
        params: params.clone(),
        scalars: scalars.clone(),
    }).collect();
    layers::name_kernels(&mut manifest);
    manifest.built_from.extend(entries::provenance(&checkpoint)?);
    let mut output_bytes = 0;
    if let Some(output) = &options.output {
        let entries = entries::entries(&planned.graph, &planned.run_graph, &planned.tensors, &store, &checkpoint, &code)?;
        let total = entries.iter().map(|e| e.bytes as u64).sum();
        progress.phase(if store.layers() > 0 { "fitting and packing" } else { "packing" }, total);
        manifest = rabitc_rbx::write(output, manifest, entries, &mut |bytes| progress.advance(bytes as u64))?;
        output_bytes = std::fs::metadata(output).map(|m| m.len()).unwrap_or(0);
        lap("fit, pack and write", &mut clock);
    }
    Ok(Summary {
        manifest,
        times,
        source_bytes: checkpoint.total_bytes(),
        output_bytes,
    })
}

/// Passes, materialisation, plans.
fn run_passes(mut graph: Graph, options: &Options) -> Result<Planned> {
    rabitc_passes::run(&mut graph, &options.passes, &mut |pass, graph, _| {
        let stage = format!("ir-after={}", pass.name);
        emit::graph(&options.emit, &stage, graph).map_err(|e| format!("{e:#}"))
    })?;
    let (run_graph, tensors) = materialize(&graph)?;
    emit::dot(&options.emit, &run_graph)?;
    let mut kernels = KernelTable::default();
    let programs = [PlanOptions::DECODE, PlanOptions::PREFILL]
        .into_iter()
        .map(|o| plan(&run_graph, o, &mut kernels).context("planning"))
        .collect::<Result<Vec<_>>>()?;
    Ok(Planned {
        graph,
        run_graph,
        tensors,
        kernels: kernels.specs,
        programs,
    })
}

fn manifest(planned: &Planned, info: &ModelInfo, options: &Options, code: &code::Code) -> Manifest {
    Manifest {
        format: rabitc_rbx::FORMAT,
        generator: concat!("rabitc ", env!("CARGO_PKG_VERSION")).to_string(),
        model: Model {
            architecture: info.architecture.clone(),
            family: info.family.to_string(),
            vocab_size: info.vocab_size,
            context_length: info.context_length,
            hidden_size: info.hidden_size,
            n_layers: info.n_layers,
            n_heads: info.n_heads,
            n_kv_heads: info.n_kv_heads,
            head_dim: info.head_dim,
            bos: info.bos,
            eos: info.eos.clone(),
        },
        activations: options.passes.activations.name().to_string(),
        built_from: options.record.clone(),
        layers: Vec::new(),
        targets: code.targets.clone(),
        kernels: Vec::new(),
        programs: planned.programs.clone(),
        hashes: BTreeMap::new(),
    }
}

/// The levels that `--target` names, each once, lowest first.
pub fn parse_targets(text: &str) -> Result<Vec<Level>> {
    let mut levels = Vec::new();
    for target in text.split(',').map(str::trim) {
        let level = target.strip_prefix("cpu:").ok_or_else(|| {
            anyhow!("unknown target `{target}`: targets are cpu:native or cpu:LEVEL, e.g. cpu:x86-64-v3")
        })?;
        levels.push(match level {
            "native" => Level::native().ok_or_else(|| {
                anyhow!("this machine is below every CPU level that code can be generated for")
            })?,
            name => name.parse().map_err(|e: String| anyhow!(e))?,
        });
    }
    levels.sort();
    levels.dedup();
    Ok(levels)
}
