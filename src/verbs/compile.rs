//! `rabitc compile`: a checkpoint becomes an artifact.

mod report;
mod tuned;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::builder::NonEmptyStringValueParser;
use indicatif::{ProgressBar, ProgressStyle};
use rabitc_files::AtomicFile;
use rabitc_frontend::LowerOptions;
use rabitc_ir::ops::residual_binary::Activations;
use rabitc_passes::svid::Init;
use rabitc_passes::tiles::Tiles;
use rabitc_passes::{HeadForm, Pattern};

use rabitc::compile::code::BackendChoice;
use rabitc::compile::emit::{self, Emit};
use rabitc::compile::machine;
use rabitc::compile::{self, Options, Progress};

use crate::{open, ui};
use tuned::tuned;

/// Cycles of the iterative fit, unless --init-iters says otherwise.
const ITERS: u32 = 20;

/// Compile a checkpoint into one .rbx artifact: packed weights, native code, tokenizer
///
/// CHECKPOINT is a Hugging Face folder, a .safetensors file with config.json beside it, or a
/// model.safetensors.index.json. Dense linear layers of the blocks are turned into residual-binary
/// paths; layers that the checkpoint already holds in residual-binary form are taken as they are.
/// Embeddings, norms and the LM head stay dense unless told otherwise.
///
/// Tensors are read through a memory map and handled one at a time, so that models larger than
/// memory can be compiled. The artifact appears under its name only when it is complete.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The checkpoint: a folder, a .safetensors file or a .safetensors.index.json
    checkpoint: PathBuf,
    /// The artifact to write; may be left out when --emit is given
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Binary paths of a binarized layer, 1 to 8: one bit a weight each
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    paths: u8,
    /// How scales are fitted to dense weights: greedy (one pass) or iterative (better)
    #[arg(long, default_value = "iterative", value_parser = ["greedy", "iterative"])]
    init: String,
    /// Cycles of the iterative fit [default: 20]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    init_iters: Option<u32>,
    /// Leave every dense layer dense: the baseline that comparisons need
    #[arg(long, conflicts_with_all = ["paths", "keep_dense_layers"])]
    keep_dense: bool,
    /// Leave dense layers whose name matches dense; * and ? are wildcards, a plain word matches
    /// any name that contains it (may be repeated)
    #[arg(long, value_name = "PATTERN", value_parser = NonEmptyStringValueParser::new())]
    keep_dense_layers: Vec<String>,
    /// The form of the LM head: bf16, int8 or paths=K [default: as the checkpoint has it]
    #[arg(long, value_name = "FORM", value_parser = parse_head)]
    lm_head: Option<HeadForm>,
    /// The format of activations inside residual-binary products. On CPUs: int8 or int16 (partial
    /// sums as integers, one scale for 256 inputs), f32 (exact up to rounding), or auto: the most
    /// exact one that keeps up with the memory on the target. On GPUs: int8 or int16 (whole
    /// numbers, one scale for 256 inputs), which is also what auto gives
    #[arg(long, default_value = "auto", value_parser = ["auto", "int8", "int16", "f32"])]
    activations: String,
    /// What to generate code for, separated by commas: cpu:native, CPU levels, e.g. cpu:x86-64-v3,
    /// and GPU architectures, e.g. cuda:sm_90,sm_80
    #[arg(long, default_value = "cpu:native")]
    target: String,
    /// The code generator: cranelift (128-bit vectors), llvm (as wide as the target has), or auto:
    /// llvm where this program was built with it
    #[arg(long, default_value = "auto", value_parser = ["auto", "cranelift", "llvm"])]
    backend: String,
    /// Use the tiles that `rabitc tune` measured on this machine; layers that were not measured get
    /// the heuristic's, or on GPUs those of the tables that come with this program, which are used
    /// without this option too, or else the cost model's. FILE is a cache other than tune's default
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    tuned: Option<Option<PathBuf>>,
    /// Fewer positions than the model was made for, to save memory when it runs
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Precision of the rotary frequencies: checkpoint rounds them to the checkpoint's dtype (a
    /// model cast as a whole), f32 does not (a model loaded with a dtype); auto rounds up to
    /// 2048 positions of context
    #[arg(long, default_value = "auto", value_parser = ["auto", "checkpoint", "f32"])]
    rope_precision: String,
    /// Write a stage to standard output or a file: ir, ir-after=PASS, kir, clif, llvm, asm, dot,
    /// cuda, ptx, sass (may be repeated or separated by commas)
    #[arg(long, value_name = "STAGE[:FILE]", value_delimiter = ',')]
    emit: Vec<Emit>,
    /// Print the summary as JSON
    #[arg(long, requires = "output")]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  rabitc compile models/books-1m -o books.rbx
  rabitc compile Llama-3.2-1B -o llama.rbx --paths 3 --lm-head int8
  rabitc compile Qwen3-0.6B -o dense.rbx --keep-dense --activations f32
  rabitc compile Qwen3-0.6B -o fast.rbx --tuned
  rabitc compile models/books-1m --emit ir-after=fuse-paths
  rabitc compile Llama-3.2-1B -o llama.rbx --target cpu:native,cuda:sm_90
  rabitc compile models/books-1m --emit asm:kernels.s,kir:kernels.kir";

