//! Qwen 2 and 2.5: Llama with biases on q, k and v, and on some checkpoints a sliding window in
//! the upper layers.

use crate::blocks;
use crate::config::{ConfigError, Keys, ModelConfig, flat_rope, qwen_layers};
use crate::family::{Defaults, Family, Spec, ignore_nothing};

pub(crate) static SPEC: Spec = Spec {
    family: Family::Qwen2,
    name: "qwen2",
    architectures: &["Qwen2ForCausalLM"],
    model_types: &["qwen2"],
    defaults: Defaults {
        vocab_size: 151_936,
        hidden_size: 4096,
        intermediate_size: 22_016,
        n_layers: 32,
        n_heads: 32,
        n_kv_heads: Some(32),
        head_dim: None,
        context_length: 32_768,
        activation_key: "hidden_act",
        activation: "silu",
        tie_word_embeddings: false,
        bos: None,
        eos: None,
    },
    configure,
    block: blocks::pre_norm_block,
    ignore: ignore_nothing,
};

fn configure(keys: &Keys<'_>, model: &mut ModelConfig) -> Result<(), ConfigError> {
    model.qkv_bias = true;
    model.ropes = vec![("rope".into(), flat_rope(keys, model.context_length)?)];
    model.layers = qwen_layers(keys, model.n_layers())?;
    Ok(())
}
