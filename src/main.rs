//! The `rabitc` command: one file a verb under `verbs/`.

mod cli;
mod open;
mod signals;
mod ui;
mod verbs;

use std::process::ExitCode;

use clap::Parser;
use rabitc::bandwidth;
use signals::{STOPPED, Stopped};

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    match signals::prepare().and_then(|()| cli.verb.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Stopped>() => {
            eprintln!("rabitc: {error}");
            ExitCode::from(STOPPED)
        }
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rabitc: error: {}", describe(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes on one line, leaving out causes that a message repeats already.
fn describe(error: &anyhow::Error) -> String {
    let mut out = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !out.contains(&cause) {
            let separator = if out.is_empty() { "" } else { ": " };
            out.push_str(&format!("{separator}{cause}"));
        }
    }
    out
}

/// Whether the reader of our output went away, as `head` does: no failure of ours.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error
        .chain()
        .filter_map(|c| c.downcast_ref::<std::io::Error>());
    causes.any(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
