//! What is trained, and how: everything that the result depends on beside the model and the text.

mod check;
mod stages;

use rabitc_ir::DType;
use rabitc_ir::ops::effective_weight::Derive;
use rabitc_ir::ops::squared_error::Normalize;
use rabitc_ir::word_attr;
use rabitc_passes::Pattern;
use rabitc_passes::svid::Init;
use serde::{Deserialize, Serialize};

pub use stages::Stage;

word_attr! {
    /// Where the cores of a layer come from, and which paths train when.
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum Method {
        /// All cores are derived, in order, from one shared weight (RaBiT, arXiv 2602.05367).
        Rabit = "rabit",
        /// Every path has a latent weight of its own; all train at once.
        Independent = "independent",
        /// Every path has a latent weight of its own; one trains after the other, those before it
        /// as they are.
        Frozen = "frozen",
    }
}

word_attr! {
    /// Where the scales start.
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum Start {
        /// Path by path, each the best rank-1 fit to what the paths before it left.
        Greedy = "greedy",
        /// Greedy, then cycles that fit all paths again.
        Iterative = "iterative",
        /// Iterative, on weights scaled by the importance of their input and output channels.
        Importance = "importance",
    }
}

word_attr! {
    /// What the squared error of the hidden states is divided by.
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum HiddenNorm {
        /// The squared length of the teacher's state, token by token.
        Rows = "rows",
        /// The squared length of the teacher's states, all tokens together.
        Target = "target",
        /// The number of elements.
        Elements = "elements",
    }
}

word_attr! {
    /// The type that the student's weights are held in.
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum WeightType {
        /// 32 bits.
        F32 = "f32",
        /// 16 bits with an exponent of 8, rounded stochastically after each update.
        Bf16 = "bf16",
    }
}

word_attr! {
    /// Where the tokens come from that replace those of the text.
    #[derive(Default, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum NoiseSource {
        /// From elsewhere in the text, after the same tokens.
        #[default]
        Text = "text",
        /// From the teacher's predictions.
        Teacher = "teacher",
    }
}

/// The most tokens that noise looks back.
pub const MOST_ORDER: usize = 3;

/// The most tokens in a row that noise replaces.
pub const MOST_SPAN: usize = 256;

/// How the sequences that are trained on differ from the text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Noise {
    /// The share of tokens that are replaced.
    pub rate: f32,
    /// Where the others come from.
    #[serde(default)]
    pub from: NoiseSource,
    /// Tokens in a row that are replaced, 1 to [`MOST_SPAN`].
    #[serde(default = "one")]
    pub span: usize,
    /// Tokens before one that another follows elsewhere in the text, at most [`MOST_ORDER`].
    pub order: usize,
}

fn one() -> usize {
    1
}

impl Noise {
    /// Whether the teacher writes tokens.
    pub fn by_teacher(&self) -> bool {
        self.rate > 0.0 && self.from == NoiseSource::Teacher
    }
}

impl Default for Noise {
    fn default() -> Noise {
        Noise {
            rate: 0.0,
            from: NoiseSource::Text,
            span: 1,
            order: 1,
        }
    }
}

/// Learning rates at their highest, by group of weights. A group of rate 0 is not trained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Latent weights of binary layers.
    pub shared: f32,
    /// Their scales.
    pub scales: f32,
    /// Embeddings, norms, biases, the head.
    pub rest: f32,
}

/// AdamW and its schedule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Optimizer {
    /// Highest learning rates.
    pub rates: Rates,
    /// Steps of linear warm-up of each stage.
    pub warmup: u64,
    /// Share of the highest learning rate that the cosine ends at.
    pub final_rate: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the square root of the second moment.
    pub eps: f32,
    /// Weight decay of matrices, but for scales.
    pub decay: f32,
    /// Largest global norm of the gradient; 0 for no limit.
    pub clip: f32,
}

/// The parts of the loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Loss {
    /// γ: factor on the mean, over blocks, of the normalised squared error of the hidden states.
    pub hidden: f32,
    /// How that error is normalised.
    pub hidden_norm: HiddenNorm,
    /// Factor on the cross-entropy with the text.
    pub text: f32,
    /// λ: factor on the overlap of the outputs of a layer's paths.
    pub diversity: f32,
}

