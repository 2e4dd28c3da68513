//! `rabitc train` on the example model, and what comes out of it: what was trained is what is
//! compiled.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rabitc_frontend::BufferPrecision;
use rabitc_ir::{Op, Tensor, text};
use rabitc_rbx::{Artifact, GRAPH};
use rabitc_train::cpu::CpuEngine;
use rabitc_train::engine::Engine;
use rabitc_train::metrics::{self, Record, StepRecord};
use rabitc_train::plan::Plan;
use rabitc_train::store::{Saved, layer_values};
use rabitc_train::teacher::Teacher;

use crate::common::*;

const STEPS: usize = 20;

/// English that the example model finds hard but not hopeless: the documents of this project.
fn book(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The command line of a short run in `dir`.
fn command(dir: &Path) -> Vec<String> {
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

fn run(args: &[String]) -> Outcome {
    rabitc(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The records of a run, times aside.
fn records(dir: &Path) -> Vec<Record> {
    let mut records = metrics::read(dir).unwrap();
    for record in &mut records {
        if let Record::Step(step) = record {
            step.tokens_per_second = 0.0;
        }
    }
    records
}

fn steps(records: &[Record]) -> Vec<&StepRecord> {
    let steps = records.iter().filter_map(|r| match r {
        Record::Step(step) => Some(step),
        _ => None,
    });
    steps.collect()
}

/// A run that nothing disturbed.
fn trained() -> &'static Path {
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

/// Starts the command and kills it when it has done `updates` updates.
fn killed(args: &[String], dir: &Path, updates: usize) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_rabitc"))
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let done = || steps(&metrics::read(dir).unwrap_or_default()).len();
    while done() < updates && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_run_that_was_killed_goes_on_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    let mut args = command(&dir);
    args.push("--resume".to_owned());
    for updates in [1, 5, 11, 12, 17] {
        killed(&args, &dir, updates);
    }
    run(&args);
    assert_eq!(records(&dir), records(trained()));
    let data = |dir: &Path| {
        let bytes = std::fs::read(dir.join("model.safetensors")).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[8 + header..].to_vec()
    };
    assert!(data(&dir) == data(trained()), "the weights differ");
}

/// A file that may not grow is what a full disk looks like to a program.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    let mut args = command(&dir);
    killed(&args, &dir, 5);
    args.push("--resume".to_owned());
    // 1000 blocks of 512 bytes are fewer than the optimizer's file takes.
    let script = "trap '' XFSZ; ulimit -f 1000; exec \"$0\" \"$@\"";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_rabitc")])
        .args(&args)
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    let last = message.lines().last().unwrap();
    assert!(
        last.contains("optimizer-000000") && last.contains("too large"),
        "{message}"
    );
    let unfinished = std::fs::read_dir(&dir).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with('.')
    });
    assert_eq!(unfinished.count(), 0);
    run(&args);
    assert_eq!(records(&dir), records(trained()));
}

/// The student as the engine has it after training: a forward pass over `ids` with the effective
/// weights that it multiplies by, and the layers' scales and cores.
fn forward(dir: &Path, ids: &[u32]) -> (Vec<f32>, Vec<Layer>) {
    let teacher = Teacher::open(&models("books-1m"), BufferPrecision::Auto).unwrap();
    let saved = Saved::find(dir).unwrap().unwrap();
    let mut recipe = saved.state.recipe.clone();
    recipe.seq_len = ids.len();
    let stage = *recipe.stages().last().unwrap();
    let plan = Plan::new(&teacher.graph, &recipe, &stage).unwrap();
    let mut graph = plan.student.graph.clone();
    for layer in &plan.student.layers {
        let node = graph.find(&format!("{}.effective", layer.node)).unwrap();
        graph.set_output(&layer.node, node);
    }
    let mut engine = CpuEngine::new(Some(2)).unwrap();
    plan.set_weights(&mut engine, &saved.weights()).unwrap();
    let program = engine.program(&graph, ids.len()).unwrap();
    let ids: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
    let positions: Vec<i32> = (0..ids.len() as i32).collect();
    let inputs: [(&str, &[i32]); 2] = [("ids", &ids), ("positions", &positions)];
    let mut outputs = engine.run(program, &inputs).unwrap();
    let mut layers = Vec::new();
    for layer in &plan.student.layers {
        let values = layer_values(&mut engine, &plan, layer).unwrap();
        layers.push(Layer {
            shape: values.shape,
            g: values.g,
            h: values.h,
            bits: values.bits,
            effective: outputs[&layer.node].floats().to_vec(),
        });
    }
    let logits = outputs.remove("logits").unwrap();
    (logits.floats().to_vec(), layers)
}

/// One residual-binary layer.
#[derive(Debug, Default, PartialEq)]
struct Layer {
    shape: [usize; 3],
    g: Vec<f32>,
    h: Vec<f32>,
    bits: Vec<u8>,
    /// Empty where it is not known.
    effective: Vec<f32>,
}

