//! The commands as users call them: exit codes, messages, output.

#[path = "../common/mod.rs"]
mod common;

mod bench;
mod compile;
mod eval;
mod gpu;
mod inspect;
mod interrupts;
mod logits;
mod outputs;
mod run;
mod run_chat;
mod synth;
mod train;
mod train_out;
mod train_stops;
mod tune;
mod unheeded;

use std::process::{Command, Stdio};

use common::{arg, books, misused, rabitc, refuses};

const VERBS: [&str; 13] = [
    "compile", "run", "eval", "logits", "inspect", "verify", "bench", "tune", "train", "report",
    "export", "synth", "doctor",
];

#[test]
fn every_verb_explains_itself() {
    let overview = rabitc(&["--help"]).out;
    for verb in VERBS {
        assert!(
            overview.contains(&format!("  {verb} ")),
            "{verb}: {overview}"
        );
        let help = rabitc(&[verb, "--help"]).out;
        assert!(help.contains("Examples:\n"), "{verb}: {help}");
        assert!(help.contains(&format!("rabitc {verb} ")), "{verb}: {help}");
        let short = rabitc(&[verb, "-h"]).out;
        assert!(short.lines().count() < help.lines().count(), "{verb}");
    }
}

#[test]
fn the_version_is_that_of_the_package() {
    let version = concat!("rabitc ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(rabitc(&["--version"]).out, version);
}

#[test]
fn unknown_verbs_and_options_are_named() {
    misused(&["melt"], "'melt'");
    misused(&["inspect", "x.rbx", "--melt"], "'--melt'");
}

#[test]
fn artifacts_that_cannot_be_opened_are_named() {
    let checkpoint = common::models("books-1m/model.safetensors");
    let folder = common::models("books-1m");
    for verb in ["run", "eval", "logits", "inspect", "bench"] {
        let more: &[&str] = match verb {
            "run" => &["-p", "x"],
            "eval" => &["--text", "x.txt"],
            "logits" => &["ids.safetensors", "-o", "never-written.safetensors"],
            _ => &[],
        };
        let refuses = |path: &str, words: &[&str]| refuses(&[&[verb, path], more].concat(), words);
        let message = refuses("absent.rbx", &["absent.rbx"]);
        assert_eq!(message.matches("os error").count(), 1, "{message}");
        refuses(arg(&checkpoint), &["model.safetensors", "no .rbx artifact"]);
        refuses(arg(&folder), &["books-1m"]);
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_rabitc"))
        .args(["inspect", "--graph", "--plan", "--hashes", arg(books())])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{err}");
    assert_eq!(err, "");
}
