use std::fs;
use std::path::PathBuf;

use super::*;
use crate::{Checkpoint, LowerOptions, lower};
use rabitc_ir::WeightStore;

fn config(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../models/fixtures")
        .join(family)
        .join("config.json")
}

fn make(family: &str, out: &Path, options: &SynthOptions) -> Result<SynthReport, Error> {
    synth(&config(family), out, options, &mut |_| {})
}

fn packed(paths: usize) -> SynthOptions {
    SynthOptions {
        packed: true,
        paths,
        ..SynthOptions::default()
    }
}

#[test]
fn every_family_can_be_made_and_lowered() {
    for family in ["llama2", "llama3", "mistral", "qwen2", "qwen3", "gemma3"] {
        for options in [SynthOptions::default(), packed(3)] {
            let dir = tempfile::tempdir().unwrap();
            let out = dir.path().join("model");
            let report = make(family, &out, &options).unwrap();
            let checkpoint = Checkpoint::open(&out).unwrap();
            assert_eq!(checkpoint.names().count(), report.tensors);
            assert_eq!(checkpoint.total_bytes(), report.bytes);
            let lowered = lower(&checkpoint, &LowerOptions::default()).unwrap();
            rabitc_ir::verify::verify(&lowered.graph).unwrap();
            if !options.packed {
                let graph = graph_of_config(&config(family)).unwrap();
                let print = rabitc_ir::text::print;
                assert_eq!(print(&graph), print(&lowered.graph));
            }
            for name in checkpoint.names() {
                checkpoint.load(name).unwrap();
            }
        }
    }
}

#[test]
fn the_seed_decides_every_byte() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = |name: &str, seed: u64| {
        let options = SynthOptions { seed, ..packed(2) };
        let out = dir.path().join(name);
        make("qwen2", &out, &options).unwrap();
        fs::read(out.join("model.safetensors")).unwrap()
    };
    assert_eq!(bytes("a", 1), bytes("b", 1));
    assert_ne!(bytes("c", 1), bytes("d", 2));
}

#[test]
fn shards_hold_the_same_tensors_as_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let (one, many) = (dir.path().join("one"), dir.path().join("many"));
    make("llama2", &one, &SynthOptions::default()).unwrap();
    let limited = SynthOptions {
        max_shard_bytes: 100_000,
        ..SynthOptions::default()
    };
    let report = make("llama2", &many, &limited).unwrap();
    assert!(report.files > 3);
    let (one, many) = (
        Checkpoint::open(&one).unwrap(),
        Checkpoint::open(&many).unwrap(),
    );
    assert_eq!(
        one.names().collect::<Vec<_>>(),
        many.names().collect::<Vec<_>>()
    );
    for name in one.names() {
        assert_eq!(one.bytes(name), many.bytes(name), "{name}");
    }
}

#[test]
fn progress_ends_at_the_total() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = (0, 0);
    let report = synth(
        &config("gemma3"),
        &dir.path().join("m"),
        &packed(1),
        &mut |p| {
            assert!(p.written > last.0 && p.written <= p.total && !p.tensor.is_empty());
            last = (p.written, p.total);
        },
    );
    assert_eq!(last, (report.unwrap().bytes, last.0));
}

#[test]
fn nothing_is_left_behind_and_nothing_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let entries = || fs::read_dir(dir.path()).unwrap().count();
    let out = dir.path().join("m");
    let text = |r: Result<SynthReport, Error>| r.unwrap_err().to_string();
    assert!(text(make("llama2", &out, &packed(9))).contains("9 paths"));
    assert!(text(make("absent", &out, &packed(1))).contains("absent"));
    let nowhere = dir.path().join("x/m");
    assert!(text(make("llama2", &nowhere, &packed(1))).contains("there is no folder"));
    assert_eq!(entries(), 0);
    fs::create_dir(&out).unwrap();
    make("llama2", &out, &packed(1)).unwrap();
    let files = fs::read_dir(&out).unwrap().count();
    assert!(text(make("llama2", &out, &packed(1))).contains("not empty"));
    assert!(text(make("llama2", &out.join("config.json"), &packed(1))).contains("config.json"));
    assert_eq!((fs::read_dir(&out).unwrap().count(), entries()), (files, 1));
}

/// A panic in the progress callback is the nearest thing to an interruption that a test can make.
#[test]
fn an_interrupted_run_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m");
    let result = std::panic::catch_unwind(|| {
        synth(&config("llama2"), &out, &packed(2), &mut |p| {
            assert!(p.written < 100_000, "interrupted");
        })
    });
    assert!(result.is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Random signs and the scales' sizes keep a layer's output about as large as its input.
#[test]
fn packed_layers_keep_the_scale_of_activations() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m");
    make("llama3", &out, &packed(2)).unwrap();
    let store = Checkpoint::open(&out).unwrap();
    let load = |s: &str| {
        store
            .load(&format!("model.layers.0.mlp.down_proj.{s}"))
            .unwrap()
    };
    let (b, g, h) = (load("rb_bits"), load("rb_g"), load("rb_h"));
    let (d_out, d_in) = (b.shape[1], b.shape[2]);
    let mut energy = 0.0;
    for o in 0..d_out {
        let path = |p: usize| {
            let x = |i: usize| if i.is_multiple_of(3) { 1.2 } else { -0.9 };
            let term = |i: usize| b.sign(p * d_out + o, i) * h.floats()[p * d_in + i] * x(i);
            g.floats()[p * d_out + o] * (0..d_in).map(term).sum::<f32>()
        };
        energy += (path(0) + path(1)).powi(2);
    }
    let rms = (energy / d_out as f32).sqrt();
    assert!((0.6..1.6).contains(&rms), "{rms}");
}
