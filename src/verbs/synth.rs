//! `rabitc synth`: random checkpoints.

use std::path::PathBuf;

use anyhow::Result;
use rabitc_frontend::{SynthOptions, synth};
use serde_json::json;

use crate::ui::{self, Unit};

/// Write a random checkpoint of any supported architecture
///
/// The checkpoint has the tensors that CONFIG.json asks for, filled with random numbers, so that
/// the speed and size of a model can be measured without downloading one; its output has no
/// meaning. The same configuration, options and seed give the same bytes.
///
/// Weights are bf16; with --packed the linear layers of the blocks are residual-binary already,
/// signs packed at one bit a weight and path. A Llama-2-7B shape takes 13.5 GB dense and 2.2 GB
/// with --packed --paths 2, of which embedding and head are 0.5 GB.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// A config.json in the Hugging Face form
    config: PathBuf,
    /// The folder to write; must be empty or not exist
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Write residual-binary layers, packed, instead of dense ones
    #[arg(long)]
    packed: bool,
    /// Binary paths of a packed layer, 1 to 8
    #[arg(long, value_name = "K", default_value_t = 2, requires = "packed")]
    paths: usize,
    /// Where the random numbers start
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Print the summary as JSON: tensors, files, bytes
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  rabitc synth llama-2-7b.json -o llama-random --packed
  rabitc compile llama-random -o llama-random.rbx
  rabitc bench llama-random.rbx";

/// Carries the verb out.
pub fn run(args: &Args) -> Result<()> {
    let options = SynthOptions {
        packed: args.packed,
        paths: args.paths,
        seed: args.seed,
        ..SynthOptions::default()
    };
    let bar = ui::progress(0, Unit::Bytes, "writing");
    let report = synth(&args.config, &args.output, &options, &mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.written);
        bar.set_message(progress.tensor.to_owned());
    })?;
    bar.finish_and_clear();
    if args.json {
        let (tensors, files, bytes) = (report.tensors, report.files, report.bytes);
        return ui::print_json(&json!({"tensors": tensors, "files": files, "bytes": bytes}));
    }
    ui::print(&format!(
        "{}: {} tensors, {} in {} {}\n",
        args.output.display(),
        report.tensors,
        ui::size(report.bytes),
        report.files,
        if report.files == 1 { "file" } else { "files" },
    ))
}
