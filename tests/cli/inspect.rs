//! `rabitc inspect`.

use rabitc_rbx::{Artifact, Manifest};

use crate::common::*;

#[test]
fn the_overview_names_everything() {
    let out = rabitc(&["inspect", arg(books())]).out;
    for words in [
        "LlamaForCausalLM (llama)",
        "4 blocks, hidden size 128, 4 query and 2 key/value heads of 32",
        "2048 tokens",
        "yes, without a chat template",
        "1024 positions",
        "paths: 2",
        "| cpu:x86-64-v",
        "| prefill ",
        "| model.embed_tokens ",
        "| model.layers.0-3.mlp.down_proj ",
        "| residual-binary ",
        "| 128 × 384 ",
        "| lm_head ",
        "| rb_product_int",
    ] {
        let words = match cfg!(target_arch = "x86_64") {
            true => words,
            false => words.trim_end_matches("x86-64-v"),
        };
        assert!(out.contains(words), "`{words}` is not in\n{out}");
    }
}

#[test]
fn json_is_the_manifest() {
    let value = rabitc(&["inspect", arg(books()), "--json"]).json();
    let printed: Manifest = serde_json::from_value(value).unwrap();
    assert_eq!(&printed, Artifact::open(books()).unwrap().manifest());
}

#[test]
fn the_graph_is_its_text() {
    let out = rabitc(&["inspect", arg(books()), "--graph"]).out;
    let graph = rabitc_ir::text::parse(&out).unwrap();
    assert_eq!(rabitc_ir::text::print(&graph), out);
}

#[test]
fn hashes_and_steps_are_listed() {
    let artifact = Artifact::open(books()).unwrap();
    let manifest = artifact.manifest();
    let out = rabitc(&["inspect", arg(books()), "--hashes"]).out;
    for (name, hash) in manifest
        .hashes
        .iter()
        .filter(|(n, _)| !n.starts_with("rbx/pad/"))
    {
        let line = out.lines().find(|l| l.starts_with(&format!("| {name} ")));
        assert!(line.is_some_and(|l| l.contains(hash)), "{name}");
    }
    let out = rabitc(&["inspect", arg(books()), "--plan"]).out;
    let steps: usize = manifest.programs.iter().map(|p| p.steps.len()).sum();
    // A title line, two lines of a table's head and an empty one go with each program.
    assert_eq!(out.lines().count(), steps + 4 * manifest.programs.len());
    assert!(
        out.contains("keys[3]") && out.contains("host: rotary table"),
        "{out}"
    );
}

#[test]
fn damage_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("damaged.rbx");
    let mut bytes = std::fs::read(books()).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    refuses(&["inspect", arg(&path)], &["damaged.rbx"]);
    bytes.truncate(1000);
    std::fs::write(&path, &bytes).unwrap();
    refuses(&["inspect", arg(&path)], &["damaged.rbx"]);
    misused(
        &["inspect", arg(books()), "--json", "--plan"],
        "cannot be used with",
    );
}
