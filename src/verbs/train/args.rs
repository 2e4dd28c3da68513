//! The command line of `rabitc train`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::builder::NonEmptyStringValueParser;
use rabitc_train::recipe::{
    HiddenNorm, Initial, Loss, Method, Noise, NoiseSource, Optimizer, Rates, Recipe, Start,
    WeightType,
};

use crate::open::{DeviceArgs, ThreadArgs};

/// Train a residual-binary student towards a dense model
///
/// The student has TEACHER's architecture; the linear layers of its blocks are residual-binary, its
/// embeddings, norms and head dense. It starts from a fit to the teacher's weights and learns to
/// predict what the teacher predicts: the loss is KL(teacher ‖ student) on the logits, plus
/// --hidden times the squared error of the hidden states after each block, as a share of the
/// teacher's energy.
///
/// DIR becomes a checkpoint that `rabitc compile DIR` takes, with metrics.jsonl beside it (see
/// `rabitc report`). It is saved so that it can be stopped at any moment: the same command with
/// --resume goes on where it was, on the CPU with the same losses to the last bit. ^C ends it after
/// the update under way, with a checkpoint; a second ^C ends it at once.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES, allow_negative_numbers = true)]
pub struct Args {
    /// The dense model: a checkpoint folder or file; with --dry-run a config.json will do
    pub teacher: PathBuf,
    /// The folder of the run; new, unless --resume is given
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Text to train on, a file in UTF-8 (may be repeated; sequences do not cross files)
    #[arg(long, value_name = "FILE")]
    pub text: Vec<PathBuf>,
    /// Text to measure on, not to train on (may be repeated)
    #[arg(long, value_name = "FILE")]
    pub valid: Vec<PathBuf>,
    /// Go on with the run in DIR; begin it if there is none yet
    #[arg(long)]
    pub resume: bool,
    /// Print how much memory the run would take, and every other method, and stop
    #[arg(long)]
    pub dry_run: bool,
    /// Start from this checkpoint of the teacher's architecture, dense or trained, in place of the
    /// teacher's weights
    #[arg(long, value_name = "CHECKPOINT")]
    pub student: Option<PathBuf>,
    /// Run with the reference interpreter, very slowly
    #[arg(long, hide = true)]
    pub reference: bool,
    #[command(flatten)]
    pub threads: ThreadArgs,
    #[command(flatten)]
    pub device: DeviceArgs,

    // Behind the others: their headings hold on.
    #[command(flatten)]
    pub student_args: StudentArgs,
    #[command(flatten)]
    pub training: TrainingArgs,
    #[command(flatten)]
    pub measuring: MeasuringArgs,
}

/// What the student is.
#[derive(clap::Args)]
#[command(next_help_heading = "Student")]
pub struct StudentArgs {
    /// rabit (all paths from one shared weight), independent (a latent weight a path) or frozen
    /// (one path after the other)
    #[arg(long, default_value = "rabit")]
    pub method: Method,
    /// Binary paths of a layer, 1 to 8: one bit a weight each
    #[arg(long, default_value_t = 2, value_name = "K")]
    pub paths: usize,
    /// Leave layers whose name matches dense; * and ? are wildcards (may be repeated)
    #[arg(long, value_name = "PATTERN", value_parser = NonEmptyStringValueParser::new())]
    pub keep_dense_layers: Vec<String>,
    /// What weights are held in: f32, or bf16 with stochastic rounding
    #[arg(long, default_value = "f32", value_name = "TYPE")]
    pub weights: WeightType,
    /// Where scales start: greedy, iterative, or importance (iterative, weighted by how much
    /// channels matter on the text)
    #[arg(long, default_value = "importance")]
    pub init: Start,
    /// Cycles of the iterative fit
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub init_iters: u32,
    /// Exponent on the importance of channels
    #[arg(long, default_value_t = 0.75, value_name = "X")]
    pub init_exponent: f32,
    /// Tokens that importance is measured on
    #[arg(long, default_value_t = 65536, value_name = "N")]
    pub init_tokens: usize,
    /// Precision of the rotary frequencies of teacher and student: checkpoint rounds them to the
    /// teacher's dtype, f32 does not; auto rounds up to 2048 positions of context
    #[arg(long, default_value = "auto", value_parser = ["auto", "checkpoint", "f32"])]
    pub rope_precision: String,
}

