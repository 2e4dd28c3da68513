//! What comes out of training: what was trained is what is compiled, exported and reported.

use std::path::Path;

use rabitc_frontend::BufferPrecision;
use rabitc_ir::{Op, Tensor, text};
use rabitc_rbx::{Artifact, GRAPH};
use rabitc_train::cpu::CpuEngine;
use rabitc_train::engine::Engine;
use rabitc_train::metrics::Record;
use rabitc_train::plan::Plan;
use rabitc_train::store::{Saved, layer_values};
use rabitc_train::teacher::Teacher;

use crate::common::*;
use crate::train::{book, records, trained};

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
    let half = folder.path().join("half");
    let args = ["export", arg(trained()), "--hf", arg(&half)];
    let said = rabitc(&[&args[..], &["--dtype", "bf16", "--json"]].concat()).json();
    let bytes = std::fs::metadata(hf.join("model.safetensors"))
        .unwrap()
        .len();
    assert_eq!(
        (&said["tensors"], &said["layers"]),
        (&38.into(), &28.into())
    );
    assert!(said["bytes"].as_u64().unwrap() * 2 < bytes);
}

/// A dense checkpoint would be copied, which is not what was asked for.
#[test]
fn a_dense_checkpoint_is_no_export() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let model = models("books-1m");
    refuses(
        &["export", arg(&model), "--hf", arg(&out)],
        &["books-1m", "nothing is to be exported"],
    );
    assert!(!out.exists());
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
    let figures = rabitc(&["report", arg(trained()), "--json"]).json();
    assert!(!trained().join("report.html").exists());
    let records = records(trained());
    let Some(Record::Validation(last)) = records.last() else {
        panic!("the last record is no validation");
    };
    assert_eq!(figures[0]["last"]["kl"], last.kl);
    assert_eq!(figures[0]["recipe"]["batch"], 4);
    assert!(html.contains(&format!("<td>{:.4}</td>", last.kl)));
}
