//! `rabitc verify`: hashes and kernels.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use rabitc_runtime::{Model, Session};

use rabitc::verify::{Check, sampling, verify};

use crate::open::{self, DeviceArgs, ThreadArgs};
use crate::ui::{self, Align, Table};

/// Check an artifact: every hash, and every kernel against the reference interpreter
///
/// The artifact's programs run on random tokens, one token and blocks of tokens, and whatever a
/// kernel computes is compared with what the reference interpreter computes from the same
/// operands, within a bound that follows from the arithmetic of the kernel. The table shows the
/// largest difference of each kernel, and that difference as a share of its bound. On a GPU, the
/// tokens that it draws are held against those of the processor's sampler: differences are counted.
///
/// Exit status: 0 if everything is intact and within bounds, 1 if not.
#[derive(clap::Args)]
#[command(
    after_long_help = "Examples:\n  rabitc verify model.rbx\n  rabitc verify model.rbx --json"
)]
pub struct Args {
    /// The artifact
    model: PathBuf,
    /// Check hashes only, run nothing
    #[arg(long, conflicts_with_all = ["seed", "threads"])]
    hashes_only: bool,
    /// Seed of the random tokens
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    threads: ThreadArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Carries the verb out.
pub fn run(args: &Args) -> Result<()> {
    let model = open::model(&args.model, args.device)?;
    model.artifact().check()?;
    let tensors = model.artifact().tensors().count();
    let checks = match args.hashes_only {
        true => Vec::new(),
        false => check_kernels(args, model.clone())?,
    };
    let failed: Vec<&Check> = checks
        .iter()
        .filter(|c| c.worst.is_nan() || c.worst > 1.0)
        .collect();
    if args.json {
        let (passed, level) = (failed.is_empty(), model.runs_on());
        ui::print_json(&serde_json::json!({
            "passed": passed, "level": level, "tensors": tensors, "kernels": checks,
        }))?;
    } else {
        let kernels = table(&checks);
        let hashes = format!("{tensors} tensors and sections: all hashes match\n");
        ui::print(&(kernels + &hashes))?;
    }
    if let Some(worst) = failed.first() {
        bail!(
            "{} of {} kernel checks are out of bounds, the first is %{} ({})",
            failed.len(),
            checks.len(),
            worst.node,
            worst.kernels.join(", ")
        );
    }
    Ok(())
}

fn check_kernels(args: &Args, model: Arc<Model>) -> Result<Vec<Check>> {
    let pool = args.threads.pool()?;
    let text = model.artifact().graph()?;
    let graph = rabitc_ir::text::parse(text).context("the artifact's graph")?;
    let info = &model.manifest().model;
    let (context, vocab) = (info.context_length.min(256), info.vocab_size);
    let runs = runs(args.seed, context, vocab);
    let mut session = Session::new(model.clone(), pool, context)?;
    let bar = ProgressBar::new_spinner();
    let mut progress = |what: &str| {
        bar.set_message(format!("checking {what}"));
        bar.tick();
    };
    let mut checks = verify(&mut session, &graph, &runs, &mut progress)?;
    checks.extend(sampling::checks(&mut session, &mut progress)?);
    bar.finish_and_clear();
    Ok(checks)
}

/// One token, few, one again, more and more: as far as the context goes.
fn runs(seed: u64, context: usize, vocab: usize) -> Vec<Vec<u32>> {
    use rand::{Rng, SeedableRng};
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let mut room = context;
    let mut runs = Vec::new();
    for length in [1, 6, 1, 3, 12, 19] {
        let length = length.min(room);
        room -= length;
        if length > 0 {
            runs.push(
                (0..length)
                    .map(|_| random.random_range(0..vocab as u32))
                    .collect(),
            );
        }
    }
    runs
}

fn table(checks: &[Check]) -> String {
    if checks.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&[
        ("kernel", Align::Left),
        ("tokens", Align::Right),
        ("largest error", Align::Right),
        ("share of bound", Align::Right),
        ("", Align::Left),
    ]);
    for c in checks {
        let verdict = if c.worst <= 1.0 {
            "ok"
        } else {
            "OUT OF BOUNDS"
        };
        table.row([
            c.kernels.join(" + "),
            c.tokens.to_string(),
            format!("{:.2e}", c.max_error),
            format!("{:.1}%", c.worst * 100.0),
            verdict.to_string(),
        ]);
    }
    format!("{table}\n")
}
