//! `rabitc train`: a dense model becomes a residual-binary one that keeps what it knows.

mod args;
mod dry_run;
mod engines;

use std::path::Path;

use anyhow::{Result, bail};
use indicatif::ProgressBar;
use rabitc_train::corpus::Corpus;
use rabitc_train::job::{Cadence, Job, Observer};
use rabitc_train::metrics::{self, Record, StepRecord, ValidationRecord};
use rabitc_train::teacher::Teacher;
use rabitc_train::validation::Held;
use rabitc_train::{Outcome, recipe::Recipe};
use serde_json::json;

use crate::open;
use crate::signals::{Stop, Stopped};
use crate::ui::{self, Align, Table, Unit};
pub use args::Args;
use engines::Chosen;

/// The longest validation window that is chosen by default.
const DEFAULT_WINDOW: usize = 1024;

/// Carries the verb out.
pub fn run(args: &Args) -> Result<()> {
    args.check()?;
    let recipe = args.recipe();
    // Before text is read, which may take a while.
    recipe.check()?;
    if args.dry_run {
        return dry_run::run(args, &recipe);
    }
    let (Some(dir), false) = (&args.output, args.text.is_empty()) else {
        bail!("training needs -o DIR and --text FILE; --dry-run needs neither");
    };
    let open = |path: &Path| Teacher::open(path, open::buffers(&args.student_args.rope_precision));
    let teacher = open(&args.teacher)?;
    let student = args.student.as_deref().map(open).transpose()?;
    let corpus = |files: &[_]| Corpus::read(&teacher.checkpoint, teacher.info.vocab_size, files);
    let text = corpus(&args.text)?;
    let valid = corpus(&args.valid)?;
    let measuring = &args.measuring;
    let held = (!args.valid.is_empty()).then_some(Held {
        corpus: &valid,
        window: window(measuring.window, teacher.info.context_length),
        most: measuring.max_windows,
    });
    let engines = Chosen::new(args)?;
    let job = Job {
        teacher: &teacher,
        student: student.as_ref(),
        recipe: &recipe,
        cadence: Cadence {
            validate: measuring.validate_every,
            save: measuring.save_every,
            diagnose: !measuring.no_diagnostics,
        },
        corpus: &text,
        held,
        dir,
        resume: args.resume,
        engines: &engines,
    };
    train(args, &job)
}

/// Runs the job, and reports what it has come to.
fn train(args: &Args, job: &Job<'_>) -> Result<()> {
    let (recipe, dir) = (job.recipe, job.dir);
    let mut bar = Bar::new(recipe);
    let outcome = rabitc_train::run(job, &mut bar);
    bar.bar.finish_and_clear();
    let outcome = outcome?;
    if outcome.steps < recipe.steps {
        let (steps, dir) = (outcome.steps, dir.display());
        let what = format!(
            "stopped after step {steps}, which {dir} keeps: the same command with --resume goes on"
        );
        return Err(Stopped(what).into());
    }
    report(args, dir, &outcome)
}

/// The window of validation of a model whose context has `context` tokens.
fn window(wanted: Option<usize>, context: usize) -> usize {
    wanted.unwrap_or(DEFAULT_WINDOW.min(context))
}

/// Shows progress, and measurements as they come.
struct Bar {
    bar: ProgressBar,
    stop: Stop,
}

impl Bar {
    fn new(recipe: &Recipe) -> Bar {
        let bar = ui::progress(recipe.steps, Unit::Items, "training");
        let stop = Stop::first(&bar, "stopping after the update under way");
        Bar { bar, stop }
    }
}

impl Observer for Bar {
    fn phase(&mut self, what: &str) {
        self.bar.set_message(what.to_owned());
        self.bar.tick();
    }

    fn step(&mut self, record: &StepRecord) {
        self.bar.set_position(record.step);
        let (loss, kl) = (record.loss, record.kl);
        let speed = ui::digits(record.tokens_per_second);
        let message = format!("loss {loss:.4}  KL {kl:.4}  {speed} tokens/s");
        self.bar.set_message(message);
    }

    fn validation(&mut self, record: &ValidationRecord) {
        let (step, kl, ppl) = (record.step, record.kl, record.perplexity);
        let theirs = record.teacher_perplexity;
        self.bar.suspend(|| {
            eprintln!("step {step}: KL {kl:.4}, perplexity {ppl:.2} (teacher {theirs:.2})");
        });
    }

    fn stopped(&self) -> bool {
        self.stop.asked()
    }
}

/// The first and last measurement of a run.
fn report(args: &Args, dir: &Path, outcome: &Outcome) -> Result<()> {
    let records = metrics::read(dir)?;
    let validations: Vec<_> = records
        .iter()
        .filter_map(|record| match record {
            Record::Validation(v) => Some(v),
            _ => None,
        })
        .collect();
    let (first, last) = (validations.first(), validations.last());
    if args.measuring.json {
        let (steps, from, seconds) = (outcome.steps, outcome.from, outcome.seconds);
        let memory = outcome.memory;
        let value = json!({
            "steps": steps, "from": from, "seconds": seconds, "first": first, "last": last,
            "memory": {
                "weights": memory.weights, "gradients": memory.gradients,
                "optimizer": memory.moments, "activations": memory.activations,
                "peak": memory.peak,
            },
        });
        return ui::print_json(&value);
    }
    let mut table = Table::new(&[
        ("after step", Align::Right),
        ("KL, nats/token", Align::Right),
        ("perplexity", Align::Right),
        ("teacher's", Align::Right),
    ]);
    for v in [first, last].into_iter().flatten() {
        table.row([
            v.step.to_string(),
            format!("{:.4}", v.kl),
            format!("{:.3}", v.perplexity),
            format!("{:.3}", v.teacher_perplexity),
        ]);
    }
    let table = match validations.is_empty() {
        true => String::new(),
        false => format!("{table}\n"),
    };
    let (dir, steps, seconds) = (dir.display(), outcome.steps, outcome.seconds);
    ui::print(&format!("{table}{dir}: {steps} steps in {seconds:.1} s\n"))
}
