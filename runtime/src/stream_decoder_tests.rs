//! Tests of streaming: what comes out in pieces is what decoding at once gives.

use super::*;
use crate::tokenizer_config::TokenizerConfig;
use proptest::prelude::*;
use std::sync::LazyLock;

/// A byte-level BPE.
static BOOKS: LazyLock<Tokenizer> = LazyLock::new(|| {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../models/books-1m/tokenizer.json"
    );
    Tokenizer::from_bytes(&std::fs::read(path).unwrap(), &TokenizerConfig::default()).unwrap()
});

/// A tokenizer in the style of Llama 2: `▁` for spaces, byte tokens for what has no token of its
/// own, and a decoder that strips the first space.
static SENTENCEPIECE: LazyLock<Tokenizer> = LazyLock::new(|| {
    let mut vocab = serde_json::Map::new();
    for token in ["<s>", "▁", "a", "b", "▁a", "▁b"] {
        vocab.insert(token.to_owned(), vocab.len().into());
    }
    for byte in 0..=255u8 {
        vocab.insert(format!("<0x{byte:02X}>"), vocab.len().into());
    }
    let json = serde_json::json!({
        "version": "1.0",
        "added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false,
                          "rstrip": false, "normalized": false, "special": true}],
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "byte_fallback": true, "vocab": vocab,
                  "merges": ["▁ a", "▁ b"]},
    });
    Tokenizer::from_bytes(json.to_string().as_bytes(), &TokenizerConfig::default()).unwrap()
});

fn byte_token(byte: u8) -> u32 {
    SENTENCEPIECE.id_of(&format!("<0x{byte:02X}>")).unwrap()
}

fn pieces(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let mut stream = StreamDecoder::new(tokenizer, true);
    let mut pieces: Vec<_> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    pieces.push(stream.finish().unwrap());
    pieces
}

proptest! {
    #[test]
    fn pieces_of_any_byte_level_tokens_join_to_the_whole(
        ids in prop::collection::vec(0u32..2048, 0..60),
    ) {
        let whole = BOOKS.decode(&ids, true).unwrap();
        prop_assert_eq!(pieces(&BOOKS, &ids).concat(), whole);
    }

    #[test]
    fn pieces_of_any_text_join_to_it(text in "\\PC{0,40}") {
        let ids = BOOKS.encode(&text, false).unwrap();
        let pieces = pieces(&BOOKS, &ids);
        prop_assert_eq!(pieces.concat(), text);
    }

    #[test]
    fn pieces_of_byte_fallback_text_join_to_it(text in "[ab çß€你😀]{0,30}") {
        // The decoder takes the first space for one that encoding has put there.
        let marked = text.replace(' ', "▁");
        let ids = SENTENCEPIECE.encode(&marked, false).unwrap();
        let whole = SENTENCEPIECE.decode(&ids, true).unwrap();
        prop_assert_eq!(&whole, text.strip_prefix(' ').unwrap_or(&text));
        prop_assert_eq!(pieces(&SENTENCEPIECE, &ids).concat(), whole);
    }
}

#[test]
fn a_character_comes_out_whole_with_its_last_token() {
    let ids: Vec<u32> = "a€".bytes().map(byte_token).collect();
    assert_eq!(pieces(&SENTENCEPIECE, &ids), ["a", "", "", "€", ""]);
    let ids = BOOKS.encode("你", false).unwrap();
    assert!(ids.len() > 1, "this test needs a character without a token");
    let pieces = pieces(&BOOKS, &ids);
    let (last, before) = pieces[..ids.len()].split_last().unwrap();
    assert_eq!(last, "你");
    assert!(before.iter().all(String::is_empty));
}

#[test]
fn special_tokens_are_left_out_and_are_no_context() {
    let id = |token| SENTENCEPIECE.id_of(token).unwrap();
    let ids = [id("<s>"), id("▁a"), id("<s>"), id("▁b")];
    assert_eq!(pieces(&SENTENCEPIECE, &ids), ["", "a", "", " b", ""]);
    let mut shown = StreamDecoder::new(&SENTENCEPIECE, false);
    let text: String = ids.iter().map(|&id| shown.push(id).unwrap()).collect();
    assert_eq!(text, "<s> a<s> b");
}

#[test]
fn a_prompt_is_context_but_not_output() {
    let id = |token| SENTENCEPIECE.id_of(token).unwrap();
    let mut stream = StreamDecoder::new(&SENTENCEPIECE, true);
    stream.prime(&[id("<s>"), id("▁a")]).unwrap();
    assert_eq!(stream.push(id("▁b")).unwrap(), " b");
    let mut long = StreamDecoder::new(&SENTENCEPIECE, true);
    long.prime(&vec![id("▁a"); 1000]).unwrap();
    assert_eq!(long.push(id("▁b")).unwrap(), " b");
}

#[test]
fn an_unfinished_character_is_shown_at_the_end() {
    let ids: Vec<u32> = "b€".bytes().take(3).map(byte_token).collect();
    assert_eq!(
        pieces(&SENTENCEPIECE, &ids),
        ["b", "", "", "\u{fffd}\u{fffd}"]
    );
}

#[test]
fn rubbish_does_not_pile_up() {
    let mut stream = StreamDecoder::new(&SENTENCEPIECE, true);
    let mut shown = String::new();
    for _ in 0..1000 {
        shown += &stream.push(byte_token(0xff)).unwrap();
        assert!(stream.window.len() <= 2 * MAX_UNFINISHED);
    }
    assert!(shown.chars().count() >= 1000 - MAX_UNFINISHED);
    shown += &stream.push(SENTENCEPIECE.id_of("a").unwrap()).unwrap();
    assert_eq!(shown, "\u{fffd}".repeat(1000) + "a");
}

#[test]
fn revised_text_is_not_taken_back() {
    assert_eq!(unseen("hello", "he"), "llo");
    assert_eq!(unseen("héllo", "hépp"), "llo");
    assert_eq!(unseen("h", "hello"), "");
    assert_eq!(unseen("xyz", "abc"), "xyz");
    // Four bytes of a run were shown as two characters before a fifth spoilt it.
    let spoilt = "\u{fffd}".repeat(5);
    assert_eq!(unseen(&spoilt, "b€"), "\u{fffd}");
}
