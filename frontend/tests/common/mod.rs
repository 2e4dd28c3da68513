//! What the tests of lowering share.
#![allow(dead_code)]

use std::path::{Path, PathBuf};

use rabitc_frontend::{BufferPrecision, Checkpoint, LowerOptions, lower};
use rabitc_ir::{Interpreter, Tensor};

/// The families' folders under `models/fixtures`.
pub const FAMILIES: [&str; 6] = ["llama2", "llama3", "mistral", "qwen2", "qwen3", "gemma3"];

/// A folder of the project's models.
pub fn models(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../models")
        .join(name)
}

/// The fixture of a family.
pub fn fixture(family: &str) -> PathBuf {
    models("fixtures").join(family)
}

/// A copy of a fixture's checkpoint that a test may damage.
pub fn copy(family: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "generation_config.json", "model.safetensors"] {
        std::fs::copy(fixture(family).join(name), dir.path().join(name)).unwrap();
    }
    dir
}

/// Changes the configuration of a copied checkpoint.
pub fn edit_config(dir: &Path, edit: impl FnOnce(&mut serde_json::Value)) {
    let path = dir.join("config.json");
    let mut value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    edit(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

/// A tensor of an `expected.safetensors`, its integers narrowed.
pub struct Expected(Checkpoint);

impl Expected {
    pub fn open(folder: &Path) -> Self {
        Expected(Checkpoint::open(folder.join("expected.safetensors")).unwrap())
    }
    pub fn shape(&self, name: &str) -> Vec<usize> {
        self.0.info(name).unwrap().shape
    }
    pub fn ints(&self, name: &str) -> Vec<i32> {
        let chunks = self.0.bytes(name).unwrap().chunks_exact(8);
        chunks
            .map(|c| i64::from_le_bytes(c.try_into().unwrap()) as i32)
            .collect()
    }
    pub fn floats(&self, name: &str) -> Vec<f32> {
        let chunks = self.0.bytes(name).unwrap().chunks_exact(4);
        chunks
            .map(|c| f32::from_le_bytes(c.try_into().unwrap()))
            .collect()
    }
}

/// The inputs of a step over `ids` from position `start`, logits of every row.
pub fn step(ids: &[i32], start: i32) -> Vec<(String, Tensor)> {
    let n = ids.len() as i32;
    let tensor = |name: &str, v: Vec<i32>| (name.to_string(), Tensor::i32(&[v.len()], v));
    vec![
        tensor("ids", ids.to_vec()),
        tensor("positions", (start..start + n).collect()),
        tensor("rows", (0..n).collect()),
    ]
}

/// The logits of every position of `ids`, in one step, by the reference interpreter.
pub fn logits(folder: &Path, ids: &[i32], buffers: BufferPrecision) -> Vec<f32> {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let options = LowerOptions {
        buffers,
        ..LowerOptions::default()
    };
    let lowered = lower(&checkpoint, &options).unwrap();
    rabitc_ir::verify::verify(&lowered.graph).unwrap();
    let mut interpreter = Interpreter::new(&lowered.graph, &checkpoint);
    let outputs = interpreter.run(step(ids, 0)).unwrap();
    outputs["logits"].floats().to_vec()
}

/// The largest difference, in standard deviations of `expected`.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let n = expected.len() as f64;
    let mean = expected.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let square = |x: &f32| (f64::from(*x) - mean).powi(2);
    let std = (expected.iter().map(square).sum::<f64>() / n).sqrt();
    let pairs = found.iter().zip(expected);
    let worst = pairs
        .map(|(a, b)| f64::from((a - b).abs()))
        .fold(0.0, f64::max);
    worst / std
}
