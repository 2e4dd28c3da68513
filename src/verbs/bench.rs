//! `rabitc bench`: how fast an artifact reads and generates, and what the memory allows.

mod device_steps;
mod measure;
mod render;
mod stats;
mod steps;
mod traffic;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::ValueEnum;
use rabitc_runtime::{Device, Session};

use crate::open::{self, DeviceArgs, ThreadArgs};
use crate::ui;

/// Measure the speed of an artifact on this machine
///
/// Two tests, each after a warm-up and repeated -r times: reading a prompt of -p tokens at once,
/// and generating -n tokens one by one with greedy choice. Both give tokens a second: mean ±
/// standard deviation, and the median.
///
/// A generated token needs every weight once, so memory bandwidth bounds the speed of small
/// batches. The table gives the bytes that a token reads (weights, a row of the embedding, and the
/// keys and values of the positions it attends to), the rate at the median speed, and that rate's
/// share of the bandwidth at which as many threads read plain memory. That is measured before,
/// between and after the repetitions, since it changes with what else the machine does; the median
/// counts. It takes up to 1 GiB of memory. A model that fits into the caches can exceed 100%.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The artifact
    model: PathBuf,
    /// Tokens of the prompt; 0 leaves this test out
    #[arg(short, long, value_name = "N", default_value_t = 512)]
    prompt: usize,
    /// Tokens to generate; 0 leaves this test out
    #[arg(short = 'n', long, value_name = "N", default_value_t = 128)]
    generate: usize,
    /// Repetitions
    #[arg(short, long, value_name = "N", default_value_t = 5)]
    repetitions: usize,
    /// Positions that are in the context before each test
    #[arg(short, long, value_name = "N", default_value_t = 0)]
    depth: usize,
    /// Show where the time of a generated token goes, step by step, instead; on a GPU, every part
    /// of one step after --depth positions: of generating a token, or, with -n 0, of reading the prompt
    #[arg(long)]
    steps: bool,
    /// On a GPU: measure steps for so many tokens each after --depth positions instead; with
    /// --steps, every part of them
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    tokens: Vec<usize>,
    /// The form of the result
    #[arg(short, long, value_name = "FORM", value_enum, default_value_t = Form::Md)]
    output: Form,
    #[command(flatten)]
    threads: ThreadArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// The form of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A Markdown table
    Md,
    /// One JSON object
    Json,
    /// One line a test, with titles
    Csv,
}

const EXAMPLES: &str = "\
Examples:
  rabitc bench model.rbx
  rabitc bench model.rbx -p 0 -n 64 -r 20 --threads 1
  rabitc bench model.rbx --steps -n 32
  rabitc bench model.rbx --device cuda --tokens 1,2,4,8,16 --depth 512
  rabitc bench model.rbx --depth 4096 --output json";

/// Carries the verb out.
pub fn run(args: &Args) -> Result<()> {
    if args.prompt == 0 && args.generate == 0 {
        bail!("-p 0 -n 0: there is nothing to measure");
    }
    if args.repetitions == 0 {
        bail!("-r 0: there is nothing to measure");
    }
    if args.tokens.contains(&0) {
        bail!("--tokens 0: a step reads at least one token");
    }
    if !args.tokens.is_empty() && args.device.device == Device::Cpu {
        bail!("--tokens measures steps on a GPU: add --device cuda");
    }
    let model = open::model(&args.model, args.device)?;
    let limit = model.manifest().model.context_length;
    let most = args.tokens.iter().copied().max();
    let read = most.unwrap_or(args.prompt.max(args.generate));
    let needed = args.depth.saturating_add(read);
    if needed > limit {
        let name = open::name(&model);
        bail!(
            "{name}: {needed} positions are needed, the model was made for {limit}: lower -p, -n or --depth"
        );
    }
    let pool = args.threads.pool()?;
    let mut session = open::session(&model, &pool, needed)?;
    let plan = measure::Plan {
        prompt: args.prompt,
        generate: args.generate,
        depth: args.depth,
        repetitions: args.repetitions,
    };
    if args.steps {
        return show_steps(args, &plan, &mut session);
    }
    if !args.tokens.is_empty() {
        return token_steps(args, &mut session);
    }
    let samples = measure::measure(&mut session, &pool, &plan)?;
    let report = render::Report::new(&session, pool.threads(), &plan, &samples)?;
    match args.output {
        Form::Md => report.print_markdown(),
        Form::Json => report.print_json(),
        Form::Csv => report.print_csv(),
    }
}

/// Shows where the time of a step goes.
fn show_steps(args: &Args, plan: &measure::Plan, session: &mut Session) -> Result<()> {
    if args.output == Form::Csv {
        bail!("--steps gives tables and JSON: leave --output csv out");
    }
    if !session.is_on_gpu() {
        let steps = steps::measure(session, plan)?;
        return match args.output {
            Form::Json => ui::print_json(&steps),
            _ => ui::print(&steps::render(&steps)),
        };
    }
    let one = match args.generate {
        0 => args.prompt.min(session.max_tokens()),
        _ => 1,
    };
    let tokens = match args.tokens.as_slice() {
        [] => &[one],
        tokens => tokens,
    };
    let steps = device_steps::parts(session, args.depth, tokens)?;
    match args.output {
        Form::Json => ui::print_json(&serde_json::json!({ "depth": args.depth, "steps": steps })),
        _ => ui::print(&device_steps::render_parts(&steps)),
    }
}

/// Measures steps for several tokens.
fn token_steps(args: &Args, session: &mut Session) -> Result<()> {
    let steps = device_steps::steps(session, args.depth, &args.tokens)?;
    match args.output {
        Form::Md => ui::print(&device_steps::render_steps(&steps)),
        Form::Json => ui::print_json(&serde_json::json!({ "depth": args.depth, "steps": steps })),
        Form::Csv => ui::print(&device_steps::csv(&steps)),
    }
}
