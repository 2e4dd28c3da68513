//! Gemma 3, its text part: sliding and full attention layers with a rotary embedding each, a norm
//! on every head of q and k, norms before and after both parts of a block, scaled embeddings.
//!
//! The reference implementation does not read `attn_logit_softcapping`, and reads
//! `final_logit_softcapping` in the text-only architecture alone; nor does this one.

use rabitc_ir::NodeId;

use crate::blocks::{Builder, Norms};
use crate::config::{ConfigError, Keys, LayerKinds, ModelConfig, gemma_rope, window};
use crate::error::Error;
use crate::family::{Defaults, Family, Spec};

const TEXT_ONLY: &str = "Gemma3ForCausalLM";

pub(crate) static SPEC: Spec = Spec {
    family: Family::Gemma3,
    name: "gemma3",
    architectures: &[TEXT_ONLY, "Gemma3ForConditionalGeneration"],
    model_types: &["gemma3_text", "gemma3"],
    defaults: Defaults {
        vocab_size: 262_208,
        hidden_size: 2304,
        intermediate_size: 9216,
        n_layers: 26,
        n_heads: 8,
        n_kv_heads: Some(4),
        head_dim: Some(256),
        context_length: 131_072,
        activation_key: "hidden_activation",
        activation: "gelu_pytorch_tanh",
        tie_word_embeddings: true,
        bos: Some(2),
        eos: Some(1),
    },
    configure,
    block,
    ignore,
};

/// The vision part of checkpoints that have one.
fn ignore(name: &str) -> bool {
    let name = name.strip_prefix("model.").unwrap_or(name);
    name.starts_with("vision_tower.") || name.starts_with("multi_modal_projector.")
}

/// Which of the model's rotary embeddings sliding layers use.
const SLIDING_ROPE: usize = 1;

fn configure(keys: &Keys<'_>, model: &mut ModelConfig) -> Result<(), ConfigError> {
    if keys.flag("use_bidirectional_attention")? == Some(true) {
        let what = "bidirectional attention (`use_bidirectional_attention`)";
        return Err(ConfigError::Unsupported(what.to_string()));
    }
    let bias = keys.flag("attention_bias")?.unwrap_or(false);
    (model.qkv_bias, model.o_bias) = (bias, bias);
    model.norm_unit_offset = true;
    model.embed_scale = (model.hidden_size as f64).sqrt() as f32;
    let scalar = keys.positive("query_pre_attn_scalar")?.unwrap_or(256.0);
    model.attention_scale = scalar.powf(-0.5) as f32;
    if model.architecture == TEXT_ONLY {
        model.final_softcap = keys.positive("final_logit_softcapping")?.map(|c| c as f32);
    }
    let (full, sliding) = gemma_rope(keys, model.context_length)?;
    model.ropes = vec![("rope.full".into(), full), ("rope.sliding".into(), sliding)];
    let pattern = keys.size("sliding_window_pattern")?.unwrap_or(6);
    if pattern == 0 {
        return Err(keys.error("sliding_window_pattern", "must not be 0"));
    }
    let kinds = LayerKinds::read(keys, model.n_layers(), |i| (i + 1) % pattern != 0)?;
    model.layers = kinds.layers(keys, window(keys, Some(4096))?, SLIDING_ROPE)?;
    Ok(())
}

fn block(b: &mut Builder<'_>, layer: usize, x: NodeId) -> Result<NodeId, Error> {
    let h = b.norm(layer, "input_layernorm", x)?;
    let h = b.attention(layer, h, Norms::QueryAndKey)?;
    let h = b.norm(layer, "post_attention_layernorm", h)?;
    let x = b.residual(layer, "self_attn.residual", x, h)?;
    let h = b.norm(layer, "pre_feedforward_layernorm", x)?;
    let h = b.mlp(layer, h)?;
    let h = b.norm(layer, "post_feedforward_layernorm", h)?;
    b.residual(layer, "mlp.residual", x, h)
}
