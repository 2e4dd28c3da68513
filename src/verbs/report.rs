//! `rabitc report`: runs of training as a page, or in numbers.

use std::path::PathBuf;

use anyhow::{Context, Result};
use rabitc_train::report::Report;

use crate::ui;

/// Write a page about one or several runs of training
///
/// One HTML file without anything to load: what each run reached, losses by step, correlation and
/// error of the paths by layer, settings. With several runs, all are compared.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The folders of the runs
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// The page [default: report.html in the first folder; with --json, none]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print what each run reached as a JSON array: run, recipe, engine, steps, tokens,
    /// tokens_per_second, optimizer_per_binarized, first and last (validations), paths_first and
    /// paths_last (how the layers' paths relate)
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  rabitc report run
  rabitc report rabit independent -o both.html
  rabitc report run --json";

/// Carries the verb out.
pub fn run(args: &Args) -> Result<()> {
    let report = Report::read(&args.dirs)?;
    let path = match (&args.output, args.dirs.first()) {
        (Some(path), _) => Some(path.clone()),
        (None, Some(dir)) if !args.json => Some(dir.join("report.html")),
        _ => None,
    };
    if let Some(path) = &path {
        rabitc_files::write(path, report.page().as_bytes())
            .with_context(|| path.display().to_string())?;
    }
    match (args.json, &path) {
        (true, _) => ui::print_json(&report.figures()),
        (false, Some(path)) => ui::print(&format!("{}\n", path.display())),
        (false, None) => Ok(()),
    }
}
