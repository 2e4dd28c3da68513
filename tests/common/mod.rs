//! What whole-program tests share: running the binary, artifacts to run, tensors to compare.
#![allow(dead_code)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::Value;

/// What a run of the binary left.
pub struct Outcome {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Outcome {
    /// Standard output as JSON.
    pub fn json(&self) -> Value {
        let value = serde_json::from_str(&self.out);
        value.unwrap_or_else(|e| panic!("{e} in {}", self.out))
    }
}

/// Runs `rabitc` with `input` as its standard input.
pub fn rabitc_with_input(args: &[&str], input: &str) -> Outcome {
    let mut child = Command::new(env!("CARGO_BIN_EXE_rabitc"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("rabitc starts");
    let mut stdin = child.stdin.take().expect("standard input is a pipe");
    // A program that ends without reading its input closes the pipe.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().expect("rabitc ends");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("rabitc writes UTF-8");
    Outcome {
        code: output.status.code(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// Runs `rabitc`, which must succeed.
pub fn rabitc(args: &[&str]) -> Outcome {
    let outcome = rabitc_with_input(args, "");
    assert_eq!(outcome.code, Some(0), "{args:?}: {}", outcome.err);
    outcome
}

/// Runs `rabitc`, which must fail with one readable message holding all `words`, and nothing on
/// standard output. Gives the message.
pub fn refuses(args: &[&str], words: &[&str]) -> String {
    let Outcome { code, out, err } = rabitc_with_input(args, "");
    assert_eq!(code, Some(1), "{args:?}: {err}");
    assert_eq!(out, "", "{args:?}");
    assert!(err.starts_with("rabitc: error: "), "{args:?}: {err}");
    assert_eq!(err.lines().count(), 1, "{args:?}: {err}");
    for word in words {
        assert!(err.contains(word), "{args:?}: `{word}` is not in: {err}");
    }
    err
}

/// Runs `rabitc` with a command line that it must not accept.
pub fn misused(args: &[&str], word: &str) {
    let Outcome { code, err, .. } = rabitc_with_input(args, "");
    assert_eq!(code, Some(2), "{args:?}: {err}");
    assert!(err.contains(word), "{args:?}: `{word}` is not in: {err}");
}

/// Runs `rabitc` with files limited to `blocks` blocks of 512 bytes, which must make it fail. Gives
/// what it says.
#[cfg(unix)]
pub fn limited(blocks: usize, args: &[&str]) -> String {
    let script = format!("ulimit -f {blocks}; exec \"$0\" \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_rabitc")])
        .args(args)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
    said
}

/// Sends a signal, named as `kill` names it.
#[cfg(unix)]
pub fn signal(child: &std::process::Child, name: &str) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-s", name, &pid]).status();
    assert!(sent.unwrap().success());
}

/// How many files in `dir` have temporary names.
pub fn unfinished(dir: &Path) -> usize {
    let names = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    names
        .filter(|name| name.to_string_lossy().starts_with('.'))
        .count()
}

/// A path as an argument.
pub fn arg(path: &Path) -> &str {
    path.to_str().expect("paths of tests are UTF-8")
}

/// A folder or file of the project's models.
pub fn models(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("models")
        .join(name)
}

/// Compiles a checkpoint to `output`.
pub fn compile(checkpoint: &Path, output: &Path, options: &[&str]) {
    let mut args = vec!["compile", arg(checkpoint), "-o", arg(output)];
    args.extend(options);
    rabitc(&args);
}

/// Options that leave a model as exact as it can be.
pub const EXACT: [&str; 3] = ["--keep-dense", "--activations", "f32"];

/// The example model with two paths and int8 activations, as users get it.
pub fn books() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| example("books.rbx", &[]))
}

/// The example model, dense.
pub fn books_dense() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| example("books-dense.rbx", &EXACT))
}

fn example(name: &str, options: &[&str]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    compile(&models("books-1m"), &path, options);
    path
}

/// A copy of the example checkpoint that a test may change.
pub fn books_copy() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(models("books-1m")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    dir
}

/// Changes a JSON file.
pub fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    edit(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

/// What the model's authors got for the example model.
pub fn reference() -> Value {
    let path = models("books-1m").join("reference.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A JSON list of token ids.
pub fn ids(value: &Value) -> Vec<u32> {
    let list = value
        .as_array()
        .unwrap_or_else(|| panic!("{value} is no list"));
    list.iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Token ids as an argument of `--ids`.
pub fn join(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// Shape and values of an F32 tensor of a safetensors file.
pub fn floats(file: &Path, name: &str) -> (Vec<usize>, Vec<f32>) {
    let bytes = std::fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = tensors.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
    let values = tensor
        .data()
        .as_chunks()
        .0
        .iter()
        .map(|c| f32::from_le_bytes(*c));
    (tensor.shape().to_vec(), values.collect())
}

/// Shape and values of an I64 tensor of a safetensors file.
pub fn integers(file: &Path, name: &str) -> (Vec<usize>, Vec<i64>) {
    let bytes = std::fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = tensors.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), Dtype::I64, "{name}");
    let values = tensor
        .data()
        .as_chunks()
        .0
        .iter()
        .map(|c| i64::from_le_bytes(*c));
    (tensor.shape().to_vec(), values.collect())
}

/// Writes a safetensors file with one tensor.
pub fn write_tensor(file: &Path, name: &str, dtype: Dtype, shape: &[usize], data: &[u8]) {
    let view = TensorView::new(dtype, shape.to_vec(), data).unwrap();
    safetensors::serialize_to_file([(name, view)], None, file).unwrap();
}

/// Writes `input_ids` [n, T] as I64.
pub fn write_ids(file: &Path, shape: [usize; 2], ids: &[u32]) {
    let data: Vec<u8> = ids
        .iter()
        .flat_map(|id| i64::from(*id).to_le_bytes())
        .collect();
    write_tensor(file, "input_ids", Dtype::I64, &shape, &data);
}

/// The largest difference, in standard deviations of `expected`.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let n = expected.len() as f64;
    let mean = expected.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    let squares: f64 = expected
        .iter()
        .map(|x| (f64::from(*x) - mean).powi(2))
        .sum();
    let pairs = found.iter().zip(expected);
    let worst = pairs
        .map(|(a, b)| f64::from((a - b).abs()))
        .fold(0.0, f64::max);
    worst / (squares / n).sqrt()
}
