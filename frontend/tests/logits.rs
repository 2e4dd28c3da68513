//! Every family's graph, run by the reference interpreter, gives the logits of the reference
//! implementation.

mod common;

use std::path::Path;

use common::{Expected, FAMILIES, fixture, logits, relative_error, step};
use rabitc_frontend::{BufferPrecision, Checkpoint, LowerOptions, lower};
use rabitc_ir::Interpreter;

/// In standard deviations of the logits. Both sides compute in f32 or better, so that only
/// rounding separates them.
const BOUND: f64 = 1e-4;

/// Compares all sequences of a fixture.
fn compare(folder: &Path, buffers: BufferPrecision) -> f64 {
    let expected = Expected::open(folder);
    let shape = expected.shape("logits_f32");
    let (n, t, vocab) = (shape[0], shape[1], shape[2]);
    let (ids, all) = (expected.ints("input_ids"), expected.floats("logits_f32"));
    let row = |i: usize| {
        let found = logits(folder, &ids[i * t..][..t], buffers);
        relative_error(&found, &all[i * t * vocab..][..t * vocab])
    };
    (0..n).map(row).fold(0.0, f64::max)
}

#[test]
fn every_family_gives_the_expected_logits() {
    for family in FAMILIES {
        let error = compare(&fixture(family), BufferPrecision::Checkpoint);
        println!("{family}: {error:e}");
        assert!(error < BOUND, "{family}: {error:e} standard deviations");
    }
}

/// Greedy continuation, token by token over the caches, gives the expected ids.
#[test]
fn every_family_continues_as_expected() {
    for family in FAMILIES {
        let folder = fixture(family);
        let expected = Expected::open(&folder);
        let ids = expected.ints("greedy_ids");
        let prompt = expected.shape("input_ids")[1];
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let lowered = lower(&checkpoint, &LowerOptions::default()).unwrap();
        let mut interpreter = Interpreter::new(&lowered.graph, &checkpoint);
        let mut next = step(&ids[..prompt], 0);
        for at in prompt..ids.len() {
            let outputs = interpreter.run(next).unwrap();
            let logits = outputs["logits"].floats();
            let last = &logits[logits.len() - lowered.model.vocab_size..];
            let best = (0..last.len()).max_by(|&a, &b| last[a].total_cmp(&last[b]));
            assert_eq!(best, Some(ids[at] as usize), "{family}, position {at}");
            next = step(&ids[at..=at], at as i32);
        }
    }
}

/// The options of the families that the plain fixtures leave alone: biases, every kind of rotary
/// scaling, windows on some layers, soft caps, shards, older configurations, other prefixes. Their
/// logits are those of a model loaded in f32.
#[test]
fn every_variant_gives_the_expected_logits() {
    let mut entries: Vec<_> = std::fs::read_dir(fixture("variants"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    entries.sort();
    assert!(entries.len() >= 9);
    for folder in entries {
        let error = compare(&folder, BufferPrecision::F32);
        println!("{}: {error:e}", folder.display());
        assert!(error < BOUND, "{}: {error:e}", folder.display());
    }
}
