//! `rabitc tune`: which tiles suit a model's layers on this machine.

mod gpu;
mod report;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use indicatif::ProgressBar;
use rabitc::compile::code::BackendChoice;
use rabitc::compile::{machine, parse_targets};
use rabitc::tune::cache::{Cache, default_path};
use rabitc::tune::host::Host;
use rabitc::tune::shapes::{Demand, of_artifact, of_config};
use rabitc::tune::{Request, name, tune};
use rabitc_ir::ops::residual_binary::Activations;
use rabitc_passes::tiles::{Machine, Tiles};
use rabitc_rbx::{Artifact, Level, Manifest};
use rabitc_runtime::Device;

use crate::open::{DeviceArgs, ThreadArgs};
use crate::ui;

/// Measure which tiles suit the layers of a model on this machine
///
/// The signs of a residual-binary layer lie in blocks of 16 rows times the number of row tiles.
/// How many are best depends on the processor, its caches and memory, and on the layer; `compile`
/// chooses by a heuristic. This verb compiles the product of every shape of layer with each number
/// of row tiles, checks what it computes, and times it as the model would run it: on as many
/// threads, with weights that come from memory.
///
/// MODEL is a config.json, which needs no weights, or an artifact. A configuration, also that of a
/// folder, stands for a dense checkpoint that is compiled with --paths K; for a model with other options (a binarized
/// head, layers kept dense), compile it once and give the artifact.
///
/// All times, the slow ones too, go into a cache file, by processor, code generator, threads and
/// shape. `rabitc compile --tuned` reads it.
///
/// With --device cuda, the products of every program (one token, a few, prompts) are measured on the
/// GPU: every way to cut one into blocks, clusters and tiles that the cost model does not rule out,
/// compiled for that card, checked there, and timed in its place in a chain of launches with signs
/// that come from memory: how one is best cut depends on its neighbours. The gain is over the cost
/// model's choices, by program, by kind of kernel and in all.
///
/// Candidates are measured in turns, so that what else the machine does hits all of them alike.
/// The gain over the heuristic is cross-checked: the choice by one half of the rounds, its speed
/// by the other half; between equals it comes out at 1.00 give or take the noise. For times that
/// can be relied on, leave the machine alone while it runs.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// A config.json in the Hugging Face form, a folder with one, or an artifact
    model: PathBuf,
    /// What code is measured: cpu (this machine's level), or a level that it runs, e.g.
    /// cpu:x86-64-v3
    #[arg(long, default_value = "cpu")]
    target: String,
    /// The code generator: cranelift, llvm, or auto: llvm where this program was built with it
    #[arg(long, default_value = "auto", value_parser = ["auto", "cranelift", "llvm"])]
    backend: String,
    /// The format of activations, as for `rabitc compile`; of an artifact, auto is its own
    #[arg(long, default_value = "auto", value_parser = ["auto", "int8", "int16", "f32"])]
    activations: String,
    /// Binary paths of a configuration's layers, 1 to 8 [default: 2]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u8).range(1..=8))]
    paths: Option<u8>,
    /// How long to measure, all shapes together: 60s, 500ms, 2m
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_time)]
    budget: Duration,
    /// The cache file [default: rabitc/tune.json in $XDG_CACHE_HOME or ~/.cache]
    #[arg(long, value_name = "FILE")]
    cache: Option<PathBuf>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    threads: ThreadArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

const EXAMPLES: &str = "\
Examples:
  rabitc tune Qwen3-0.6B/config.json
  rabitc compile Qwen3-0.6B -o qwen.rbx --tuned
  rabitc tune llama-2-7b.json --activations f32 --paths 3 --budget 2m
  rabitc tune model.rbx --threads 1 --cache times.json --json
  rabitc tune llama-2-7b.json --device cuda --budget 60s";

impl Args {
    /// The file that the layers are taken from.
    fn model(&self) -> PathBuf {
        match self.model.is_dir() {
            true => self.model.join("config.json"),
            false => self.model.clone(),
        }
    }
}

/// Carries the verb out.
pub fn run(args: &Args) -> Result<()> {
    if let Device::Cuda(ordinal) = args.device.device {
        return gpu::run(args, ordinal);
    }
    let level = level(&args.target)?;
    let backend = BackendChoice::parse(&args.backend).backend()?;
    let machine = machine::machine(&*backend, &[level]);
    let artifact = is_artifact(&args.model())?;
    let artifact = artifact
        .then(|| Artifact::open(&args.model()))
        .transpose()?;
    let manifest = artifact.as_ref().map(Artifact::manifest);
    let activations = activations(&args.activations, manifest, &machine)?;
    let tiles = Tiles {
        machine,
        ..Tiles::default()
    };
    let demands = demands(args, manifest, activations, &tiles)?;
    let cache = match &args.cache {
        Some(path) => path.clone(),
        None => default_path().context("--cache")?,
    };
    Cache::check(&cache)?;
    let pool = args.threads.pool()?;
    let host = Host::new(&*backend, level, activations, pool.threads())?;
    let request = Request {
        demands: &demands,
        host: &host,
        backend: &*backend,
        pool: &pool,
        heuristic: &tiles,
        budget: args.budget,
    };
    let bar = bar(args.budget);
    let tuned = tune(&request, &mut |shape, elapsed| {
        bar.set_position(elapsed.as_secs());
        bar.set_message(name(shape));
    })?;
    bar.finish_and_clear();
    Cache::add(&cache, tuned.iter().map(|t| t.entry(&host)).collect())?;
    let report = report::Report {
        host: &host,
        activations,
        tuned: &tuned,
        cache: &cache,
    };
    match args.json {
        true => ui::print_json(&report.json()),
        false => ui::print(&report.text()),
    }
}

