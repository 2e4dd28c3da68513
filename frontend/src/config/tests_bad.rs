//! Configurations that must be refused.

use serde_json::json;

use super::tests::{parse, with};
use super::*;

#[test]
fn bad_values_are_refused_by_name() {
    let cases: Vec<(&str, Value, &str)> = vec![
        (
            "FooForCausalLM",
            json!({}),
            "unknown architecture `FooForCausalLM`; known are LlamaForCausalLM",
        ),
        (
            "LlamaForCausalLM",
            json!({"model_type": "bloom"}),
            "unknown model_type `bloom`",
        ),
        (
            "LlamaForCausalLM",
            json!({"model_type": "qwen2"}),
            "`model_type`: is of the family qwen2",
        ),
        (
            "LlamaForCausalLM",
            json!({"architectures": null}),
            "`architectures`: is missing",
        ),
        (
            "LlamaForCausalLM",
            json!({"architectures": "Llama"}),
            "expected a list of strings",
        ),
        (
            "LlamaForCausalLM",
            json!({"num_hidden_layers": 0}),
            "`num_hidden_layers`: must not be 0",
        ),
        (
            "LlamaForCausalLM",
            json!({"num_hidden_layers": u64::MAX}),
            "`num_hidden_layers`: 18446744073709551615 is above",
        ),
        (
            "LlamaForCausalLM",
            json!({"hidden_size": 1u64 << 40}),
            "`hidden_size`: 1099511627776 is above",
        ),
        (
            "LlamaForCausalLM",
            json!({"hidden_size": 0}),
            "`hidden_size`: must not be 0",
        ),
        (
            "LlamaForCausalLM",
            json!({"hidden_size": -64}),
            "`hidden_size`: expected a whole number",
        ),
        (
            "LlamaForCausalLM",
            json!({"hidden_size": 66}),
            "66 is not a multiple of 4",
        ),
        (
            "LlamaForCausalLM",
            json!({"vocab_size": 1e9 as u64}),
            "`vocab_size`",
        ),
        (
            "LlamaForCausalLM",
            json!({"intermediate_size": 0}),
            "`intermediate_size`",
        ),
        (
            "LlamaForCausalLM",
            json!({"num_attention_heads": 0}),
            "0 attention heads",
        ),
        (
            "LlamaForCausalLM",
            json!({"num_attention_heads": 0, "head_dim": 8}),
            "`num_attention_heads`",
        ),
        (
            "LlamaForCausalLM",
            json!({"num_key_value_heads": 3}),
            "`num_key_value_heads`: 3 does not divide 4",
        ),
        (
            "LlamaForCausalLM",
            json!({"num_key_value_heads": 0}),
            "`num_key_value_heads`: must not be 0",
        ),
        (
            "LlamaForCausalLM",
            json!({"head_dim": 7}),
            "`head_dim`: 7 is odd",
        ),
        (
            "LlamaForCausalLM",
            json!({"max_position_embeddings": 0}),
            "`max_position_embeddings`",
        ),
        (
            "LlamaForCausalLM",
            json!({"max_position_embeddings": 1u64 << 33}),
            "`max_position_embeddings`",
        ),
        (
            "LlamaForCausalLM",
            json!({"rms_norm_eps": 0}),
            "`rms_norm_eps`: expected a number greater than zero",
        ),
        (
            "LlamaForCausalLM",
            json!({"rms_norm_eps": 3}),
            "`rms_norm_eps`: 3 is absurd",
        ),
        (
            "LlamaForCausalLM",
            json!({"rms_norm_eps": "1e-5"}),
            "`rms_norm_eps`",
        ),
        (
            "LlamaForCausalLM",
            json!({"hidden_act": "relu"}),
            "unknown activation function `relu`",
        ),
        (
            "LlamaForCausalLM",
            json!({"tie_word_embeddings": 1}),
            "`tie_word_embeddings`: expected true or false",
        ),
        (
            "LlamaForCausalLM",
            json!({"eos_token_id": "x"}),
            "`eos_token_id`",
        ),
        (
            "LlamaForCausalLM",
            json!({"eos_token_id": [-1]}),
            "`eos_token_id`",
        ),
        (
            "LlamaForCausalLM",
            json!({"quantization_config": {"quant_method": "gptq"}}),
            "`gptq`",
        ),
        ("LlamaForCausalLM", json!({"rope_theta": 0}), "`rope_theta`"),
        (
            "LlamaForCausalLM",
            json!({"rope_theta": 1.0}),
            "`rope_theta`: 1 is not above 1",
        ),
        (
            "LlamaForCausalLM",
            json!({"rope_scaling": 3}),
            "`rope_scaling`: expected an object",
        ),
        (
            "LlamaForCausalLM",
            json!({"rope_scaling": {"type": "spiral"}}),
            "unknown rope type `spiral`",
        ),
        (
            "LlamaForCausalLM",
            json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
            "`dynamic`",
        ),
        (
            "LlamaForCausalLM",
            json!({"rope_scaling": {"type": "longrope"}}),
            "`longrope`",
        ),
        (
            "LlamaForCausalLM",
            json!({"rope_scaling": {"type": "linear"}}),
            "`rope_scaling.factor`: is missing",
        ),
        (
            "LlamaForCausalLM",
            json!({"rope_scaling": {"type": "linear", "factor": 0}}),
            "`rope_scaling.factor`",
        ),
        (
            "LlamaForCausalLM",
            json!({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}),
            "`rope_parameters.low_freq_factor`",
        ),
        (
            "LlamaForCausalLM",
            json!({"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0}}),
            "high_freq_factor`: 4 is not above",
        ),
        (
            "LlamaForCausalLM",
            json!({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "beta_fast": 1.0, "beta_slow": 3.0}}),
            "`rope_parameters.beta_fast`",
        ),
        (
            "LlamaForCausalLM",
            json!({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 0}}),
            "original_max_position_embeddings`: must not be 0",
        ),
        (
            "LlamaForCausalLM",
            json!({"partial_rotary_factor": 0.5, "rope_parameters": {}}),
            "partial_rotary_factor",
        ),
        (
            "LlamaForCausalLM",
            json!({"rope_parameters": {"full_attention": {}}}),
            "by layer type",
        ),
        (
            "MistralForCausalLM",
            json!({"sliding_window": 0}),
            "`sliding_window`: must not be 0",
        ),
        (
            "Qwen2ForCausalLM",
            json!({"layer_types": ["full_attention"]}),
            "`layer_types`: 1 entries for 4",
        ),
        (
            "Qwen2ForCausalLM",
            json!({"layer_types": ["full_attention", "x", "x", "x"]}),
            "unknown layer type `x`",
        ),
        (
            "Qwen3ForCausalLM",
            json!({"layer_types": ["sliding_attention", "full_attention", "full_attention", "full_attention"]}),
            "layer 0 slides",
        ),
        (
            "Gemma3ForCausalLM",
            json!({"sliding_window_pattern": 0}),
            "`sliding_window_pattern`",
        ),
        (
            "Gemma3ForCausalLM",
            json!({"query_pre_attn_scalar": 0}),
            "`query_pre_attn_scalar`",
        ),
        (
            "Gemma3ForCausalLM",
            json!({"final_logit_softcapping": -30.0}),
            "`final_logit_softcapping`",
        ),
        (
            "Gemma3ForCausalLM",
            json!({"use_bidirectional_attention": true}),
            "bidirectional",
        ),
        (
            "Gemma3ForCausalLM",
            json!({"rope_parameters": {"rope_theta": 1e4}}),
            "`rope_parameters`: expected one object for each",
        ),
        (
            "Gemma3ForCausalLM",
            json!({"text_config": {"head_dim": 3}}),
            "`head_dim`: 3 is odd",
        ),
    ];
    for (architecture, more, expected) in cases {
        let text = parse(&with(architecture, more.clone()))
            .unwrap_err()
            .to_string();
        assert!(
            text.contains(expected),
            "{more}: `{expected}` is not in: {text}"
        );
    }
    for text in [
        "",
        "[]",
        "{",
        "{\"rms_norm_eps\": NaN}",
        "{\"rms_norm_eps\": 1e999}",
    ] {
        assert!(
            matches!(ModelConfig::parse(text), Err(ConfigError::Json(_))),
            "{text}"
        );
    }
    let nested = "[".repeat(10_000);
    assert!(ModelConfig::parse(&nested).is_err());
}
