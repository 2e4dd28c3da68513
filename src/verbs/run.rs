//! `rabitc run`: continues a text, answers in a chat, or continues token ids.

mod chat;
mod generate;
mod report;
mod sampling;

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rabitc_runtime::Model;
use rabitc_runtime::pool::Pool;
use rabitc_runtime::sampler::{Sampler, SamplerOptions};
use rabitc_runtime::tokenizer::Tokenizer;

use crate::open::{self, DeviceArgs, ThreadArgs};
use generate::{Limits, generate};
use report::{Output, Report};
use sampling::SamplingArgs;

/// Run an artifact: continue a text, chat, or continue token ids
///
/// Tokens are written to standard output as they come; the speeds of reading the prompt and of
/// generating follow on standard error, both in tokens a second. Generation stops at the model's
/// end-of-text token, after -n tokens, or when the context is full.
///
/// By default each token is drawn with --temperature 0.8 --top-p 0.95 and a new seed; --greedy
/// takes the most probable token always. The filters act in the order repetition penalty,
/// temperature, top-k, top-p, min-p.
///
/// With --chat, the checkpoint's own chat template makes the prompt. Without -p every line of
/// standard input is a turn; the conversation so far stays in the key/value cache.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The artifact, as `rabitc compile` writes it
    model: PathBuf,
    /// The text to continue, or with --chat the question; - reads standard input
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Token ids to continue, separated by commas; needs no tokenizer, and nothing is added
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with_all = ["prompt", "chat"])]
    ids: Option<Vec<u32>>,
    /// Use the chat template; a conversation without -p, one answer with it
    #[arg(long)]
    chat: bool,
    /// What the system says before the conversation
    #[arg(
        long,
        value_name = "TEXT",
        requires = "chat",
        conflicts_with = "ids",
        allow_hyphen_values = true
    )]
    system: Option<String>,
    /// The most tokens to generate [default: 256, with --chat 1024]
    #[arg(short = 'n', long = "max-tokens", value_name = "N")]
    max_tokens: Option<usize>,
    /// Positions to keep room for, prompt and generated tokens together [default: what prompt and
    /// -n need; in a conversation 8192; never more than the model was made for]
    #[arg(long, value_name = "N")]
    ctx: Option<usize>,
    /// Do not stop at end-of-text tokens
    #[arg(long)]
    ignore_eos: bool,
    /// Encode the prompt as it is, without the tokens that the tokenizer adds (such as BOS)
    #[arg(long, conflicts_with_all = ["ids", "chat"])]
    raw: bool,
    /// Print one JSON object: ids, prompt_ids, text, speeds, finish_reason (eos, length, context)
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    threads: ThreadArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Tokens of a continuation, unless -n says otherwise.
const CONTINUATION: usize = 256;

const EXAMPLES: &str = "\
Examples:
  rabitc run books.rbx -p \"It was a dark and stormy night\" -n 100
  rabitc run books.rbx -p - --greedy < prompt.txt
  rabitc run qwen.rbx --chat --system \"Answer briefly.\"
  rabitc run qwen.rbx --chat -p \"What is a residual?\" --temperature 0.6 --seed 1
  rabitc run books.rbx --ids 1,2,3 -n 24 --greedy --json

The JSON object:
  ids                           the generated tokens, an end-of-text token included
  prompt_ids                    the tokens that were read before them
  text                          the generated text; null if the artifact has no tokenizer
  prompt_tokens_per_second      null where nothing was measured
  generation_tokens_per_second  of the tokens after the first, which reading the prompt gives
  finish_reason                 eos, length (-n was reached) or context (no room left)
  seed                          what --seed repeats this with; null with --greedy";

/// Carries the verb out.
pub fn run(args: &Args) -> Result<()> {
    let sampling = args.sampling.options();
    sampling.validate()?;
    if args.max_tokens == Some(0) {
        bail!("-n 0: there is nothing to generate");
    }
    if args.json && args.chat && args.prompt.is_none() {
        bail!("--json prints one answer: give the question with -p");
    }
    if args.prompt.is_none() && args.ids.is_none() && !args.chat {
        bail!("nothing to continue: give -p TEXT, --ids IDS or --chat");
    }
    let runner = Runner {
        model: open::model(&args.model, args.device)?,
        pool: args.threads.pool()?,
        sampling,
        args,
    };
    match args.chat {
        true => chat::run(&runner),
        false => runner.once(),
    }
}

