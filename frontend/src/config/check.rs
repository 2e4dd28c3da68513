//! The limits on a configuration's values. They stand far above any real model; what exceeds
//! them is damage, and would otherwise size something.

use super::{ConfigError, ModelConfig};

/// Largest accepted value by key.
const LIMITS: &[(&str, usize)] = &[
    ("vocab_size", 1 << 24),
    ("hidden_size", 1 << 20),
    ("intermediate_size", 1 << 22),
    ("num_hidden_layers", 1 << 12),
    ("num_attention_heads", 1 << 14),
    ("num_key_value_heads", 1 << 14),
    ("head_dim", 1 << 14),
    ("max_position_embeddings", i32::MAX as usize),
];

fn error(key: &str, reason: impl Into<String>) -> ConfigError {
    ConfigError::Value {
        key: key.to_string(),
        reason: reason.into(),
    }
}

/// `n`, if it is at least 1 and within the limit for `key`.
pub(crate) fn limited(key: &str, n: usize) -> Result<usize, ConfigError> {
    let limit = LIMITS.iter().find(|(k, _)| *k == key).map(|(_, l)| *l);
    match limit {
        _ if n == 0 => Err(error(key, "must not be 0")),
        Some(limit) if n > limit => Err(error(key, format!("{n} is above the limit of {limit}"))),
        _ => Ok(n),
    }
}

/// Checks everything that no single key can tell.
pub(crate) fn check(c: &ModelConfig) -> Result<(), ConfigError> {
    let sizes = [
        ("vocab_size", c.vocab_size),
        ("hidden_size", c.hidden_size),
        ("intermediate_size", c.intermediate_size),
        ("num_attention_heads", c.n_heads),
        ("num_key_value_heads", c.n_kv_heads),
        ("head_dim", c.head_dim),
        ("max_position_embeddings", c.context_length),
    ];
    for (key, n) in sizes {
        limited(key, n)?;
    }
    if !c.head_dim.is_multiple_of(2) {
        let reason = format!("{} is odd; rotary embeddings need pairs", c.head_dim);
        return Err(error("head_dim", reason));
    }
    if !c.n_heads.is_multiple_of(c.n_kv_heads) {
        let reason = format!(
            "{} does not divide {} attention heads",
            c.n_kv_heads, c.n_heads
        );
        return Err(error("num_key_value_heads", reason));
    }
    if c.rms_norm_eps >= 1.0 {
        return Err(error(
            "rms_norm_eps",
            format!("{} is absurd", c.rms_norm_eps),
        ));
    }
    Ok(())
}
