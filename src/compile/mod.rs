//! From a checkpoint to an artifact: frontend → passes → plan → code → file.

pub mod code;
pub mod emit;
pub mod entries;
pub mod gpu;
pub mod layers;
pub mod machine;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rabitc_codegen::plan::{KernelTable, PlanOptions, plan};
use rabitc_frontend::{Checkpoint, LowerOptions, ModelInfo, lower};
use rabitc_ir::{Graph, WeightStore};
use rabitc_passes::fitted::FittedStore;
use rabitc_passes::materialize::materialize;
use rabitc_passes::svid::Init;
use rabitc_rbx::{Entry, Layer, Level, Manifest, Model, Program, SmArch};

use crate::tune::gpu::tables::GpuTables;
use emit::Emit;

/// What is compiled, into what, and how.
pub struct Options {
    /// A checkpoint folder, a `.safetensors` file, or a sharded index.
    pub checkpoint: PathBuf,
    /// Where the artifact goes; nothing is written without one.
    pub output: Option<PathBuf>,
    /// What to generate code for.
    pub targets: Targets,
    /// Bit planes of activations in residual-binary products on GPUs, 8 or 16.
    pub planes: usize,
    /// Measurements by which products on GPUs are cut.
    pub gpu_tables: GpuTables,
    /// The code generator.
    pub backend: code::BackendChoice,
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

impl Options {
    /// What compiles a checkpoint for `targets` and writes nothing: 16-bit activations on GPUs, greedy
    /// scales, and everything else as it is by default.
    pub fn new(checkpoint: PathBuf, targets: Targets) -> Options {
        Options {
            checkpoint,
            output: None,
            targets,
            planes: 16,
            gpu_tables: GpuTables::default(),
            backend: code::BackendChoice::default(),
            passes: rabitc_passes::Options::default(),
            init: Init::Greedy,
            lower: LowerOptions::default(),
            emit: Vec::new(),
            record: BTreeMap::new(),
        }
    }
}

/// CPU levels and GPU architectures, each lowest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// CPU levels.
    pub levels: Vec<Level>,
    /// GPU architectures.
    pub gpus: Vec<SmArch>,
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

/// A model on its way into an artifact.
pub struct Input<'a> {
    /// Its graph, as the frontend leaves it.
    pub graph: Graph,
    /// What the manifest says of it.
    pub model: Model,
    /// Its weights.
    pub store: &'a dyn WeightStore,
    /// Text sections by name.
    pub sections: Vec<(&'static str, String)>,
    /// What it is built from.
    pub provenance: BTreeMap<String, String>,
    /// Bytes of its tensors.
    pub source_bytes: u64,
}

/// Compiles a checkpoint.
pub fn compile(options: &Options, progress: &mut dyn Progress) -> Result<Summary> {
    let start = Instant::now();
    progress.phase("reading the checkpoint", 0);
    let checkpoint = Checkpoint::open(&options.checkpoint)?;
    let lowered = lower(&checkpoint, &options.lower)?;
    emit::graph(&options.emit, "ir", &lowered.graph)?;
    let input = Input {
        graph: lowered.graph,
        model: describe(&lowered.model),
        store: &checkpoint,
        sections: entries::side_sections(&checkpoint)?,
        provenance: entries::provenance(&checkpoint)?,
        source_bytes: checkpoint.total_bytes(),
    };
    let frontend = start.elapsed();
    let mut summary = assemble(input, options, progress)?;
    summary.times.insert(0, ("frontend", frontend));
    Ok(summary)
}

/// Passes, plan, code, file.
///
/// # Errors
/// A graph or a shape that there is no code for, weights that cannot be read or fitted, or a file that
/// cannot be written.
pub fn assemble(
    input: Input<'_>,
    options: &Options,
    progress: &mut dyn Progress,
) -> Result<Summary> {
    let mut clock = Clock::new();
    progress.phase("running passes", 0);
    let graph = run_passes(input.graph, options)?;
    let (run_graph, tensors) = materialize(&graph)?;
    emit::dot(&options.emit, &run_graph)?;
    let mut kernels = KernelTable::default();
    let programs = programs(&run_graph, &options.targets.levels, &mut kernels)?;
    clock.lap("passes and plan");
    progress.phase("generating code", 0);
    let code = code::generate(
        &kernels.specs,
        &options.targets.levels,
        options.backend,
        &options.emit,
    )?;
    let gpu = gpu::generate(
        &run_graph,
        &options.targets.gpus,
        options.planes,
        &options.gpu_tables,
        &options.emit,
    )?;
    clock.lap("code");
    let layers = layers::layers(&run_graph, &graph, input.store);
    let mut manifest = manifest(options, input.model, layers, programs, &code, &gpu);
    manifest.built_from.extend(input.provenance);
    layers::name_kernels(&mut manifest);
    let mut output_bytes = 0;
    if let Some(output) = &options.output {
        let store = FittedStore::new(input.store, &graph, options.init);
        let mut entries = entries::sections(&run_graph, input.sections, &code, &gpu);
        entries.extend(entries::weights(&graph, &tensors, &store)?);
        let phase = match store.layers() {
            0 => "packing",
            _ => "fitting and packing",
        };
        manifest = write(output, manifest, entries, phase, progress)?;
        output_bytes = std::fs::metadata(output).map_or(0, |m| m.len());
        clock.lap("fit, pack and write");
    }
    Ok(Summary {
        manifest,
        times: clock.laps,
        source_bytes: input.source_bytes,
        output_bytes,
    })
}

/// The manifest, without hashes and provenance.
fn manifest(
    options: &Options,
    model: Model,
    layers: Vec<Layer>,
    programs: Vec<Program>,
    code: &code::Code,
    gpu: &gpu::GpuCode,
) -> Manifest {
    Manifest {
        format: rabitc_rbx::FORMAT,
        generator: concat!("rabitc ", env!("CARGO_PKG_VERSION")).to_string(),
        model,
        activations: options.passes.activations.name().to_string(),
        built_from: options.record.clone(),
        layers,
        targets: code.targets.clone(),
        gpus: gpu.targets.clone(),
        kernels: code.kernels.clone(),
        programs,
        hashes: BTreeMap::new(),
    }
}

/// Writes the artifact, as the phase of that name.
fn write(
    output: &Path,
    manifest: Manifest,
    entries: Vec<Entry<'_>>,
    phase: &'static str,
    progress: &mut dyn Progress,
) -> Result<Manifest> {
    progress.phase(phase, entries.iter().map(|e| e.bytes as u64).sum());
    let mut advance = |bytes| progress.advance(bytes as u64);
    Ok(rabitc_rbx::write(output, manifest, entries, &mut advance)?)
}

/// Times of the phases.
struct Clock {
    start: Instant,
    laps: Vec<(&'static str, Duration)>,
}

impl Clock {
    fn new() -> Self {
        Clock {
            start: Instant::now(),
            laps: Vec::new(),
        }
    }

