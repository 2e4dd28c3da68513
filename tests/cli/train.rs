//! `rabitc train` on the example model: it learns, and refuses what makes no sense.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rabitc_train::metrics::{self, Record, StepRecord};

use crate::common::*;

const STEPS: usize = 20;

/// English that the example model finds hard but not hopeless: the documents of this project.
pub fn book(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The command line of a short run in `dir`.
pub fn command(dir: &Path) -> Vec<String> {
    let text = [book("docs/architecture.md"), book("docs/formats.md")];
    let valid = book("README.md");
    let model = models("books-1m");
    let args = [
        "train",
        arg(&model),
        "-o",
        arg(dir),
        "--text",
        arg(&text[0]),
        "--text",
        arg(&text[1]),
        "--valid",
        arg(&valid),
        "--window",
        "128",
        "--max-windows",
        "4",
        "--steps",
        "20",
        "--batch",
        "4",
        "--seq-len",
        "64",
        "--warmup",
        "4",
        "--init",
        "greedy",
        "--save-every",
        "3",
        "--validate-every",
        "7",
        "--no-diagnostics",
    ];
    args.map(str::to_owned).to_vec()
}

pub fn run(args: &[String]) -> Outcome {
    rabitc(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The records of a run, times aside.
pub fn records(dir: &Path) -> Vec<Record> {
    let mut records = metrics::read(dir).unwrap();
    for record in &mut records {
        if let Record::Step(step) = record {
            step.tokens_per_second = 0.0;
        }
    }
    records
}

pub fn steps(records: &[Record]) -> Vec<&StepRecord> {
    let steps = records.iter().filter_map(|r| match r {
        Record::Step(step) => Some(step),
        _ => None,
    });
    steps.collect()
}

/// A run that nothing disturbed.
pub fn trained() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("trained");
        let _ = std::fs::remove_dir_all(&dir);
        run(&command(&dir));
        dir
    })
}

#[test]
fn the_loss_falls() {
    let records = records(trained());
    let steps = steps(&records);
    assert_eq!(steps.len(), STEPS);
    let mean = |steps: &[&StepRecord]| steps.iter().map(|s| s.kl).sum::<f64>() / steps.len() as f64;
    let (first, last) = (mean(&steps[..5]), mean(&steps[STEPS - 5..]));
    assert!(last < 0.9 * first, "{first} to {last}");
    let validations: Vec<_> = records
        .iter()
        .filter_map(|r| match r {
            Record::Validation(v) => Some((v.step, v.kl)),
            _ => None,
        })
        .collect();
    let at: Vec<_> = validations.iter().map(|(step, _)| *step).collect();
    assert_eq!(at, [0, 7, 14, 20]);
    assert!(validations[3].1 < validations[0].1, "{validations:?}");
}

#[test]
fn a_dry_run_needs_no_weights() {
    let config = book("benches/configs/llama2-7b.json");
    let args = [
        "train",
        arg(&config),
        "--dry-run",
        "--device",
        "cuda",
        "--weights",
        "bf16",
        "--batch",
        "1",
        "--seq-len",
        "2048",
        "--checkpoint-activations",
        "--json",
    ];
    let report = rabitc(&args).json();
    let plan = &report["plan"];
    let bytes = |name: &str| plan[name].as_u64().unwrap();
    // 6.74 G parameters; the scales of two paths add less than 0.1%.
    let parameters = bytes("teacher") / 2;
    assert_eq!(parameters, 6_738_415_616);
    let trained = bytes("optimizer") / 8;
    assert!(trained > parameters && trained < parameters + parameters / 1000);
    assert_eq!(bytes("gradients"), 4 * trained);
    let parts = [
        "weights",
        "teacher",
        "gradients",
        "optimizer",
        "activations",
    ];
    assert_eq!(bytes("total"), parts.into_iter().map(bytes).sum::<u64>());
    // One GPU of 141 GB.
    assert!(bytes("total") < 141_000_000_000, "{plan}");
    let per_weight =
        |method: usize| report["methods"][method]["plan"]["optimizer_per_binarized"].as_f64();
    let ratio = per_weight(1).unwrap() / per_weight(0).unwrap();
    assert!((ratio - 2.0).abs() < 0.01, "{ratio}");
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    let model = models("books-1m");
    let text = folder.path().join("short.txt");
    std::fs::write(&text, "Too short.").unwrap();
    let train = |more: &[&str], words: &[&str]| {
        let args = ["train", arg(&model), "-o", arg(&dir)];
        refuses(&[&args[..], more].concat(), words);
        assert!(!dir.exists());
    };
    train(
        &["--text", arg(&text)],
        &["short.txt", "tokens make 0 sequences of 512"],
    );
    train(&["--text", "absent.txt"], &["absent.txt"]);
    train(&[], &["--text"]);
    let readme = book("README.md");
    let long = ["--text", arg(&readme), "--seq-len", "4096"];
    train(&long, &["the model has 1 to 1024"]);
    let other = models("fixtures/llama3");
    let student = [
        "--text",
        arg(&readme),
        "--student",
        arg(&other),
        "--batch",
        "1",
    ];
    train(&student, &["do not match"]);
    misused(&["train", arg(&model), "--method", "magic"], "magic");
}