fn parse_head(text: &str) -> Result<HeadForm, String> {
    match text.strip_prefix("paths=") {
        Some(paths) => match paths.parse() {
            Ok(k) if (1..=8).contains(&k) => Ok(HeadForm::Paths(k)),
            _ => Err(format!("`{paths}` paths: 1 to 8 are possible")),
        },
        None if text == "bf16" => Ok(HeadForm::Bf16),
        None if text == "int8" => Ok(HeadForm::Int8),
        None => Err("the forms are bf16, int8 and paths=K".into()),
    }
}

/// The form as the command line spells it.
fn head_name(form: HeadForm) -> String {
    match form {
        HeadForm::AsStored => "as stored".into(),
        HeadForm::Bf16 => "bf16".into(),
        HeadForm::Int8 => "int8".into(),
        HeadForm::Paths(k) => format!("paths={k}"),
    }
}

/// Carries the verb out.
pub fn run(args: &Args) -> Result<()> {
    check(args)?;
    let options = options(args)?;
    let mut bar = Bar(ProgressBar::new_spinner());
    let summary = compile::compile(&options, &mut bar);
    bar.0.finish_and_clear();
    let summary = summary?;
    if args.output.is_none() {
        return Ok(());
    }
    let tuned = &options.passes.tiles.tuned;
    match args.json {
        true => ui::print_json(&report::json(&summary, tuned)),
        false => ui::print(&report::table(&summary, tuned)),
    }
}

/// Refuses what could not be done, or would go unheeded, before anything is read.
fn check(args: &Args) -> Result<()> {
    let Some(output) = &args.output else {
        return match args.emit.is_empty() {
            true => bail!("nothing to do: give -o FILE, or --emit STAGE"),
            false => emit::check(&args.emit),
        };
    };
    if args.json && args.emit.iter().any(|e| e.file.is_none()) {
        bail!("--json: standard output is for the summary alone; give --emit STAGE:FILE");
    }
    emit::check(&args.emit)?;
    let created = AtomicFile::create(output).map(drop);
    created.with_context(|| output.display().to_string())
}

/// How scales are fitted.
fn init(args: &Args) -> Result<Init> {
    match (args.init.as_str(), args.init_iters) {
        ("greedy", Some(_)) => bail!("--init-iters: the greedy fit has no cycles"),
        ("greedy", None) => Ok(Init::Greedy),
        (_, iters) => Ok(Init::Iterative {
            iters: iters.unwrap_or(ITERS),
        }),
    }
}

fn options(args: &Args) -> Result<Options> {
    let init = init(args)?;
    let backend = BackendChoice::parse(&args.backend);
    let targets = compile::parse_targets(&args.target)?;
    if args.activations == "f32" && !targets.gpus.is_empty() {
        bail!(
            "--activations f32: GPUs have int8 and int16; compile for CPUs alone, or leave it out"
        );
    }
    let machine = machine::machine(&*backend.backend()?, &targets.levels);
    let activations = match args.activations.as_str() {
        "f32" => Activations::F32,
        "int16" => Activations::Int16,
        "int8" => Activations::Int8,
        _ => machine::activations(&machine),
    };
    let (tuned, gpu_tables) = tuned(args, &*backend.backend()?, &targets, activations)?;
    Ok(Options {
        checkpoint: args.checkpoint.clone(),
        output: args.output.clone(),
        targets,
        planes: match args.activations.as_str() {
            "int8" => 8,
            _ => 16,
        },
        gpu_tables,
        backend,
        passes: rabitc_passes::Options {
            paths: args.paths.into(),
            keep_dense: args.keep_dense,
            keep_dense_layers: args
                .keep_dense_layers
                .iter()
                .map(|p| Pattern::new(p))
                .collect(),
            head: args.lm_head.unwrap_or(HeadForm::AsStored),
            activations,
            tiles: Tiles { machine, tuned },
        },
        init,
        lower: LowerOptions {
            context_length: args.context,
            buffers: open::buffers(&args.rope_precision),
        },
        emit: args.emit.clone(),
        record: record(args, init),
    })
}

/// The options that matter to the result; paths of this machine do not.
fn record(args: &Args, init: Init) -> BTreeMap<String, String> {
    let mut record = BTreeMap::new();
    let mut put = |key: &str, value: String| record.insert(key.to_string(), value);
    match args.keep_dense {
        true => put("keep_dense", "true".into()),
        false => put("paths", args.paths.to_string()),
    };
    put(
        "init",
        match init {
            Init::Greedy => "greedy".into(),
            Init::Iterative { iters } => format!("iterative {iters}"),
        },
    );
    let tiles = if args.tuned.is_some() {
        "tuned"
    } else {
        "heuristic"
    };
    put("tiles", tiles.into());
    put("rope_precision", args.rope_precision.clone());
    if !args.keep_dense_layers.is_empty() {
        put("keep_dense_layers", args.keep_dense_layers.join(" "));
    }
    if let Some(head) = args.lm_head {
        put("lm_head", head_name(head));
    }
    record
}

struct Bar(ProgressBar);

impl Progress for Bar {
    fn phase(&mut self, name: &'static str, total: u64) {
        if total > 0 {
            self.0.set_length(total);
            self.0.set_position(0);
            let style = "{msg} [{bar:30}] {bytes}/{total_bytes} {eta}";
            if let Ok(style) = ProgressStyle::with_template(style) {
                self.0.set_style(style);
            }
        }
        self.0.set_message(name);
        self.0.tick();
    }

    fn advance(&mut self, bytes: u64) {
        self.0.inc(bytes);
    }
}
