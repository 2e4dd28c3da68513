//! `rabitc export`: a residual-binary checkpoint for programs that know dense ones only.

use std::path::PathBuf;

use anyhow::Result;
use rabitc_ir::DType;
use rabitc_train::export::export;

use crate::ui;

/// Write the dense weights that a residual-binary checkpoint amounts to
///
/// Every residual-binary layer becomes the matrix that it multiplies by, Σ_i g_i ⊙ B_i ⊙ h_i, in an
/// ordinary Hugging Face checkpoint, so that any other program can evaluate the model. DIR is a
/// folder that `rabitc train` wrote, or any other checkpoint in one of the residual-binary forms.
#[derive(clap::Args)]
#[command(
    after_long_help = "Examples:\n  rabitc export run --hf dense\n  rabitc export run --hf dense --dtype bf16"
)]
pub struct Args {
    /// The checkpoint
    #[arg(value_name = "DIR")]
    checkpoint: PathBuf,
    /// The folder to write; must be empty or not exist
    #[arg(long, value_name = "OUT")]
    hf: PathBuf,
    /// The type of all tensors: f32 (as exact as the sums are), bf16 or f16
    #[arg(long, default_value = "f32", value_parser = ["f32", "bf16", "f16"])]
    dtype: String,
    /// Print one JSON object: tensors, layers (those of them that were residual-binary), bytes
    #[arg(long)]
    json: bool,
}

/// Carries the verb out.
pub fn run(args: &Args) -> Result<()> {
    let dtype = match args.dtype.as_str() {
        "bf16" => DType::BF16,
        "f16" => DType::F16,
        _ => DType::F32,
    };
    let done = export(&args.checkpoint, &args.hf, dtype)?;
    if args.json {
        return ui::print_json(&done);
    }
    ui::print(&format!(
        "{}: {} tensors, {} of them residual-binary layers, {}\n",
        args.hf.display(),
        done.tensors,
        done.layers,
        ui::size(done.bytes)
    ))
}
