//! Mistral: Llama with a sliding window on every layer, where the configuration has one.

use crate::blocks;
use crate::config::{ConfigError, Keys, ModelConfig, flat_rope, same_layers};
use crate::family::{Defaults, Family, Spec, ignore_nothing};

pub(crate) static SPEC: Spec = Spec {
    family: Family::Mistral,
    name: "mistral",
    architectures: &["MistralForCausalLM"],
    model_types: &["mistral"],
    defaults: Defaults {
        vocab_size: 32_000,
        hidden_size: 4096,
        intermediate_size: 14_336,
        n_layers: 32,
        n_heads: 32,
        n_kv_heads: Some(8),
        head_dim: None,
        context_length: 131_072,
        activation_key: "hidden_act",
        activation: "silu",
        tie_word_embeddings: false,
        bos: Some(1),
        eos: Some(2),
    },
    configure,
    block: blocks::pre_norm_block,
    ignore: ignore_nothing,
};

fn configure(keys: &Keys<'_>, model: &mut ModelConfig) -> Result<(), ConfigError> {
    model.ropes = vec![("rope".into(), flat_rope(keys, model.context_length)?)];
    model.layers = same_layers(keys, model.n_layers(), Some(4096))?;
    Ok(())
}
