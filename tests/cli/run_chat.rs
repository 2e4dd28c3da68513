//! `rabitc run --chat`, with a template given to the example model.

use std::path::PathBuf;
use std::sync::OnceLock;

use crate::common::*;

/// Names roles in plain words, and refuses two questions in a row.
const TEMPLATE: &str = "\
{{ bos_token }}{% for m in messages %}
{% if not loop.first and m.role == messages[loop.index0 - 1].role %}{{ raise_exception('twice') }}\
{% endif %}
{{ m.role | upper }}: {{ m.content }}
{% endfor %}
{% if add_generation_prompt %}ASSISTANT:{% endif %}";

/// The example model with the template.
fn chatty() -> &'static str {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let path = PATH.get_or_init(|| {
        let checkpoint = books_copy();
        std::fs::write(checkpoint.path().join("chat_template.jinja"), TEMPLATE).unwrap();
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("chatty.rbx");
        compile(checkpoint.path(), &path, &EXACT);
        path
    });
    arg(path)
}

/// The ids of a text as it is.
fn encode(text: &str) -> Vec<u32> {
    let args = [
        "run",
        arg(books_dense()),
        "-p",
        text,
        "--raw",
        "-n",
        "1",
        "--json",
    ];
    ids(&rabitc(&args).json()["prompt_ids"])
}

fn answer(question: &str, more: &[&str]) -> serde_json::Value {
    let base = [
        "run",
        chatty(),
        "--chat",
        "-p",
        question,
        "-n",
        "12",
        "--greedy",
        "--json",
    ];
    rabitc(&[&base[..], more].concat()).json()
}

#[test]
fn the_template_makes_the_prompt() {
    let report = answer("Who are you?", &[]);
    let prompt = encode("<|bos|>USER: Who are you?\nASSISTANT:");
    assert_eq!(ids(&report["prompt_ids"]), prompt);
    assert_eq!(
        prompt.iter().filter(|id| **id == 0).count(),
        1,
        "one begin token"
    );
    let report = answer("Who are you?", &["--system", "Be brief."]);
    let prompt = encode("<|bos|>SYSTEM: Be brief.\nUSER: Who are you?\nASSISTANT:");
    assert_eq!(ids(&report["prompt_ids"]), prompt);
}

#[test]
fn a_conversation_remembers_until_it_is_reset() {
    let base = ["run", chatty(), "--chat", "-n", "12", "--greedy"];
    let talk = |input: &str| {
        let outcome = rabitc_with_input(&base, input);
        assert_eq!(outcome.code, Some(0), "{}", outcome.err);
        outcome
    };
    let first = answer("Who are you?", &[])["text"]
        .as_str()
        .unwrap()
        .to_owned();
    // What the second question is asked after.
    let history = format!("<|bos|>USER: Who are you?\nASSISTANT: {first}\n");
    let prompt = encode(&format!("{history}USER: Why?\nASSISTANT:"));
    let continued = [
        "run",
        chatty(),
        "--ids",
        &join(&prompt),
        "-n",
        "12",
        "--greedy",
        "--json",
    ];
    let second = rabitc(&continued).json()["text"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(
        talk("Who are you?\n\nWhy?\n").out,
        format!("{first}\n{second}\n")
    );
    let fresh = answer("Why?", &[])["text"].as_str().unwrap().to_owned();
    let outcome = talk("Who are you?\n/reset\nWhy?\n/exit\nnever read\n");
    assert_eq!(outcome.out, format!("{first}\n{fresh}\n"));
    assert!(
        outcome.err.contains("generation 22 tokens"),
        "{}",
        outcome.err
    );
}

#[test]
fn what_is_in_the_cache_is_not_read_again() {
    let args = ["run", chatty(), "--chat", "-n", "1", "--greedy"];
    let outcome = rabitc_with_input(&args, "Who are you?\n/reset\nWho are you?\n");
    let tokens = encode("<|bos|>USER: Who are you?\nASSISTANT:").len();
    // The second time all but the last token are there already.
    let expected = format!("prompt {} tokens", tokens + 1);
    assert!(
        outcome.err.contains(&expected),
        "{expected}: {}",
        outcome.err
    );
}

#[test]
fn conversations_that_do_not_work_end_with_a_message() {
    refuses(
        &["run", arg(books()), "--chat", "-p", "x"],
        &["books.rbx", "no chat template"],
    );
    let model = chatty();
    refuses(&["run", model, "--chat", "--json"], &["--json", "-p"]);
    let outcome = rabitc_with_input(&["run", model, "--chat", "--ctx", "8"], "Who are you?\n");
    assert_eq!(outcome.code, Some(1));
    assert!(
        outcome.err.contains("context of 8; start anew"),
        "{}",
        outcome.err
    );
    misused(
        &["run", model, "--chat", "--ids", "1"],
        "cannot be used with",
    );
}

#[test]
fn what_a_template_refuses_is_said_in_its_words() {
    let checkpoint = books_copy();
    let template = "{{ raise_exception('no system please') }}";
    std::fs::write(checkpoint.path().join("chat_template.jinja"), template).unwrap();
    let model = checkpoint.path().join("strict.rbx");
    compile(checkpoint.path(), &model, &EXACT);
    refuses(
        &["run", arg(&model), "--chat", "-p", "x"],
        &["no system please"],
    );
}