/// The shapes of the model.
fn demands(
    args: &Args,
    manifest: Option<&Manifest>,
    activations: Activations,
    tiles: &Tiles,
) -> Result<Vec<Demand>> {
    let demands = match (manifest, args.paths) {
        (Some(_), Some(_)) => bail!("--paths: an artifact's paths are what they are"),
        (Some(manifest), None) => of_artifact(manifest, activations),
        (None, paths) => {
            let options = rabitc_passes::Options {
                paths: paths.unwrap_or(2).into(),
                activations,
                tiles: tiles.clone(),
                ..rabitc_passes::Options::default()
            };
            of_config(&args.model(), &options)?
        }
    };
    match demands.is_empty() {
        true => bail!("{}: no layer is residual-binary", args.model().display()),
        false => Ok(demands),
    }
}

/// The format that is asked for; else the artifact's, or the one that suits the machine.
fn activations(asked: &str, manifest: Option<&Manifest>, machine: &Machine) -> Result<Activations> {
    let word = match (asked, manifest) {
        ("auto", Some(manifest)) => manifest.activations.as_str(),
        ("auto", None) => return Ok(machine::activations(machine)),
        (word, _) => word,
    };
    word.parse()
        .map_err(|e: String| anyhow!("activations: {e}"))
}

/// The level that `--target` names: one that runs here.
fn level(target: &str) -> Result<Level> {
    let target = match target {
        "cpu" => "cpu:native",
        other => other,
    };
    let targets = parse_targets(target)?;
    match targets.levels[..] {
        _ if !targets.gpus.is_empty() => bail!("--target {target}: for GPUs, give --device cuda"),
        [level] => Ok(level),
        _ => bail!("--target: one at a time is measured"),
    }
}

/// Whether the file is an artifact: a configuration begins with a brace, an artifact with the
/// length of its header.
fn is_artifact(path: &Path) -> Result<bool> {
    use std::io::Read;
    let name = || path.display().to_string();
    let file = std::fs::File::open(path).with_context(name)?;
    let mut start = Vec::new();
    let read = file.take(16).read_to_end(&mut start);
    read.with_context(name)?;
    let text = start.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{');
    Ok(!text || start.contains(&0))
}

/// Parses a time such as `60s`, `500ms` or `2m`; a number alone is seconds.
fn parse_time(text: &str) -> Result<Duration, String> {
    let (number, factor) = match text {
        t if t.ends_with("ms") => (&t[..t.len() - 2], 1e-3),
        t if t.ends_with('s') => (&t[..t.len() - 1], 1.0),
        t if t.ends_with('m') => (&t[..t.len() - 1], 60.0),
        t => (t, 1.0),
    };
    let seconds = number.trim().parse::<f64>().ok().map(|n| n * factor);
    let time = seconds.filter(|s| *s > 0.0 && *s <= 86400.0);
    time.map(Duration::from_secs_f64)
        .ok_or_else(|| format!("`{text}` is no time up to a day, such as 60s, 500ms or 2m"))
}

fn bar(budget: Duration) -> ProgressBar {
    ui::progress(budget.as_secs(), ui::Unit::Items, "measuring")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        let of = |text: &str| parse_time(text).map(|t| t.as_millis());
        assert_eq!(of("60s"), Ok(60_000));
        assert_eq!(of("500ms"), Ok(500));
        assert_eq!(of("1.5m"), Ok(90_000));
        assert_eq!(of("7"), Ok(7000));
        for bad in ["", "s", "-1s", "0s", "NaNs", "infs", "1h", "1e9m"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn artifacts_are_told_from_configurations() {
        let dir = tempfile::tempdir().unwrap();
        let of = |bytes: &[u8]| {
            let path = dir.path().join("file");
            std::fs::write(&path, bytes).unwrap();
            is_artifact(&path).unwrap()
        };
        assert!(!of(b"{\"architectures\": []}"));
        assert!(!of(b"\n  {}"));
        assert!(of(&[0x7b, 1, 0, 0, 0, 0, 0, 0, b'{']));
        assert!(is_artifact(&dir.path().join("absent")).is_err());
    }
}