/// How it is trained.
#[derive(clap::Args)]
#[command(next_help_heading = "Training")]
pub struct TrainingArgs {
    /// Updates
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub steps: u64,
    /// Sequences of a batch
    #[arg(long, default_value_t = 48, value_name = "N")]
    pub batch: usize,
    /// Tokens of a sequence
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub seq_len: usize,
    /// Batches whose gradients are added up for one update
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub accumulate: usize,
    /// Highest learning rate of latent weights
    #[arg(long, default_value_t = 3e-4, value_name = "X")]
    pub lr: f32,
    /// Highest learning rate of scales; 0 does not train them
    #[arg(long, default_value_t = 3e-4, value_name = "X")]
    pub lr_scales: f32,
    /// Highest learning rate of embeddings, norms and head; 0 does not train them
    #[arg(long, default_value_t = 3e-4, value_name = "X")]
    pub lr_rest: f32,
    /// Share of the learning rates that the cosine ends at, 0 to 1
    #[arg(long, default_value_t = 0.0, value_name = "X")]
    pub lr_final: f32,
    /// Updates of linear warm-up
    #[arg(long, default_value_t = 50, value_name = "N")]
    pub warmup: u64,
    /// Factor on the error of the hidden states, γ
    #[arg(long, default_value_t = 0.1, value_name = "X")]
    pub hidden: f32,
    /// What that error is a share of: rows (each token's energy), target (all tokens' energy) or
    /// elements (no share: the mean square)
    #[arg(long, default_value = "rows", value_name = "NORM")]
    pub hidden_norm: HiddenNorm,
    /// Factor on the cross-entropy with the text
    #[arg(long, default_value_t = 0.0, value_name = "X")]
    pub text_loss: f32,
    /// Factor on the overlap of the outputs of each layer's paths, λ; costs a product a layer and
    /// path more
    #[arg(long, default_value_t = 0.0, value_name = "X")]
    pub diversity: f32,
    /// Share of the text's tokens that are replaced by others, drawn anew each time
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    pub noise: f32,
    /// Where these come from: text (elsewhere in it, after the same tokens) or teacher (what it
    /// says instead; costs a pass of the teacher for each of --noise-span)
    #[arg(
        long,
        default_value = "text",
        value_name = "SOURCE",
        requires = "noise"
    )]
    pub noise_from: NoiseSource,
    /// Tokens in a row that are replaced, 1 to 256
    #[arg(long, default_value_t = 1, value_name = "N", requires = "noise")]
    pub noise_span: usize,
    /// Tokens before one that must be the same where another comes from, in the text: 0 to 3
    /// [default: 1]
    #[arg(long, value_name = "N", requires = "noise")]
    pub noise_order: Option<usize>,
    /// AdamW's decay of the first moment
    #[arg(long, default_value_t = 0.9, value_name = "X")]
    pub beta1: f32,
    /// AdamW's decay of the second moment
    #[arg(long, default_value_t = 0.95, value_name = "X")]
    pub beta2: f32,
    /// AdamW's epsilon
    #[arg(long, default_value_t = 1e-8, value_name = "X")]
    pub eps: f32,
    /// Decoupled weight decay of matrices
    #[arg(long, default_value_t = 0.0, value_name = "X")]
    pub weight_decay: f32,
    /// Largest norm of the gradient; 0 for no limit
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    pub clip: f32,
    /// What the order of the text, and its noise, depend on
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// Compute cheap activations again in the backward pass instead of keeping them
    #[arg(long)]
    pub checkpoint_activations: bool,
}

/// What is measured and saved along the way.
#[derive(clap::Args)]
#[command(next_help_heading = "Measuring and saving")]
pub struct MeasuringArgs {
    /// Updates between measurements on the validation text; 0 for the beginning and the end only
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub validate_every: u64,
    /// Tokens of a validation window [default: 1024, or the model's context if that is less]
    #[arg(long, value_name = "N", requires = "valid")]
    pub window: Option<usize>,
    /// Measure on so many windows only
    #[arg(long, value_name = "N", requires = "valid")]
    pub max_windows: Option<usize>,
    /// Updates between checkpoints; 0 for the beginning and the end only
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub save_every: u64,
    /// Do not compare the paths of layers at the beginning and the end
    #[arg(long)]
    pub no_diagnostics: bool,
    /// Print one JSON object: steps, from, seconds, first and last (validations), memory; with
    /// --dry-run: recipe, plan, methods
    #[arg(long)]
    pub json: bool,
}

const EXAMPLES: &str = "\
Examples:
  rabitc train models/books-1m -o run --text book.txt --valid other.txt --batch 8
  rabitc train models/books-1m -o run --text book.txt --valid other.txt --batch 8 --resume
  rabitc train Llama-2-7b/config.json --dry-run --weights bf16 --checkpoint-activations
  rabitc compile run -o student.rbx
  rabitc report run";

impl Args {
    /// Refuses options that would have no effect.
    pub fn check(&self) -> Result<()> {
        let noise = &self.training;
        if noise.noise_order.is_some() && noise.noise_from == NoiseSource::Teacher {
            bail!("--noise-order: the teacher reads all tokens before those that it writes");
        }
        Ok(())
    }

    /// What the result depends on.
    pub fn recipe(&self) -> Recipe {
        let (made, how) = (&self.student_args, &self.training);
        Recipe {
            method: made.method,
            paths: made.paths,
            keep_dense: made.keep_dense_layers.clone(),
            initial: Initial {
                start: made.init,
                iters: made.init_iters,
                exponent: made.init_exponent,
                tokens: made.init_tokens,
            },
            steps: how.steps,
            batch: how.batch,
            seq_len: how.seq_len,
            accumulate: how.accumulate,
            optimizer: Optimizer {
                rates: Rates {
                    shared: how.lr,
                    scales: how.lr_scales,
                    rest: how.lr_rest,
                },
                warmup: how.warmup,
                final_rate: how.lr_final,
                beta1: how.beta1,
                beta2: how.beta2,
                eps: how.eps,
                decay: how.weight_decay,
                clip: how.clip,
            },
            loss: Loss {
                hidden: how.hidden,
                hidden_norm: how.hidden_norm,
                text: how.text_loss,
                diversity: how.diversity,
            },
            noise: Noise {
                rate: how.noise,
                from: how.noise_from,
                span: how.noise_span,
                order: how.noise_order.unwrap_or(Noise::default().order),
            },
            weights: made.weights,
            checkpoint_activations: how.checkpoint_activations,
            seed: how.seed,
        }
    }
}
