//! Qwen 3: a norm on every head of q and k before the rotary embedding, and no biases by default.

use rabitc_ir::NodeId;

use crate::blocks::{Builder, Norms, pre_norm_block_with};
use crate::config::{ConfigError, Keys, ModelConfig, flat_rope, qwen_layers};
use crate::error::Error;
use crate::family::{Defaults, Family, Spec, ignore_nothing};

pub(crate) static SPEC: Spec = Spec {
    family: Family::Qwen3,
    name: "qwen3",
    architectures: &["Qwen3ForCausalLM"],
    model_types: &["qwen3"],
    defaults: Defaults {
        vocab_size: 151_936,
        hidden_size: 4096,
        intermediate_size: 22_016,
        n_layers: 32,
        n_heads: 32,
        n_kv_heads: Some(32),
        head_dim: Some(128),
        context_length: 32_768,
        activation_key: "hidden_act",
        activation: "silu",
        tie_word_embeddings: false,
        bos: None,
        eos: None,
    },
    configure,
    block,
    ignore: ignore_nothing,
};

fn configure(keys: &Keys<'_>, model: &mut ModelConfig) -> Result<(), ConfigError> {
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    (model.qkv_bias, model.o_bias) = (bias, bias);
    model.ropes = vec![("rope".into(), flat_rope(keys, model.context_length)?)];
    model.layers = qwen_layers(keys, model.n_layers())?;
    Ok(())
}

fn block(b: &mut Builder<'_>, layer: usize, x: NodeId) -> Result<NodeId, Error> {
    pre_norm_block_with(b, layer, x, Norms::QueryAndKey)
}