/// The initialisation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Initial {
    /// Where scales start.
    pub start: Start,
    /// Cycles of the iterative fit.
    pub iters: u32,
    /// Exponent on the importance of channels.
    pub exponent: f32,
    /// Tokens that importance is measured on.
    pub tokens: usize,
}

impl Initial {
    /// The fit of one weight.
    pub fn fit(&self) -> Init {
        match self.start {
            Start::Greedy => Init::Greedy,
            _ => Init::Iterative { iters: self.iters },
        }
    }
}

/// Everything that a run's result depends on beside model and text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Where cores come from.
    pub method: Method,
    /// Binary paths of a layer.
    pub paths: usize,
    /// Layers whose names match one of these stay dense.
    pub keep_dense: Vec<String>,
    /// The initialisation.
    pub initial: Initial,
    /// Updates.
    pub steps: u64,
    /// Sequences of a run of the graph.
    pub batch: usize,
    /// Tokens of a sequence.
    pub seq_len: usize,
    /// Runs whose gradients are added up for one update.
    pub accumulate: usize,
    /// AdamW.
    pub optimizer: Optimizer,
    /// The loss.
    pub loss: Loss,
    /// Noise in the text.
    #[serde(default)]
    pub noise: Noise,
    /// What weights are held in.
    pub weights: WeightType,
    /// Whether cheap activations are computed again in the backward pass.
    pub checkpoint_activations: bool,
    /// What the order of the text and stochastic rounding depend on.
    pub seed: u64,
}

impl Recipe {
    /// Tokens of one run of the graph; `None` if that overflows what inputs can index.
    pub fn tokens(&self) -> Option<usize> {
        let tokens = self.batch.checked_mul(self.seq_len)?;
        (tokens <= i32::MAX as usize).then_some(tokens)
    }

    /// Where cores come from, as the graph says it.
    pub fn derive(&self) -> Derive {
        match self.method {
            Method::Rabit => Derive::Residual,
            Method::Independent | Method::Frozen => Derive::Independent,
        }
    }

    /// The type of the student's weights.
    pub fn dtype(&self) -> DType {
        match self.weights {
            WeightType::F32 => DType::F32,
            WeightType::Bf16 => DType::BF16,
        }
    }

    /// The normalisation of the hidden states' error, as the graph says it.
    pub fn normalize(&self) -> Normalize {
        match self.loss.hidden_norm {
            HiddenNorm::Rows => Normalize::Rows,
            HiddenNorm::Target => Normalize::Target,
            HiddenNorm::Elements => Normalize::Elements,
        }
    }

    /// Whether the linear layer at node `name` becomes residual-binary.
    pub fn binarizes(&self, name: &str) -> bool {
        let kept = |p: &String| Pattern::new(p).matches(name);
        name != rabitc_passes::pass::head::HEAD && !self.keep_dense.iter().any(kept)
    }

    /// The names of the settings in which `other` differs, with both values.
    pub fn differences(&self, other: &Recipe) -> Vec<String> {
        // By way of text, in which an f32 has no more digits than it needs.
        let value = |r: &Recipe| serde_json::from_str(&serde_json::to_string(r).ok()?).ok();
        let values = [self, other].map(|r| value(r).unwrap_or_default());
        let mut out = Vec::new();
        collect_differences("", &values[0], &values[1], &mut out);
        out
    }
}

fn collect_differences(
    at: &str,
    a: &serde_json::Value,
    b: &serde_json::Value,
    out: &mut Vec<String>,
) {
    match (a.as_object(), b.as_object()) {
        (Some(a), Some(b)) => {
            for (key, value) in a {
                let null = serde_json::Value::Null;
                let at = format!("{at}{}{key}", if at.is_empty() { "" } else { "." });
                collect_differences(&at, value, b.get(key).unwrap_or(&null), out);
            }
        }
        _ if a != b => out.push(format!("{at} {a} and {b}")),
        _ => {}
    }
}
