//! Llama 2 and 3, and the checkpoints that borrow their architecture.

use crate::blocks;
use crate::config::{ConfigError, Keys, ModelConfig, flat_rope};
use crate::family::{Defaults, Family, Spec, ignore_nothing};

pub(crate) static SPEC: Spec = Spec {
    family: Family::Llama,
    name: "llama",
    architectures: &["LlamaForCausalLM"],
    model_types: &["llama"],
    defaults: Defaults {
        vocab_size: 32_000,
        hidden_size: 4096,
        intermediate_size: 11_008,
        n_layers: 32,
        n_heads: 32,
        n_kv_heads: None,
        head_dim: None,
        context_length: 2048,
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
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    (model.qkv_bias, model.o_bias) = (bias, bias);
    model.mlp_bias = keys.flag("mlp_bias")?.unwrap_or(false);
    model.ropes = vec![("rope".into(), flat_rope(keys, model.context_length)?)];
    Ok(())
}