/// What all ways of running share.
struct Runner<'a> {
    args: &'a Args,
    model: Arc<Model>,
    pool: Arc<Pool>,
    sampling: SamplerOptions,
}

impl Runner<'_> {
    /// Continues a text or token ids once.
    fn once(&self) -> Result<()> {
        let (tokenizer, prompt) = match &self.args.ids {
            // Ids work without a tokenizer; with one, there is a text to report.
            Some(ids) => (open::tokenizer(&self.model).ok(), ids.clone()),
            None => {
                let tokenizer = open::tokenizer(&self.model)?;
                let ids = tokenizer.encode(&self.prompt_text()?, !self.args.raw)?;
                (Some(tokenizer), ids)
            }
        };
        let output = match (self.args.json, &self.args.ids) {
            (true, _) => Output::Silent,
            (false, None) => Output::Text,
            (false, Some(_)) => Output::Ids,
        };
        self.answer(
            &prompt,
            tokenizer.as_ref(),
            output,
            &self.limits(&[], CONTINUATION),
        )
    }

    /// Generates once after `prompt`, and reports.
    fn answer(
        &self,
        prompt: &[u32],
        tokenizer: Option<&Tokenizer>,
        output: Output,
        limits: &Limits,
    ) -> Result<()> {
        let needed = prompt.len().saturating_add(limits.max_tokens);
        let mut session = open::session(&self.model, &self.pool, self.context(needed)?)?;
        check_fits(prompt.len(), session.context())?;
        let mut sampler = self.sampler()?;
        sampler.observe(prompt).context("the prompt")?;
        let mut sink = report::Sink::new(tokenizer, prompt, output)?;
        let generation = generate(&mut session, &mut sampler, prompt, limits, &mut sink)?;
        let text = sink.finish()?;
        let report = Report::new(prompt, generation, text, self.seed());
        match self.args.json {
            true => report.print_json(),
            false => report.print_speeds(),
        }
    }

    fn sampler(&self) -> Result<Sampler> {
        let vocab = self.model.manifest().model.vocab_size;
        Ok(Sampler::new(self.sampling, vocab)?)
    }

    /// The seed, where there is any choice.
    fn seed(&self) -> Option<u64> {
        (self.sampling.temperature > 0.0).then_some(self.sampling.seed)
    }

    /// When to stop: besides the model's end-of-text tokens, those in `stop` end a text.
    fn limits(&self, stop: &[u32], default: usize) -> Limits {
        let eos = match self.args.ignore_eos {
            true => Vec::new(),
            false => [&self.model.manifest().model.eos, stop].concat(),
        };
        Limits {
            max_tokens: self.args.max_tokens.unwrap_or(default),
            eos,
            greedy: self.sampling.temperature == 0.0 && self.sampling.repetition_penalty == 1.0,
        }
    }

    /// Positions for a session that would use `wanted` of them.
    fn context(&self, wanted: usize) -> Result<usize> {
        let limit = self.model.manifest().model.context_length;
        match self.args.ctx {
            Some(ctx) if ctx == 0 || ctx > limit => {
                bail!("--ctx {ctx}: the model was made for 1 to {limit} positions")
            }
            Some(ctx) => Ok(ctx),
            None => Ok(wanted.min(limit)),
        }
    }

    /// The text given with -p, or standard input.
    fn prompt_text(&self) -> Result<String> {
        match self.args.prompt.as_deref() {
            Some("-") => {
                let mut text = String::new();
                let read = std::io::stdin().read_to_string(&mut text);
                read.context("standard input")?;
                Ok(text)
            }
            text => Ok(text.unwrap_or_default().to_owned()),
        }
    }
}

/// A prompt must leave the model something to read and fit as a whole.
fn check_fits(tokens: usize, context: usize) -> Result<()> {
    if tokens == 0 {
        bail!("the prompt is empty: there is no token to continue");
    }
    if tokens > context {
        bail!("the prompt has {tokens} tokens, which do not fit into a context of {context}");
    }
    Ok(())
}
