//! `rabitc eval`: perplexity of a text, and how far two artifacts of one model are apart.

mod score;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rabitc_rbx::TOKENIZER;
use rabitc_runtime::pool::Pool;
use rabitc_runtime::{Model, Session};
use serde::Serialize;

use crate::open::{self, DeviceArgs, ThreadArgs};
use crate::ui::{self, Align, Table, Unit};
use score::Totals;

/// The longest window that is chosen by default.
const DEFAULT_WINDOW: usize = 1024;

/// Measure perplexity on a text, and the divergence from a reference
///
/// The whole text is tokenised without BOS or other added tokens and cut into windows of N tokens
/// that do not overlap. Each token is predicted from those before it in its window, the token
/// after a window included, so that a window gives N predictions; what is left at the end and
/// fills no window is dropped. Perplexity is exp of the mean negative log likelihood, so figures
/// compare only where tokenizer and window are the same.
///
/// With --against, the other artifact is the reference, usually the same checkpoint compiled with
/// --keep-dense: KL is the mean of KL(reference ‖ model) over all predictions, in nats a token,
/// and top-1 the share of predictions whose most probable token is the same.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The artifact
    model: PathBuf,
    /// The text, a file in UTF-8
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Tokens of a window [default: 1024, or the model's context length if that is less]
    #[arg(long, value_name = "N")]
    window: Option<usize>,
    /// The reference to compare with, an artifact with the same tokenizer
    #[arg(long, value_name = "OTHER.rbx")]
    against: Option<PathBuf>,
    /// Stop after so many windows
    #[arg(long, value_name = "N")]
    max_windows: Option<usize>,
    /// Print one JSON object: ppl, nll, kl, top1, reference_ppl, tokens, windows, window, seconds
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    threads: ThreadArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

const EXAMPLES: &str = "\
Examples:
  rabitc eval books.rbx --text book.txt
  rabitc compile models/books-1m -o dense.rbx --keep-dense --activations f32
  rabitc eval books.rbx --text book.txt --against dense.rbx --json";

/// What `--json` prints. The field names are an interface.
#[derive(Debug, Serialize)]
struct Report {
    ppl: f64,
    nll: f64,
    kl: Option<f64>,
    top1: Option<f64>,
    reference_ppl: Option<f64>,
    tokens: usize,
    windows: usize,
    window: usize,
    seconds: f64,
}

/// Carries the verb out.
pub fn run(args: &Args) -> Result<()> {
    let model = open::model(&args.model, args.device)?;
    let other = args
        .against
        .as_deref()
        .map(|path| open::model(path, args.device))
        .transpose()?;
    if let Some(other) = &other {
        check_comparable(&model, other)?;
    }
    let window = window(args.window, &model, other.as_deref())?;
    let ids = tokenize(&model, &args.text)?;
    let windows = windows(&ids, window, args)?;
    let pool = args.threads.pool()?;
    let session = |model| open::session(model, &pool, window);
    let mut evaluation = Evaluation {
        session: session(&model)?,
        other: other.as_ref().map(session).transpose()?,
        pool: Arc::clone(&pool),
        rows: (0..window as u32).collect(),
    };
    let (start, mut totals) = (Instant::now(), Totals::default());
    let bar = ui::progress((windows * window) as u64, Unit::Items, "evaluating");
    for n in 0..windows {
        let begin = n * window;
        evaluation
            .window(&ids[begin..=begin + window], &mut totals)
            .with_context(|| format!("window {n} (from token {begin})"))?;
        bar.inc(window as u64);
        bar.set_message(format!("perplexity {}", ui::digits(totals.perplexity())));
    }
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    let report = Report::new(&totals, other.is_some(), windows, window, seconds);
    match args.json {
        true => ui::print_json(&report),
        false => report.print(args),
    }
}

/// The sessions that read the same windows.
struct Evaluation {
    session: Session,
    other: Option<Session>,
    pool: Arc<Pool>,
    /// 0, 1, 2, ...
    rows: Vec<u32>,
}

impl Evaluation {
    /// Adds the predictions of one window: each of `ids` but the first from those before it.
    fn window(&mut self, ids: &[u32], totals: &mut Totals) -> Result<()> {
        self.session.rewind(0);
        let mut block = self.session.max_tokens();
        if let Some(other) = &mut self.other {
            other.rewind(0);
            block = block.min(other.max_tokens());
        }
        let inputs = &ids[..ids.len() - 1];
        let targets = &ids[1..];
        for (inputs, targets) in inputs.chunks(block).zip(targets.chunks(block)) {
            let rows = &self.rows[..inputs.len()];
            let logits = self.session.step(inputs, rows)?;
            let reference = match &mut self.other {
                Some(other) => Some(other.step(inputs, rows)?),
                None => None,
            };
            totals.add(&self.pool, logits, reference, targets)?;
        }
        Ok(())
    }
}

/// Both artifacts must give the same tokens the same ids.
fn check_comparable(model: &Model, other: &Model) -> Result<()> {
    let (a, b) = (model.manifest(), other.manifest());
    let names = || format!("{} and {}", open::name(model), open::name(other));
    let (vocab, other_vocab) = (a.model.vocab_size, b.model.vocab_size);
    if vocab != other_vocab {
        bail!(
            "{} do not compare: vocabularies of {vocab} and {other_vocab} tokens",
            names()
        );
    }
    match (a.hashes.get(TOKENIZER), b.hashes.get(TOKENIZER)) {
        (Some(a), Some(b)) if a != b => {
            bail!("{} do not compare: their tokenizers differ", names())
        }
        _ => Ok(()),
    }
}

fn window(wanted: Option<usize>, model: &Model, other: Option<&Model>) -> Result<usize> {
    let context = |model: &Model| model.manifest().model.context_length;
    let limit = context(model).min(other.map_or(usize::MAX, context));
    match wanted {
        Some(n) if n == 0 || n > limit => bail!("--window {n}: 1 to {limit} tokens are possible"),
        Some(n) => Ok(n),
        None => Ok(DEFAULT_WINDOW.min(limit)),
    }
}

fn tokenize(model: &Model, path: &Path) -> Result<Vec<u32>> {
    let name = || path.display().to_string();
    let bytes = std::fs::read(path).with_context(name)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        anyhow::anyhow!("{}: is no UTF-8 text (byte {at})", name())
    })?;
    let tokenizer = open::tokenizer(model)?;
    tokenizer.encode(&text, false).with_context(name)
}

