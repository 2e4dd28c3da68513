//! `rabitc tune`, and `rabitc compile --tuned`.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::*;

/// Tunes the layers of a small configuration.
fn tune(cache: &Path, more: &[&str]) -> Value {
    let config = models("fixtures/llama3/config.json");
    let args = [
        "tune",
        arg(&config),
        "--budget",
        "300ms",
        "--json",
        "--cache",
        arg(cache),
    ];
    rabitc(&[&args, more].concat()).json()
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value
        .as_array()
        .unwrap_or_else(|| panic!("{value} is no list"))
}

#[test]
fn tuned_tiles_are_used_and_verified() {
    let dir = tempfile::tempdir().unwrap();
    let [cache, checkpoint, model] = ["t.json", "packed", "t.rbx"].map(|n| dir.path().join(n));
    let report = tune(&cache, &["--paths", "3"]);
    let shapes = list(&report["shapes"]);
    assert_eq!(
        read(&cache)["entries"].as_array().unwrap().len(),
        shapes.len()
    );
    for shape in shapes {
        let tiles: Vec<_> = list(&shape["candidates"])
            .iter()
            .map(|c| &c["row_tiles"])
            .collect();
        assert!(
            tiles.contains(&&shape["tuned"]) && tiles.contains(&&shape["heuristic"]),
            "{shape}"
        );
        assert!(shape["candidates"][0]["decode"]["rounds"].as_u64().unwrap() >= 4);
    }
    // Whatever was fastest: let it be a number of tiles that nothing else would choose.
    edit_json(&cache, |c| {
        for entry in c["entries"].as_array_mut().unwrap() {
            let mut fast = entry["candidates"][0].clone();
            fast["row_tiles"] = json!(3);
            for time in ["decode", "prompt"] {
                fast[time]["median_ns"] = json!(1.0);
            }
            entry["candidates"].as_array_mut().unwrap().push(fast);
        }
    });
    let config = models("fixtures/llama3/config.json");
    rabitc(&[
        "synth",
        arg(&config),
        "-o",
        arg(&checkpoint),
        "--packed",
        "--paths",
        "3",
    ]);
    let tuned = format!("--tuned={}", arg(&cache));
    let args = ["compile", arg(&checkpoint), "-o", arg(&model), &tuned];
    let summary = rabitc(&[&args[..], &["--json"]].concat()).json();
    let layers: u64 = shapes.iter().map(|s| s["layers"].as_u64().unwrap()).sum();
    assert_eq!(summary["tiles"], json!({"tuned": layers, "heuristic": 0}));
    assert!(
        rabitc(&args)
            .out
            .contains(&format!("tiles: {layers} layers as measured, 0 by"))
    );
    let manifest = rabitc(&["inspect", arg(&model), "--json"]).json();
    assert_eq!(manifest["built_from"]["tiles"], "tuned");
    for layer in list(&manifest["layers"]).iter().filter(|l| l["paths"] != 0) {
        assert_eq!(layer["layout"]["row_tiles"], 3, "{layer}");
    }
    rabitc(&["verify", arg(&model)]);
}

#[test]
fn artifacts_are_tuned_for_their_activations() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("t.json");
    let args = [
        "tune",
        arg(books()),
        "--budget",
        "200ms",
        "--cache",
        arg(&cache),
    ];
    let activations = rabitc(&["inspect", arg(books()), "--json"]).json()["activations"].clone();
    let out = rabitc(&args).out;
    for words in [
        "| 128 × 384 ",
        " GB/s |",
        "All layers, one token: ",
        arg(&cache),
    ] {
        assert!(out.contains(words), "`{words}` is not in\n{out}");
    }
    let entries = read(&cache)["entries"].clone();
    assert!(
        list(&entries)
            .iter()
            .all(|e| e["shape"]["activations"] == activations)
    );
    // Another thread count is measured beside the first.
    rabitc(&[&args[..], &["--threads", "1"]].concat());
    rabitc(&[&args[..], &["--threads", "3"]].concat());
    assert!(list(&read(&cache)["entries"]).len() >= 2 * list(&entries).len());
    refuses(&[&args[..], &["--paths", "2"]].concat(), &["--paths"]);
}

