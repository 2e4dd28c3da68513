//! `rabitc synth`.

use std::path::Path;

use crate::common::*;

fn synth(out: &Path, more: &[&str]) -> Outcome {
    let config = models("fixtures/llama3/config.json");
    rabitc(&[&["synth", arg(&config), "-o", arg(out)], more].concat())
}

#[test]
fn packed_checkpoints_compile_and_run() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, model) = (dir.path().join("packed"), dir.path().join("packed.rbx"));
    let outcome = synth(&folder, &["--packed", "--paths", "3", "--json"]);
    let report = outcome.json();
    assert_eq!(report["files"], 1);
    let size = std::fs::metadata(folder.join("model.safetensors"))
        .unwrap()
        .len();
    assert!(report["bytes"].as_u64().unwrap() < size, "{report}");
    compile(&folder, &model, &[]);
    let layers = rabitc(&["inspect", arg(&model), "--json"]).json()["layers"].clone();
    let paths: Vec<_> = layers
        .as_array()
        .unwrap()
        .iter()
        .map(|l| l["paths"].clone())
        .collect();
    assert!(paths.contains(&3.into()), "{layers}");
    let run = [
        "run",
        arg(&model),
        "--ids",
        "1,2,3",
        "-n",
        "4",
        "--greedy",
        "--json",
    ];
    assert_eq!(ids(&rabitc(&run).json()["ids"]).len(), 4);
}

#[test]
fn the_seed_decides() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = |name: &str, more: &[&str]| {
        let folder = dir.path().join(name);
        let out = synth(&folder, more).out;
        assert!(out.contains(name) && out.contains("tensors, "), "{out}");
        std::fs::read(folder.join("model.safetensors")).unwrap()
    };
    let first = bytes("a", &["--seed", "1"]);
    assert!(first == bytes("b", &["--seed", "1"]));
    assert!(first != bytes("c", &["--seed", "2"]));
}

#[test]
fn what_cannot_be_written_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = models("fixtures/llama3/config.json");
    let out = dir.path().join("out");
    let refused = |config: &Path, out: &Path, more: &[&str], words: &[&str]| {
        refuses(
            &[&["synth", arg(config), "-o", arg(out)], more].concat(),
            words,
        );
    };
    refused(&dir.path().join("absent.json"), &out, &[], &["absent.json"]);
    refused(
        &config,
        &out,
        &["--packed", "--paths", "9"],
        &["9 paths", "1 to 8"],
    );
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("kept"), "x").unwrap();
    refused(&config, &out, &[], &["out"]);
    assert_eq!(
        std::fs::read_dir(&out).unwrap().count(),
        1,
        "what was there stays"
    );
    let odd = dir.path().join("config.json");
    std::fs::copy(&config, &odd).unwrap();
    edit_json(&odd, |c| {
        c["architectures"] = serde_json::json!(["OddForCausalLM"])
    });
    refused(
        &odd,
        &dir.path().join("new"),
        &[],
        &["config.json", "OddForCausalLM"],
    );
    assert!(!dir.path().join("new").exists());
    misused(
        &["synth", arg(&config), "-o", "x", "--paths", "2"],
        "--packed",
    );
}
