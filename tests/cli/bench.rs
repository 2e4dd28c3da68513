//! `rabitc bench`: its forms, not its figures.

use std::sync::{Mutex, PoisonError};

use rabitc_rbx::Artifact;

use crate::common::*;

/// Held by tests that measure the bandwidth, which takes a gigabyte.
static MEMORY: Mutex<()> = Mutex::new(());

#[test]
fn json_holds_every_repetition_and_what_a_token_reads() {
    let _memory = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    let args = [
        "-p", "40", "-n", "3", "-r", "2", "--depth", "10", "--output", "json",
    ];
    let report = rabitc(&[&["bench", arg(books_dense())][..], &args].concat()).json();
    let tests = report["tests"].as_array().unwrap();
    let names: Vec<_> = tests.iter().map(|t| t["test"].as_str().unwrap()).collect();
    assert_eq!(names, ["prompt 40 @ 10", "generate 3 @ 10"]);
    for test in tests {
        let speed = &test["tokens_per_second"];
        assert_eq!(speed["runs"].as_array().unwrap().len(), 2, "{test}");
        for key in ["mean", "median"] {
            assert!(speed[key].as_f64().unwrap() > 0.0, "{test}");
        }
        assert!(speed["sd"].as_f64().unwrap() >= 0.0, "{test}");
    }
    let bandwidth = &report["bandwidth_bytes_per_second"];
    assert_eq!(bandwidth["runs"].as_array().unwrap().len(), 3, "{report}");
    // bf16 weights with a row of the embedding for the table (the head reads the table itself);
    // keys and values of 11, 12 and 13 positions in f32.
    let block = 128 * (128 + 64 + 64 + 128) + 3 * 128 * 384;
    let weights = 2 * (4 * block + 2048 * 128 + 128 + 9 * 128);
    let cache = 12 * 4 * 2 * 2 * 32 * 4;
    assert_eq!(tests[1]["bytes_per_token"], f64::from(weights + cache));
    assert!(tests[0]["bytes_per_token"].is_null());
    let share = tests[1]["bandwidth_share"].as_f64().unwrap();
    let rate = tests[1]["bytes_per_second"].as_f64().unwrap();
    let expected = rate / bandwidth["median"].as_f64().unwrap();
    assert!((share / expected - 1.0).abs() < 1e-9, "{report}");
    let bytes = Artifact::open(books_dense()).unwrap().file_bytes();
    assert_eq!(report["artifact_bytes"], bytes);
}

#[test]
fn steps_add_up_in_json() {
    let args = ["bench", arg(books()), "--steps", "-n", "2", "--output"];
    let report = rabitc(&[&args[..], &["json"]].concat()).json();
    assert_eq!(report["tokens"], 2);
    let parts = report["parts"].as_array().unwrap();
    let seconds = |p: &serde_json::Value| p["seconds"].as_f64().unwrap();
    let sum: f64 = parts.iter().map(seconds).sum();
    let total = report["seconds"].as_f64().unwrap();
    assert!(sum > 0.5 * total && sum < 1.01 * total, "{report}");
    let launches = parts.iter().map(|p| p["launches"].as_u64().unwrap());
    assert!(launches.sum::<u64>() > 4, "{report}");
    refuses(&[&args[..], &["csv"]].concat(), &["--output csv"]);
}

#[test]
fn tables_have_a_line_a_test() {
    let _memory = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    let base = ["bench", arg(books()), "-n", "2", "-r", "1", "-p"];
    let out = rabitc(&[&base[..], &["0"]].concat()).out;
    let lines: Vec<_> = out.lines().collect();
    assert!(lines[0].starts_with("| model "), "{out}");
    assert!(
        lines[1].starts_with("|:---") && lines[1].ends_with(":|"),
        "{out}"
    );
    assert!(
        lines[2].contains("| generate 2 ") && lines[2].contains(" ± "),
        "{out}"
    );
    assert!(lines[4].starts_with("Read bandwidth "), "{out}");
    let out = rabitc(&[&base[..], &["5", "-o", "csv"]].concat()).out;
    let rows: Vec<Vec<_>> = out.lines().map(|l| l.split(',').collect()).collect();
    assert_eq!(rows.len(), 3, "{out}");
    assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{out}");
    assert_eq!(rows[0][..2], ["model", "artifact_bytes"]);
    assert_eq!(rows[1][4], "prompt 5");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let model = arg(books());
    refuses(
        &["bench", model, "-p", "0", "-n", "0"],
        &["nothing to measure"],
    );
    refuses(&["bench", model, "-r", "0"], &["-r 0"]);
    refuses(
        &["bench", model, "-p", "1025"],
        &["books.rbx", "1025 positions", "1024"],
    );
    refuses(&["bench", model, "--depth", "1000"], &["1512 positions"]);
    misused(&["bench", model, "--output", "xml"], "'xml'");
    refuses(&["bench", model, "--tokens", "1,4"], &["--device cuda"]);
    refuses(&["bench", model, "--tokens", "4,0"], &["at least one"]);
}
