//! `rabitc report`: runs of training as a page.

use std::path::PathBuf;

use anyhow::{Context, Result};
use rabitc_train::report::report;

use crate::ui;

/// Write a page about one or several runs of training
///
/// One HTML file without anything to load: what each run reached, losses by step, correlation and
/// error of the paths by layer, settings. With several runs, all are compared.
#[derive(clap::Args)]
#[command(
    after_long_help = "Examples:\n  rabitc report run\n  rabitc report rabit independent -o both.html"
)]
pub struct Args {
    /// The folders of the runs
    #[arg(required = true, value_name = "DIR")]
    dirs: Vec<PathBuf>,
    /// The page [default: report.html in the first folder]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Carries the verb out.
pub fn run(args: &Args) -> Result<()> {
    let page = report(&args.dirs)?;
    let path = match (&args.output, args.dirs.first()) {
        (Some(path), _) => path.clone(),
        (None, first) => first.cloned().unwrap_or_default().join("report.html"),
    };
    std::fs::write(&path, page).with_context(|| path.display().to_string())?;
    ui::print(&format!("{}\n", path.display()))
}
