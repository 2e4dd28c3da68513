//! Configurations that must be refused.

use serde_json::json;

use super::tests::{parse, with};
use super::*;

const LLAMA: &str = "LlamaForCausalLM";

/// Each change to a configuration of `architecture` is refused with these words.
#[track_caller]
fn refused(architecture: &str, cases: &[(Value, &str)]) {
    for (change, words) in cases {
        let result = parse(&with(architecture, change.clone()));
        let text = result.expect_err(words).to_string();
        assert!(
            text.contains(words),
            "{change}: `{words}` is not in: {text}"
        );
    }
}

#[test]
fn architectures() {
    let cases = [
        (json!({"model_type": "bloom"}), "unknown model_type `bloom`"),
        (
            json!({"model_type": "qwen2"}),
            "`model_type`: is of the family qwen2",
        ),
        (
            json!({"architectures": null}),
            "`architectures`: is missing",
        ),
        (
            json!({"architectures": "Llama"}),
            "expected a list of strings",
        ),
    ];
    refused(LLAMA, &cases);
    let words = "unknown architecture `FooForCausalLM`; known are LlamaForCausalLM";
    refused("FooForCausalLM", &[(json!({}), words)]);
}

#[test]
fn sizes() {
    let cases = [
        (
            json!({"num_hidden_layers": 0}),
            "`num_hidden_layers`: must not be 0",
        ),
        (
            json!({"num_hidden_layers": u64::MAX}),
            "`num_hidden_layers`: 18446744073709551615 is above",
        ),
        (
            json!({"hidden_size": 1u64 << 40}),
            "`hidden_size`: 1099511627776 is above",
        ),
        (json!({"hidden_size": 0}), "`hidden_size`: must not be 0"),
        (
            json!({"hidden_size": -64}),
            "`hidden_size`: expected a whole number",
        ),
        (json!({"hidden_size": 66}), "66 is not a multiple of 4"),
        (json!({"vocab_size": 1e9 as u64}), "`vocab_size`"),
        (json!({"intermediate_size": 0}), "`intermediate_size`"),
        (json!({"num_attention_heads": 0}), "0 attention heads"),
        (
            json!({"num_attention_heads": 0, "head_dim": 8}),
            "`num_attention_heads`",
        ),
        (
            json!({"num_key_value_heads": 3}),
            "`num_key_value_heads`: 3 does not divide 4",
        ),
        (
            json!({"num_key_value_heads": 0}),
            "`num_key_value_heads`: must not be 0",
        ),
        (json!({"head_dim": 7}), "`head_dim`: 7 is odd"),
        (
            json!({"max_position_embeddings": 0}),
            "`max_position_embeddings`",
        ),
        (
            json!({"max_position_embeddings": 1u64 << 33}),
            "`max_position_embeddings`",
        ),
    ];
    refused(LLAMA, &cases);
}

#[test]
fn values_of_other_kinds() {
    let cases = [
        (
            json!({"rms_norm_eps": 0}),
            "`rms_norm_eps`: expected a number greater than zero",
        ),
        (json!({"rms_norm_eps": 3}), "`rms_norm_eps`: 3 is absurd"),
        (json!({"rms_norm_eps": "1e-5"}), "`rms_norm_eps`"),
        (
            json!({"hidden_act": "relu"}),
            "unknown activation function `relu`",
        ),
        (
            json!({"tie_word_embeddings": 1}),
            "`tie_word_embeddings`: expected true or false",
        ),
        (json!({"eos_token_id": "x"}), "`eos_token_id`"),
        (json!({"eos_token_id": [-1]}), "`eos_token_id`"),
        (
            json!({"quantization_config": {"quant_method": "gptq"}}),
            "`gptq`",
        ),
    ];
    refused(LLAMA, &cases);
}

#[test]
fn rotary_frequencies() {
    let cases = [
        (json!({"rope_theta": 0}), "`rope_theta`"),
        (json!({"rope_theta": 1.0}), "`rope_theta`: 1 is not above 1"),
        (
            json!({"rope_scaling": 3}),
            "`rope_scaling`: expected an object",
        ),
        (
            json!({"rope_scaling": {"type": "spiral"}}),
            "unknown rope type `spiral`",
        ),
        (
            json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
            "`dynamic`",
        ),
        (json!({"rope_scaling": {"type": "longrope"}}), "`longrope`"),
        (
            json!({"rope_scaling": {"type": "linear"}}),
            "`rope_scaling.factor`: is missing",
        ),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 0}}),
            "`rope_scaling.factor`",
        ),
        (
            json!({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}),
            "`rope_parameters.low_freq_factor`",
        ),
        (
            json!({"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0}}),
            "high_freq_factor`: 4 is not above",
        ),
        (
            json!({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "beta_fast": 1.0, "beta_slow": 3.0}}),
            "`rope_parameters.beta_fast`",
        ),
        (
            json!({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 0}}),
            "original_max_position_embeddings`: must not be 0",
        ),
        (
            json!({"partial_rotary_factor": 0.5, "rope_parameters": {}}),
            "partial_rotary_factor",
        ),
        (
            json!({"rope_parameters": {"full_attention": {}}}),
            "by layer type",
        ),
    ];
    refused(LLAMA, &cases);
}

#[test]
fn what_only_some_families_have() {
    let case = (
        json!({"sliding_window": 0}),
        "`sliding_window`: must not be 0",
    );
    refused("MistralForCausalLM", &[case]);
    let cases = [
        (
            json!({"layer_types": ["full_attention"]}),
            "`layer_types`: 1 entries for 4",
        ),
        (
            json!({"layer_types": ["full_attention", "x", "x", "x"]}),
            "unknown layer type `x`",
        ),
    ];
    refused("Qwen2ForCausalLM", &cases);
    let case = (
        json!({"layer_types": ["sliding_attention", "full_attention", "full_attention", "full_attention"]}),
        "layer 0 slides",
    );
    refused("Qwen3ForCausalLM", &[case]);
    let cases = [
        (
            json!({"sliding_window_pattern": 0}),
            "`sliding_window_pattern`",
        ),
        (
            json!({"query_pre_attn_scalar": 0}),
            "`query_pre_attn_scalar`",
        ),
        (
            json!({"final_logit_softcapping": -30.0}),
            "`final_logit_softcapping`",
        ),
        (
            json!({"use_bidirectional_attention": true}),
            "bidirectional",
        ),
        (
            json!({"rope_parameters": {"rope_theta": 1e4}}),
            "`rope_parameters`: expected one object for each",
        ),
        (
            json!({"text_config": {"head_dim": 3}}),
            "`head_dim`: 3 is odd",
        ),
    ];
    refused("Gemma3ForCausalLM", &cases);
}

#[test]
fn what_is_no_configuration() {
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
