//! Tests of the tokenizer wrapper on the example model's tokenizer and on small ones made here.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::LazyLock;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/books-1m");

fn file(name: &str) -> Vec<u8> {
    std::fs::read(format!("{FOLDER}/{name}")).unwrap()
}

static BOOKS: LazyLock<Tokenizer> = LazyLock::new(|| {
    let config = TokenizerConfig::from_bytes(&file("tokenizer_config.json")).unwrap();
    Tokenizer::from_bytes(&file("tokenizer.json"), &config).unwrap()
});

/// A character-level tokenizer over `<s>`, `a` and `b`, with or without a post-processor that
/// adds `<s>`.
fn small(post_processor: bool, config: &TokenizerConfig) -> Result<Tokenizer, Error> {
    let template = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    });
    let json = json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_id": 2, "pad_type_id": 0,
                    "pad_token": "b", "pad_to_multiple_of": null},
        "added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false,
                          "rstrip": false, "normalized": false, "special": true}],
        "post_processor": if post_processor { template } else { Value::Null },
        "model": {"type": "BPE", "vocab": {"<s>": 0, "a": 1, "b": 2}, "merges": []},
    });
    Tokenizer::from_bytes(json.to_string().as_bytes(), config)
}

fn bos(add_bos_token: Option<bool>) -> TokenizerConfig {
    TokenizerConfig {
        add_bos_token,
        bos_token: Some("<s>".to_owned()),
        ..TokenizerConfig::default()
    }
}

#[test]
fn encodes_and_decodes_the_reference_continuations() {
    let reference: Value = serde_json::from_slice(&file("reference.json")).unwrap();
    let cases = reference["greedy"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        let (prompt, text) = (
            case["prompt"].as_str().unwrap(),
            case["text"].as_str().unwrap(),
        );
        let encoded = BOOKS.encode(prompt, true).unwrap();
        assert_eq!(encoded, ids[..encoded.len()]);
        assert_eq!(BOOKS.encode(prompt, false).unwrap(), encoded[1..]);
        assert_eq!(BOOKS.decode(&ids, true).unwrap(), text);
        assert_eq!(BOOKS.decode(&ids, false).unwrap(), format!("<|bos|>{text}"));
    }
}

#[test]
fn knows_its_vocabulary() {
    assert_eq!(BOOKS.token_count(), 2048);
    assert_eq!((BOOKS.bos_id(), BOOKS.eos_id()), (Some(0), Some(1)));
    assert_eq!(BOOKS.id_of("<|eos|>"), Some(1));
    assert_eq!(BOOKS.token_of(1).as_deref(), Some("<|eos|>"));
    assert_eq!(BOOKS.token_of(u32::MAX), None);
    assert_eq!(BOOKS.decode(&[5000, u32::MAX], true).unwrap(), "");
}

#[test]
fn special_tokens_in_the_text_are_tokens() {
    let ids = BOOKS.encode("a<|eos|>", false).unwrap();
    assert_eq!(ids.last(), Some(&1));
    assert_eq!(BOOKS.decode(&ids, true).unwrap(), "a");
}

#[test]
fn bos_is_added_once_whoever_adds_it() {
    let cases = [
        (false, None, &[1, 2][..]),
        (false, Some(false), &[1, 2]),
        (false, Some(true), &[0, 1, 2]),
        (true, None, &[0, 1, 2]),
        (true, Some(true), &[0, 1, 2]),
    ];
    for (post_processor, add_bos_token, expected) in cases {
        let tokenizer = small(post_processor, &bos(add_bos_token)).unwrap();
        assert_eq!(tokenizer.encode("ab", true).unwrap(), expected);
        assert_eq!(tokenizer.encode("ab", false).unwrap(), [1, 2]);
    }
}

#[test]
fn bos_written_in_the_text_is_not_doubled() {
    for post_processor in [false, true] {
        let tokenizer = small(post_processor, &bos(Some(true))).unwrap();
        assert_eq!(tokenizer.encode("<s>a", true).unwrap(), [0, 1]);
        assert_eq!(tokenizer.encode("<s>a", false).unwrap(), [0, 1]);
        assert_eq!(tokenizer.encode("", true).unwrap(), [0]);
    }
}

#[test]
fn truncation_and_padding_of_the_file_are_left_out() {
    let tokenizer = small(false, &TokenizerConfig::default()).unwrap();
    assert_eq!(tokenizer.encode("abab", false).unwrap(), [1, 2, 1, 2]);
}

#[test]
fn special_tokens_must_be_in_the_vocabulary() {
    let config = TokenizerConfig {
        eos_token: Some("</s>".to_owned()),
        ..TokenizerConfig::default()
    };
    let message = small(false, &config).unwrap_err().to_string();
    assert!(message.contains("eos_token \"</s>\""), "{message}");
}

#[test]
fn what_is_no_tokenizer_is_an_error() {
    for json in [
        "",
        "{",
        "[]",
        "{}",
        "null",
        r#"{"version": "1.0"}"#,
        "\u{0}",
    ] {
        let error = Tokenizer::from_bytes(json.as_bytes(), &TokenizerConfig::default());
        let message = error.unwrap_err().to_string();
        assert!(message.starts_with("tokenizer: cannot read"), "{message}");
    }
    let error = guarded::<()>("cannot test", || std::panic::resume_unwind(Box::new(())));
    assert!(error.unwrap_err().to_string().contains("inconsistent"));
}

proptest! {
    #[test]
    fn any_text_survives(text in "\\PC{0,60}|(?s).{0,30}") {
        let ids = BOOKS.encode(&text, false).unwrap();
        prop_assert_eq!(BOOKS.decode(&ids, false).unwrap(), text);
    }

    #[test]
    fn damaged_files_never_panic(at in 0usize..123_000, byte: u8, cut in 0usize..123_000) {
        let mut json = file("tokenizer.json");
        let at = at % json.len();
        json[at] = byte;
        let config = TokenizerConfig::default();
        if let Ok(tokenizer) = Tokenizer::from_bytes(&json, &config) {
            let _ = tokenizer.encode("It was a dark night; 123", true);
            let _ = tokenizer.decode(&[0, 5, 300, 2047], true);
        }
        prop_assert!(Tokenizer::from_bytes(&json[..cut.min(json.len() - 1)], &config).is_err());
    }
}
