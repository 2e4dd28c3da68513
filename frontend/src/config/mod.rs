//! The typed model configuration, from `config.json`.
//!
//! Absent keys take the defaults that Hugging Face transformers has for the family; every value
//! is checked before anything is sized by it.

mod check;
mod keys;
mod layers;
mod rope;

use serde_json::Value;

pub use self::keys::ConfigError;
pub(crate) use self::keys::Keys;
pub(crate) use self::layers::{LayerKinds, qwen_layers, same_layers, window};
pub use self::rope::{RopeConfig, RopeScaling};
pub(crate) use self::rope::{flat_rope, gemma_rope};
use crate::family::{self, Family, Spec};

/// The activation function of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x · sigmoid(x).
    Silu,
    /// GELU in its tanh form.
    GeluTanh,
}

impl Activation {
    fn parse(name: &str) -> Result<Self, ConfigError> {
        match name {
            "silu" | "swish" => Ok(Activation::Silu),
            "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
            other => Err(ConfigError::Unknown {
                what: "activation function",
                found: other.to_string(),
                known: "silu, gelu_pytorch_tanh".to_string(),
            }),
        }
    }
}

/// How one layer attends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerConfig {
    /// Positions a token sees, itself included; 0 for all before it.
    pub window: usize,
    /// Which of [`ModelConfig::ropes`] the layer uses.
    pub rope: usize,
}

/// A model configuration whose every value has been checked.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The architecture as `config.json` names it.
    pub architecture: String,
    /// The family that lowers it.
    pub family: Family,
    /// Rows of the embedding and of the logits.
    pub vocab_size: usize,
    /// Channels of the residual stream.
    pub hidden_size: usize,
    /// Channels inside the feed-forward part.
    pub intermediate_size: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Channels of one head; even.
    pub head_dim: usize,
    /// Most positions the model was made for.
    pub context_length: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f32,
    /// Activation of the gate.
    pub activation: Activation,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether q, k and v have a bias.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub o_bias: bool,
    /// Whether gate, up and down have a bias.
    pub mlp_bias: bool,
    /// Factor on the attention scores.
    pub attention_scale: f32,
    /// Factor on the embeddings.
    pub embed_scale: f32,
    /// Norms multiply by 1 + w.
    pub norm_unit_offset: bool,
    /// Bound on the logits: cap · tanh(logit / cap).
    pub final_softcap: Option<f32>,
    /// The rotary embeddings the layers use, each with a name for the graph.
    pub ropes: Vec<(String, RopeConfig)>,
    /// One entry a layer.
    pub layers: Vec<LayerConfig>,
    /// Beginning-of-sequence token.
    pub bos: Option<u32>,
    /// End-of-sequence tokens, each once.
    pub eos: Vec<u32>,
    /// Standard deviation of weights at initialisation.
    pub initializer_range: f32,
}

impl ModelConfig {
    /// Parses the text of a `config.json`.
    pub fn parse(config: &str) -> Result<ModelConfig, ConfigError> {
        let value = json(config)?;
        let top = Keys::new(&value)?;
        refuse_quantized(&top)?;
        let (architecture, spec) = family::find(&top)?;
        let keys = top.object("text_config")?.unwrap_or_else(|| top.clone());
        let mut model = common(&top, &keys, architecture, spec)?;
        (spec.configure)(&keys, &mut model)?;
        check::check(&model)?;
        Ok(model)
    }

    /// Adds what a `generation_config.json` says: further end tokens, and a beginning token where
    /// there is none.
    pub fn add_generation(&mut self, text: &str) -> Result<(), ConfigError> {
        let value = json(text)?;
        let keys = Keys::new(&value)?;
        let eos = keys.token_ids("eos_token_id")?.unwrap_or_default();
        self.eos = unique(
            std::mem::take(&mut self.eos)
                .into_iter()
                .chain(eos)
                .collect(),
        );
        let bos = keys.token_ids("bos_token_id")?.unwrap_or_default();
        self.bos = self.bos.or(bos.first().copied());
        Ok(())
    }

    /// Number of layers.
    pub fn n_layers(&self) -> usize {
        self.layers.len()
    }

    /// Channels of all query heads together.
    pub fn q_width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Channels of all key heads together, and of all value heads.
    pub fn kv_width(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }
}

