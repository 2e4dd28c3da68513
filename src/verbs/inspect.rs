//! `rabitc inspect`: what an artifact holds.

mod gpu;
pub mod group;
mod launches;
mod listing;
mod overview;

use std::path::PathBuf;

use anyhow::{Context, Result};
use rabitc_rbx::Artifact;

use crate::ui;

/// Show what an artifact holds: model, layers, kernels, sizes, hashes
///
/// The artifact is only read, so this works on any machine. Everything but the weights is checked
/// against its hash on the way; `rabitc verify` checks the weights too.
///
/// Layers that differ in nothing but their number share a line. The kernels are those of all
/// programs: the one that reads single tokens and the one that reads blocks of tokens.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The artifact
    model: PathBuf,
    /// Print the whole manifest as JSON
    #[arg(long, conflicts_with_all = ["hashes", "plan", "graph"])]
    json: bool,
    /// List the hash of every tensor and section
    #[arg(long)]
    hashes: bool,
    /// List the steps of the programs
    #[arg(long)]
    plan: bool,
    /// Print the graph that the programs compute, as text
    #[arg(long)]
    graph: bool,
}

const EXAMPLES: &str = "\
Examples:
  rabitc inspect model.rbx
  rabitc inspect model.rbx --plan
  rabitc inspect model.rbx --graph > model.rbir
  rabitc inspect model.rbx --json | jq .model";

/// Carries the verb out. Without options it is the overview that is printed.
pub fn run(args: &Args) -> Result<()> {
    let artifact = Artifact::open(&args.model)?;
    if args.json {
        return ui::print_json(artifact.manifest());
    }
    if !(args.hashes || args.plan || args.graph) {
        return ui::print(&(overview::overview(&artifact) + &gpu::gpus(&artifact)));
    }
    if args.hashes {
        ui::print(&listing::hashes(&artifact))?;
    }
    if args.plan {
        let manifest = artifact.manifest();
        ui::print(&(listing::plan(manifest) + &launches::plan(manifest)))?;
    }
    if args.graph {
        let name = || args.model.display().to_string();
        ui::print(artifact.graph().with_context(name)?)?;
    }
    Ok(())
}