/// How many windows there are; each needs one token more, which its last one predicts.
fn windows(ids: &[u32], window: usize, args: &Args) -> Result<usize> {
    let whole = ids.len().saturating_sub(1) / window;
    if whole == 0 {
        let (path, tokens) = (args.text.display(), ids.len());
        let needed = window + 1;
        let advice = match tokens {
            0..2 => "give more text",
            _ => "give more text, or a shorter --window",
        };
        bail!("{path}: has {tokens} tokens, a window of {window} needs {needed}: {advice}");
    }
    match args.max_windows {
        Some(0) => bail!("--max-windows 0: there is nothing to measure"),
        Some(most) => Ok(whole.min(most)),
        None => Ok(whole),
    }
}

impl Report {
    fn new(totals: &Totals, compared: bool, windows: usize, window: usize, seconds: f64) -> Report {
        Report {
            ppl: totals.perplexity(),
            nll: totals.nll(),
            kl: compared.then(|| totals.kl()),
            top1: compared.then(|| totals.top1()),
            reference_ppl: compared.then(|| totals.reference_perplexity()),
            tokens: windows * window,
            windows,
            window,
            seconds,
        }
    }

    fn print(&self, args: &Args) -> Result<()> {
        let mut table = Table::new(&[
            ("artifact", Align::Left),
            ("perplexity", Align::Right),
            ("KL, nats/token", Align::Right),
            ("top-1 agreement", Align::Right),
        ]);
        let number = |value: f64| format!("{value:.4}");
        table.row([
            args.model.display().to_string(),
            number(self.ppl),
            self.kl.map(number).unwrap_or_default(),
            self.top1
                .map(|share| format!("{:.2}%", share * 100.0))
                .unwrap_or_default(),
        ]);
        if let (Some(path), Some(ppl)) = (&args.against, self.reference_ppl) {
            table.row([format!("{} (reference)", path.display()), number(ppl)]);
        }
        let (tokens, seconds) = (self.tokens, self.seconds);
        ui::print(&format!(
            "{table}\n{tokens} tokens in {} windows of {}, {seconds:.1} s, {} tokens/s\n",
            self.windows,
            self.window,
            ui::digits(tokens as f64 / seconds),
        ))
    }
}