fn json(text: &str) -> Result<Value, ConfigError> {
    serde_json::from_str(text).map_err(|e| ConfigError::Json(format!("not valid JSON: {e}")))
}

fn refuse_quantized(keys: &Keys<'_>) -> Result<(), ConfigError> {
    let Some(quantization) = keys.object("quantization_config")? else {
        return Ok(());
    };
    let method = quantization.text("quant_method")?.unwrap_or("unnamed");
    Err(ConfigError::Unsupported(format!(
        "a checkpoint that is already quantized (`quantization_config`, method `{method}`)"
    )))
}

/// What all families share. `keys` is `top` itself or its `text_config`.
fn common(
    top: &Keys<'_>,
    keys: &Keys<'_>,
    architecture: String,
    spec: &Spec,
) -> Result<ModelConfig, ConfigError> {
    let d = &spec.defaults;
    let size = |key: &str, default: usize| keys.size(key).map(|n| n.unwrap_or(default));
    let hidden_size = size("hidden_size", d.hidden_size)?;
    let n_heads = size("num_attention_heads", d.n_heads)?;
    let head_dim = head_dim(keys, d.head_dim, hidden_size, n_heads)?;
    let n_layers = check::limited("num_hidden_layers", size("num_hidden_layers", d.n_layers)?)?;
    let n_kv_heads = match d.n_kv_heads {
        Some(n) if !keys.is_null("num_key_value_heads") => size("num_key_value_heads", n)?,
        _ => size("num_key_value_heads", n_heads)?,
    };
    let tie = top.flag("tie_word_embeddings")?;
    Ok(ModelConfig {
        architecture,
        family: spec.family,
        vocab_size: size("vocab_size", d.vocab_size)?,
        hidden_size,
        intermediate_size: size("intermediate_size", d.intermediate_size)?,
        n_heads,
        n_kv_heads,
        head_dim,
        context_length: size("max_position_embeddings", d.context_length)?,
        rms_norm_eps: keys.positive("rms_norm_eps")?.unwrap_or(1e-6) as f32,
        activation: Activation::parse(keys.text(d.activation_key)?.unwrap_or(d.activation))?,
        tie_word_embeddings: tie.unwrap_or(d.tie_word_embeddings),
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        attention_scale: (head_dim as f64).powf(-0.5) as f32,
        embed_scale: 1.0,
        norm_unit_offset: false,
        final_softcap: None,
        ropes: Vec::new(),
        layers: vec![LayerConfig { window: 0, rope: 0 }; n_layers],
        bos: bos(keys, d.bos)?,
        eos: eos(keys, d.eos)?,
        initializer_range: keys.positive("initializer_range")?.unwrap_or(0.02) as f32,
    })
}

/// `head_dim`, or its default, or what `hidden_size` gives each head.
fn head_dim(
    keys: &Keys<'_>,
    default: Option<usize>,
    hidden_size: usize,
    n_heads: usize,
) -> Result<usize, ConfigError> {
    if let Some(n) = keys.size("head_dim")?.or(default) {
        return Ok(n);
    }
    if n_heads == 0 || !hidden_size.is_multiple_of(n_heads) {
        let reason = format!("{hidden_size} is not a multiple of {n_heads} attention heads");
        return Err(keys.error("hidden_size", reason));
    }
    Ok(hidden_size / n_heads)
}

fn bos(keys: &Keys<'_>, default: Option<u32>) -> Result<Option<u32>, ConfigError> {
    let found = keys.token_ids("bos_token_id")?;
    let default = default.filter(|_| !keys.is_null("bos_token_id"));
    Ok(found.map_or(default, |ids| ids.first().copied()))
}

fn eos(keys: &Keys<'_>, default: Option<u32>) -> Result<Vec<u32>, ConfigError> {
    let default = default.filter(|_| !keys.is_null("eos_token_id"));
    let found = keys.token_ids("eos_token_id")?;
    Ok(unique(
        found.unwrap_or_else(|| default.into_iter().collect()),
    ))
}

fn unique(ids: Vec<u32>) -> Vec<u32> {
    let mut out = Vec::with_capacity(ids.len());
    for id in ids {
        if !out.contains(&id) {
            out.push(id);
        }
    }
    out
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_bad;