#[test]
fn layers_without_times_get_the_heuristic() {
    let dir = tempfile::tempdir().unwrap();
    let [cache, model] = ["t.json", "t.rbx"].map(|n| dir.path().join(n));
    rabitc(&[
        "tune",
        arg(books()),
        "--budget",
        "100ms",
        "--cache",
        arg(&cache),
    ]);
    edit_json(&cache, |c| c["entries"].as_array_mut().unwrap().truncate(1));
    let checkpoint = models("books-1m");
    let tuned = format!("--tuned={}", arg(&cache));
    let args = [
        "compile",
        arg(&checkpoint),
        "-o",
        arg(&model),
        "--init",
        "greedy",
        "--json",
    ];
    let tiles = rabitc(&[&args[..], &[&tuned]].concat()).json()["tiles"].clone();
    assert_eq!(tiles, json!({"tuned": 4, "heuristic": 12}));
    let tiles = rabitc(&args).json()["tiles"].clone();
    assert_eq!(tiles, json!({"tuned": 0, "heuristic": 16}));
    let manifest = rabitc(&["inspect", arg(&model), "--json"]).json();
    assert_eq!(manifest["built_from"]["tiles"], "heuristic");
}

#[test]
fn without_times_of_this_machine_compile_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let [cache, model] = ["t.json", "t.rbx"].map(|n| dir.path().join(n));
    let (checkpoint, tuned) = (models("books-1m"), format!("--tuned={}", arg(&cache)));
    let args = ["compile", arg(&checkpoint), "-o", arg(&model), &tuned];
    refuses(&args, &["t.json", "run `rabitc tune`"]);
    tune(&cache, &[]);
    edit_json(&cache, |c| {
        for entry in c["entries"].as_array_mut().unwrap() {
            entry["cpu"] = json!("another");
        }
    });
    refuses(&args, &["t.json", "this processor", "run `rabitc tune`"]);
    let foreign = list(&read(&cache)["entries"]).len();
    tune(&cache, &[]);
    assert_eq!(
        list(&read(&cache)["entries"]).len(),
        2 * foreign,
        "both are kept"
    );
    std::fs::write(&cache, "{\"format\": 1, ").unwrap();
    refuses(&args, &["t.json", "no tuning cache"]);
    let config = models("fixtures/llama3/config.json");
    refuses(
        &["tune", arg(&config), "--cache", arg(&cache)],
        &["t.json", "no tuning cache"],
    );
    assert!(!model.exists());
}

#[test]
fn the_default_cache_is_the_users() {
    let dir = tempfile::tempdir().unwrap();
    // A folder stands for the configuration in it.
    let model = models("fixtures/llama3");
    let status = Command::new(env!("CARGO_BIN_EXE_rabitc"))
        .args(["tune", arg(&model), "--budget", "100ms", "--json"])
        .env("XDG_CACHE_HOME", dir.path())
        .output()
        .unwrap()
        .status;
    assert!(status.success());
    let cache = read(&dir.path().join("rabitc/tune.json"));
    assert!(!list(&cache["entries"]).is_empty());
}

#[test]
fn what_cannot_be_tuned_is_refused() {
    let config = models("fixtures/llama3/config.json");
    let folder = models("books-1m");
    refuses(&["tune", "absent.json"], &["absent.json"]);
    let empty = tempfile::tempdir().unwrap();
    refuses(&["tune", arg(empty.path())], &["config.json"]);
    refuses(
        &["tune", arg(&folder.join("model.safetensors"))],
        &["no .rbx artifact"],
    );
    refuses(
        &["tune", arg(books_dense())],
        &["no layer is residual-binary"],
    );
    refuses(&["tune", arg(&config), "--target", "gpu"], &["`gpu`"]);
    let both = "cpu:x86-64-v2,cpu:x86-64-v3";
    refuses(&["tune", arg(&config), "--target", both], &["--target"]);
    let foreign = match cfg!(target_arch = "x86_64") {
        true => "aarch64",
        false => "x86-64-v2",
    };
    let target = format!("cpu:{foreign}");
    refuses(&["tune", arg(&config), "--target", &target], &[foreign]);
    misused(&["tune", arg(&config), "--budget", "soon"], "soon");
    misused(&["tune", arg(&config), "--paths", "9"], "9");
}
