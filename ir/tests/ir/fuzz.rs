//! The parser meets text that is not a graph: it never panics, and its errors name a line.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rabitc_ir::Op;
use rabitc_ir::text::{parse, print};

use crate::random;
use crate::support::Rng;
use crate::text::steps;

/// Parses, and checks what must hold whether or not that succeeds.
fn check(text: &str) {
    match parse(text) {
        Ok(graph) => {
            let printed = print(&graph);
            let again = parse(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}"));
            assert_eq!(print(&again), printed);
        }
        Err(e) => {
            let lines = text.lines().count().max(1);
            assert!((1..=lines).contains(&e.line), "{e} of {lines} lines");
            assert!(!e.message.is_empty());
        }
    }
}

/// What tokens of a text may be replaced by.
const WORDS: &[&str] = &[
    "18446744073709551615",
    "9223372036854775808",
    "0",
    "-1",
    "NaN",
    "inf",
    "true",
    "T",
    "R",
    "f32",
    "bit",
    "[",
    "]",
    "{",
    "}",
    "(",
    ")",
    ",",
    ":",
    "=",
    "\"",
    "%",
    "#",
    "\\",
    "\n",
    "output",
    "weight",
    "é",
];

/// One change to a text: a token replaced, text cut out, doubled, or a character overwritten.
fn mutate(text: &str, rng: &mut Rng) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = rng.below(chars.len() + 1);
    let end = (at + rng.below(20)).min(chars.len());
    let (before, cut, after) = (&chars[..at], &chars[at..end], &chars[end..]);
    let middle: Vec<char> = match rng.below(5) {
        0 => Vec::new(),
        1 => [cut, cut].concat(),
        2 => return before.iter().collect(),
        3 => return replace_number(text, rng),
        _ => rng.pick(WORDS).chars().collect(),
    };
    [before, &middle, after].concat().iter().collect()
}

/// Another number in place of one of those in the text: what reaches deepest into type rules.
fn replace_number(text: &str, rng: &mut Rng) -> String {
    let starts: Vec<_> = text
        .match_indices(|c: char| c.is_ascii_digit())
        .map(|(i, _)| i)
        .collect();
    if starts.is_empty() {
        return text.to_string();
    }
    let at = rng.pick(&starts);
    let rest = text[at..].trim_start_matches(|c: char| c.is_ascii_digit());
    format!("{}{}{rest}", &text[..at], rng.pick(WORDS))
}

/// The text with every number that reads `from` replaced.
fn replace_all(text: &str, from: &str, to: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        out.push_str(&rest[..at]);
        let number: String = rest[at..]
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        out.push_str(if number == from { to } else { &number });
        rest = &rest[at + number.len()..];
    }
    out + rest
}

#[test]
fn largest_numbers_overflow_no_type_rule() {
    for index in 0..Op::table().len() {
        for seed in 0..20 {
            // Inputs, unlike weights, may have types that no memory could hold.
            let text = print(&random::graph(&[(index, seed)])).replace("= weight {", "= input {");
            let numbers = text.split(|c: char| !c.is_ascii_digit());
            let numbers: BTreeSet<_> = numbers.filter(|n| !n.is_empty()).collect();
            for number in numbers {
                for big in [u64::MAX, 1 << 63, 1 << 62, (1 << 61) - 1, 1 << 60, 1 << 58] {
                    check(&replace_all(&text, number, &big.to_string()));
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn any_text_is_read_without_a_panic(text in "\\PC{0,200}") {
        check(&text);
        check(&format!("graph \"g\" {{\n{text}\n}}"));
    }

    #[test]
    fn any_tokens_are_read_without_a_panic(
        picks in proptest::collection::vec(0..WORDS.len(), 0..60),
    ) {
        let tokens: Vec<_> = picks.into_iter().map(|i| WORDS[i]).collect();
        check(&format!("graph \"g\" {{\n%x = input {{{}", tokens.join(" ")));
        check(&format!("graph \"g\" {{\n%x = {}", tokens.join(" ")));
    }

    #[test]
    fn damaged_graphs_are_read_without_a_panic(steps in steps(8), seed in any::<u64>()) {
        let mut rng = Rng(seed);
        let mut text = print(&random::graph(&steps));
        for _ in 0..4 {
            text = mutate(&text, &mut rng);
            check(&text);
        }
    }
}
