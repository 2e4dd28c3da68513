use serde_json::{Value, json};

use super::*;

/// The keys every configuration of these tests has.
fn base(architecture: &str) -> Value {
    json!({
        "architectures": [architecture], "vocab_size": 100, "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 128,
    })
}

pub(super) fn with(architecture: &str, more: Value) -> Value {
    let mut value = base(architecture);
    for (key, item) in more.as_object().unwrap() {
        value[key] = item.clone();
    }
    value
}

pub(super) fn parse(value: &Value) -> Result<ModelConfig, ConfigError> {
    ModelConfig::parse(&value.to_string())
}

fn llama(more: Value) -> ModelConfig {
    parse(&with("LlamaForCausalLM", more)).unwrap()
}

#[test]
fn absent_keys_take_the_family_s_defaults() {
    let bare = |name: &str| parse(&json!({"architectures": [name]})).unwrap();
    let llama = bare("LlamaForCausalLM");
    assert_eq!(
        (llama.vocab_size, llama.hidden_size, llama.n_layers()),
        (32_000, 4096, 32)
    );
    assert_eq!(
        (llama.head_dim, llama.n_kv_heads, llama.context_length),
        (128, 32, 2048)
    );
    assert_eq!((llama.bos, llama.eos.as_slice()), (Some(1), &[2][..]));
    assert!(!llama.tie_word_embeddings && !llama.qkv_bias && !llama.mlp_bias);
    assert_eq!(llama.rms_norm_eps, 1e-6);
    assert_eq!(llama.ropes[0].1.theta, 10_000.0);

    let mistral = bare("MistralForCausalLM");
    assert_eq!((mistral.n_kv_heads, mistral.layers[31].window), (8, 4096));

    let qwen2 = bare("Qwen2ForCausalLM");
    assert!(qwen2.qkv_bias && !qwen2.o_bias);
    assert_eq!(
        (qwen2.bos, qwen2.eos.len(), qwen2.layers[31].window),
        (None, 0, 0)
    );

    let qwen3 = bare("Qwen3ForCausalLM");
    assert_eq!((qwen3.head_dim, qwen3.qkv_bias), (128, false));

    let gemma = bare("Gemma3ForCausalLM");
    assert_eq!(
        (gemma.head_dim, gemma.n_heads, gemma.n_kv_heads),
        (256, 8, 4)
    );
    assert_eq!((gemma.vocab_size, gemma.embed_scale), (262_208, 48.0));
    assert!(gemma.tie_word_embeddings && gemma.norm_unit_offset);
    assert_eq!(gemma.attention_scale, 1.0 / 16.0);
    assert_eq!(gemma.activation, Activation::GeluTanh);
    let windows: Vec<_> = gemma
        .layers
        .iter()
        .take(6)
        .map(|l| (l.window, l.rope))
        .collect();
    assert_eq!(
        windows,
        [
            (4096, 1),
            (4096, 1),
            (4096, 1),
            (4096, 1),
            (4096, 1),
            (0, 0)
        ]
    );
    assert_eq!((gemma.ropes[0].1.theta, gemma.ropes[1].1.theta), (1e6, 1e4));
}

#[test]
fn null_is_not_always_absent() {
    let heads = |name: &str| {
        let value = with(
            name,
            json!({"num_key_value_heads": null, "sliding_window": null}),
        );
        let model = parse(&value).unwrap();
        (model.n_kv_heads, model.layers[0].window)
    };
    assert_eq!(heads("MistralForCausalLM"), (4, 0));
    assert_eq!(heads("LlamaForCausalLM"), (4, 0));
    let model = llama(json!({"bos_token_id": null, "eos_token_id": null, "head_dim": null}));
    assert_eq!((model.bos, model.eos.len(), model.head_dim), (None, 0, 16));
}

#[test]
fn windows_follow_the_family_s_rule() {
    let windows = |value: Value| -> Vec<usize> {
        parse(&value)
            .unwrap()
            .layers
            .iter()
            .map(|l| l.window)
            .collect()
    };
    let qwen = |more| with("Qwen2ForCausalLM", more);
    assert_eq!(
        windows(qwen(json!({"sliding_window": 8, "max_window_layers": 2}))),
        [0; 4]
    );
    let on = json!({"use_sliding_window": true, "sliding_window": 8, "max_window_layers": 2});
    assert_eq!(windows(qwen(on)), [0, 0, 8, 8]);
    let types = json!({"use_sliding_window": true, "sliding_window": 8, "max_window_layers": 0,
        "layer_types": ["full_attention", "sliding_attention", "full_attention", "full_attention"]});
    assert_eq!(windows(qwen(types)), [0, 8, 0, 0]);
    let gemma = with(
        "Gemma3ForCausalLM",
        json!({"sliding_window": 5, "sliding_window_pattern": 2}),
    );
    assert_eq!(windows(gemma), [5, 0, 5, 0]);
}

#[test]
fn end_tokens_come_from_both_files() {
    let config = with(
        "LlamaForCausalLM",
        json!({"eos_token_id": [7, 8, 7], "bos_token_id": null}),
    );
    let generation = r#"{"eos_token_id": [8, 9], "bos_token_id": 5}"#;
    let mut model = parse(&config).unwrap();
    model.add_generation(generation).unwrap();
    assert_eq!((model.eos.as_slice(), model.bos), (&[7, 8, 9][..], Some(5)));
    let mut model = parse(&config).unwrap();
    model.add_generation(r#"{"eos_token_id": null}"#).unwrap();
    assert_eq!(model.eos, [7, 8]);
}

/// Each pair says the same in the newer and the older form.
#[test]
fn both_forms_of_rope_mean_the_same() {
    let llama3 = json!({"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64});
    let join = |mut a: Value, b: Value| {
        a.as_object_mut()
            .unwrap()
            .extend(b.as_object().unwrap().clone());
        a
    };
    let pairs = [
        (
            json!({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
            json!({"rope_theta": 5e5}),
        ),
        (
            json!({"rope_parameters": {"rope_type": "default"}}),
            json!({"rope_scaling": null}),
        ),
        (
            json!({"rope_parameters": join(llama3.clone(), json!({"rope_type": "llama3", "rope_theta": 5e5}))}),
            json!({"rope_theta": 500000, "rope_scaling": join(llama3, json!({"type": "llama3"}))}),
        ),
        (
            json!({"rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 1e4}}),
            json!({"rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 2.0}}),
        ),
    ];
    for (newer, older) in pairs {
        assert_eq!(llama(newer.clone()), llama(older), "{newer}");
    }
    let gemma = |more| parse(&with("Gemma3ForCausalLM", more)).unwrap();
    let newer = json!({"rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4}}});
    let older = json!({"rope_local_base_freq": 2e4, "rope_theta": 1e6,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0}});
    assert_eq!(gemma(newer), gemma(older));
}

#[test]
fn multimodal_configurations_are_read_by_their_text_part() {
    let mut text = base("x");
    text.as_object_mut().unwrap().remove("architectures");
    let value = json!({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
        "text_config": text, "tie_word_embeddings": false});
    let model = parse(&value).unwrap();
    assert_eq!((model.hidden_size, model.tie_word_embeddings), (64, false));
}