/// The layers of an artifact, unpacked, in the order of the graph.
fn shipped(path: &Path) -> Vec<Layer> {
    let artifact = Artifact::open(path).unwrap();
    let graph = text::parse(artifact.text(GRAPH).unwrap()).unwrap();
    let tensor = |id| match graph.op(id) {
        Op::Weight(w) => {
            let shape = w.ty.fixed_shape().unwrap();
            let bytes = artifact.bytes(&w.name).unwrap();
            Tensor::from_le_bytes(w.ty.dtype, &shape, bytes).unwrap()
        }
        op => panic!("{} is no weight", op.name()),
    };
    let mut layers = Vec::new();
    for id in graph.order() {
        let Op::ResidualBinary(op) = graph.op(id) else {
            continue;
        };
        let operands = graph.operands(id);
        let [signs, g, h] = op.roles().weights[0].map(|i| tensor(operands[i]));
        let (d_in, k) = (h.width(), op.paths);
        let layout = op.layout(d_in);
        let bits = layout.unpack_signs(signs.raw());
        for (s, (d_out, bits)) in op.segments.iter().zip(bits).enumerate() {
            let rows = (0..k).flat_map(|path| (0..*d_out).map(move |row| (path, row)));
            let scales = rows.map(|(path, row)| g.floats()[layout.scale_index(s, path, row)]);
            layers.push(Layer {
                shape: [k, *d_out, d_in],
                g: scales.collect(),
                h: h.floats()[s * k * d_in..][..k * d_in].to_vec(),
                bits,
                effective: Vec::new(),
            });
        }
    }
    layers
}

/// Signs and scales of the artifact are those of the student's forward pass to the last bit, and
/// its logits are the student's, up to rounding.
#[test]
fn what_was_trained_is_what_is_compiled() {
    let folder = tempfile::tempdir().unwrap();
    let [artifact, input, output] =
        ["model.rbx", "ids.safetensors", "logits.safetensors"].map(|n| folder.path().join(n));
    compile(trained(), &artifact, &["--activations", "f32"]);
    let ids: Vec<u32> = (0..96).map(|n| n * 37 % 2048).collect();
    let (logits, mut layers) = forward(trained(), &ids);
    assert_eq!(layers.len(), 28);
    for layer in &mut layers {
        // What the forward pass multiplied by has the signs and scales that its weights have: a
        // single sign the other way would move an element by twice the product of two scales.
        let [k, d_out, d_in] = layer.shape;
        let stride = d_in.div_ceil(8);
        for (i, effective) in std::mem::take(&mut layer.effective).into_iter().enumerate() {
            let (row, column) = (i / d_in, i % d_in);
            let terms = (0..k).map(|path| {
                let bit =
                    layer.bits[(path * d_out + row) * stride + column / 8] >> (column % 8) & 1;
                let scale = layer.g[path * d_out + row] * layer.h[path * d_in + column];
                f64::from(if bit == 1 { scale } else { -scale })
            });
            let terms: Vec<f64> = terms.collect();
            let size: f64 = terms.iter().map(|t| t.abs()).sum();
            let error = (terms.iter().sum::<f64>() - f64::from(effective)).abs();
            // Two products and a sum in f32.
            assert!(
                error <= 4.0 * f64::from(f32::EPSILON) * size,
                "{row} {column}"
            );
        }
    }
    assert!(shipped(&artifact) == layers, "signs or scales differ");
    write_ids(&input, [1, ids.len()], &ids);
    rabitc(&["logits", arg(&artifact), arg(&input), "-o", arg(&output)]);
    let (shape, found) = floats(&output, "logits");
    assert_eq!(shape, [1, 96, 2048]);
    // Both in f32, as far apart as sums of some hundred products in two orders.
    let error = relative_error(&found, &logits);
    assert!(error < 1e-4, "{error}");
}

/// The export is an ordinary checkpoint: compiled without change, it predicts the same.
#[test]
fn an_export_is_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    let [hf, dense, binary] = ["hf", "dense.rbx", "binary.rbx"].map(|n| folder.path().join(n));
    let said = rabitc(&["export", arg(trained()), "--hf", arg(&hf)]).out;
    assert!(
        said.contains("38 tensors, 28 of them residual-binary layers"),
        "{said}"
    );
    let config: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(hf.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["dtype"], "float32");
    let file = std::fs::read(hf.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    assert!(tensors.names().iter().all(|n| !n.contains("rb_")));
    compile(&hf, &dense, &EXACT);
    compile(trained(), &binary, &["--activations", "f32"]);
    let text = book("README.md");
    let args = [
        "eval",
        arg(&binary),
        "--text",
        arg(&text),
        "--against",
        arg(&dense),
    ];
    let more = ["--window", "128", "--max-windows", "4", "--json"];
    let report = rabitc(&[&args[..], &more].concat()).json();
    // The same function in f32: nats of rounding.
    assert!(report["kl"].as_f64().unwrap().abs() < 1e-6, "{report}");
    // And it is what the last validation of training measured.
    let records = records(trained());
    let Some(Record::Validation(last)) = records.last() else {
        panic!("the last record is no validation");
    };
    let ppl = report["ppl"].as_f64().unwrap();
    assert!(
        (ppl / last.perplexity - 1.0).abs() < 1e-4,
        "{ppl} {}",
        last.perplexity
    );
    refuses(
        &["export", arg(trained()), "--hf", arg(&hf)],
        &["not empty"],
    );
}

#[test]
fn a_report_stands_alone() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    rabitc(&["report", arg(trained()), arg(trained()), "-o", arg(&page)]);
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.starts_with("<!doctype html>") && html.contains("2 runs"));
    assert!(html.contains("<svg") && !html.contains("http") && !html.contains("<script"));
    refuses(&["report", arg(folder.path())], &["holds no run"]);
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