    fn lap(&mut self, name: &'static str) {
        self.laps.push((name, self.start.elapsed()));
        self.start = Instant::now();
    }
}

/// The programs for CPUs, if there is code for any.
fn programs(graph: &Graph, levels: &[Level], kernels: &mut KernelTable) -> Result<Vec<Program>> {
    let modes = match levels.is_empty() {
        true => &[][..],
        false => &[PlanOptions::DECODE, PlanOptions::PREFILL][..],
    };
    let programs = modes.iter();
    programs
        .map(|mode| plan(graph, *mode, kernels).context("planning"))
        .collect()
}

fn run_passes(mut graph: Graph, options: &Options) -> Result<Graph> {
    rabitc_passes::run(&mut graph, &options.passes, &mut |pass, graph, _| {
        let stage = format!("ir-after={}", pass.name);
        emit::graph(&options.emit, &stage, graph).map_err(|e| format!("{e:#}"))
    })?;
    Ok(graph)
}

fn describe(info: &ModelInfo) -> Model {
    Model {
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
    }
}

/// What `--target` names: CPU levels and GPU architectures, each once.
///
/// # Errors
/// A target that there is no such thing as, or a machine below every CPU level.
pub fn parse_targets(text: &str) -> Result<Targets> {
    let mut targets = Targets::default();
    let mut kind = "";
    for target in text.split(',').map(str::trim) {
        // `cuda:sm_90,sm_80`: a name without a kind has that of the one before.
        let (here, name) = target.split_once(':').unwrap_or((kind, target));
        kind = here;
        match kind {
            "cpu" => targets.levels.push(cpu_level(name)?),
            "cuda" => targets
                .gpus
                .push(name.parse().map_err(|e: String| anyhow!(e))?),
            _ => bail!(
                "unknown target `{target}`: targets are cpu:native, cpu:LEVEL, e.g. cpu:x86-64-v3, \
                 and cuda:ARCHITECTURE, e.g. cuda:sm_90"
            ),
        }
    }
    targets.levels.sort();
    targets.levels.dedup();
    targets.gpus.sort();
    targets.gpus.dedup();
    Ok(targets)
}

fn cpu_level(name: &str) -> Result<Level> {
    match name {
        "native" => Level::native().ok_or_else(|| {
            anyhow!("this machine is below every CPU level that code can be generated for")
        }),
        name => name.parse().map_err(|e: String| anyhow!(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_targets;

    #[test]
    fn targets_are_sorted_and_a_kind_holds_on() {
        let targets = parse_targets("cuda:sm_90, sm_80,cpu:x86-64-v3,cuda:sm_90").unwrap();
        let gpus: Vec<_> = targets.gpus.iter().map(|g| g.to_string()).collect();
        assert_eq!(gpus, ["sm_80", "sm_90"]);
        assert_eq!(targets.levels.len(), 1);
        for (bad, word) in [
            ("sm_90", "unknown target"),
            ("cuda:sm_70", "older"),
            ("cuda:90", "no GPU"),
            ("tpu:1", "unknown"),
        ] {
            assert!(
                parse_targets(bad).unwrap_err().to_string().contains(word),
                "{bad}"
            );
        }
    }
}
