//! Training steps of small models, for every engine's tests.

#![allow(dead_code)]

#[cfg(feature = "cuda")]
pub mod device;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rabitc_frontend::checkpoint::Checkpoint;
use rabitc_frontend::synth::{SynthOptions, synth};
use rabitc_frontend::{LowerOptions, lower};
use rabitc_ir::ops::cross_entropy::CrossEntropy;
use rabitc_ir::ops::effective_weight::Derive;
use rabitc_ir::ops::kl_divergence::KlDivergence;
use rabitc_ir::ops::source::Input;
use rabitc_ir::ops::squared_error::{Normalize, SquaredError};
use rabitc_ir::ops::sums::WeightedSum;
use rabitc_ir::{DType, Dim, Graph, Op, Tensor, Type, WeightStore};
use rabitc_passes::autodiff::training::{Binary, Form, append, binarize, form};
use rabitc_passes::autodiff::{Differentiate, autodiff};
use tempfile::TempDir;

/// What a step is made of.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub seq_len: usize,
    pub sequences: usize,
    pub paths: usize,
    pub derive: Derive,
    pub normalize: Normalize,
    pub checkpoint: bool,
    /// The type of the student's weights.
    pub dtype: DType,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            seq_len: 7,
            sequences: 3,
            paths: 2,
            derive: Derive::Residual,
            normalize: Normalize::Rows,
            checkpoint: false,
            dtype: DType::F32,
        }
    }
}

/// A training step with all that it reads.
pub struct Step {
    pub graph: Graph,
    pub weights: BTreeMap<String, Tensor>,
    /// Names of the weights that gradients are asked for.
    pub trained: Vec<String>,
    pub inputs: Vec<(String, Vec<i32>)>,
    pub tokens: usize,
}

/// Numbers in −1..1 by SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// A model of `models/` by its folder below the project. Where the tests were carried to another
/// machine, they are started in the project.
pub fn model(folder: &str) -> PathBuf {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    match project.is_dir() {
        true => project.join(folder),
        false => folder.into(),
    }
}

/// A random model whose heads have so many channels; GPU kernels take 256 at most.
pub fn wide_heads(channels: usize) -> TempDir {
    let config = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama",
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": CHANNELS, "vocab_size": 96,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2}"#;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("shape.json");
    let config = config.replace("CHANNELS", &channels.to_string());
    std::fs::write(&file, config).expect("a file");
    let out = folder.path().join("model");
    synth(&file, &out, &SynthOptions::default(), &mut |_| ()).unwrap_or_else(|e| panic!("{e}"));
    folder
}

/// The step of a checkpoint: KL + 0.1 · the hidden states' error + 0.2 · cross-entropy.
pub fn step(folder: &Path, setup: &Setup) -> Step {
    let checkpoint = Checkpoint::open(folder).unwrap_or_else(|e| panic!("{e}"));
    let lowered = lower(&checkpoint, &LowerOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let model = lowered.graph;
    let (graph, trained) = graph(&model, setup);
    let weights = weights(&graph, &checkpoint, setup);
    let tokens = setup.seq_len * setup.sequences;
    let inputs = inputs(&graph, setup);
    Step {
        graph,
        weights,
        trained,
        inputs,
        tokens,
    }
}

/// The step of a model of which only the configuration is there, and what is trained.
pub fn graph_of_config(folder: &Path, setup: &Setup) -> (Graph, Vec<String>) {
    let config = folder.join("config.json");
    let model = rabitc_frontend::graph_of_config(&config).unwrap_or_else(|e| panic!("{e}"));
    graph(&model, setup)
}

/// The step of a model, and what is trained.
pub fn graph(model: &Graph, setup: &Setup) -> (Graph, Vec<String>) {
    let seq_len = setup.seq_len;
    let held = |weights| form(model, &Form { seq_len, weights }).expect("a form for training");
    let (mut graph, teacher) = (held(Some(setup.dtype)), held(None));
    let binary = Binary {
        paths: setup.paths,
        derive: setup.derive,
        frozen: 0,
        scales: DType::F16,
    };
    binarize(&mut graph, &binary, |name| name != "lm_head").expect("linear layers");
    let trained = names(&graph);
    let student = graph.outputs()[0].1;
    let outputs = append(&mut graph, &teacher, "teacher.").expect("other names");
    let ty = Type::new(DType::I32, [Dim::Tokens]);
    let name = "labels".to_string();
    let labels = graph.add("labels", Input { name, ty }, &[]).unwrap();
    let mut parts = vec![
        graph
            .add("kl", KlDivergence {}, &[outputs[0].1, student])
            .unwrap(),
        graph
            .add("text", CrossEntropy {}, &[student, labels])
            .unwrap(),
    ];
    let mut factors = vec![1.0, 0.2];
    for layer in 0.. {
        let name = format!("model.layers.{layer}.mlp.residual");
        let Some(own) = graph.find(&name) else { break };
        let target = graph
            .find(&format!("teacher.{name}"))
            .expect("the same model");
        let normalize = setup.normalize;
        let op = SquaredError { normalize };
        parts.push(
            graph
                .add(&format!("hidden.{layer}"), op, &[own, target])
                .unwrap(),
        );
        factors.push(0.1);
    }
    let loss = graph.add("loss", WeightedSum { factors }, &parts).unwrap();
    let outputs = Graph::set_output;
    let mut bare = graph.clone();
    outputs(&mut bare, "loss", loss);
    outputs(&mut bare, "kl", parts[0]);
    let request = Differentiate {
        loss: "loss".into(),
        weights: trained.clone(),
        checkpoint_activations: setup.checkpoint,
        ..Differentiate::default()
    };
    // The student's own output is not read back.
    let mut graph = only(&bare, &["loss", "kl"]);
    autodiff(&mut graph, &request).unwrap_or_else(|e| panic!("{e}"));
    (graph, trained)
}

/// The graph with these outputs alone.
fn only(graph: &Graph, outputs: &[&str]) -> Graph {
    let mut out = Graph::new(&graph.name);
    let mut map = std::collections::HashMap::new();
    for id in graph.order() {
        let node = graph.node(id);
        let operands: Vec<_> = graph.operands(id).iter().map(|o| map[o]).collect();
        map.insert(id, out.add(&node.name, node.op.clone(), &operands).unwrap());
    }
    for (name, id) in graph.outputs() {
        if outputs.contains(&name.as_str()) {
            out.set_output(name, map[id]);
        }
    }
    out.remove_dead();
    out
}

fn names(graph: &Graph) -> Vec<String> {
    let ids = graph.order().into_iter();
    let mut names: Vec<String> = ids
        .filter_map(|id| match graph.op(id) {
            Op::Weight(weight) => Some(weight.name.clone()),
            _ => None,
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The checkpoint's weights, the student's moved a little; random scales.
fn weights(graph: &Graph, store: &dyn WeightStore, setup: &Setup) -> BTreeMap<String, Tensor> {
    let mut rng = Rng(3);
    let mut out = BTreeMap::new();
    for id in graph.order() {
        let Op::Weight(weight) = graph.op(id) else {
            continue;
        };
        let own = weight.name.strip_prefix("teacher.");
        let name = own.unwrap_or(&weight.name);
        let dense = match name.split_once(".rb_") {
            Some((base, _)) => format!("{base}.weight"),
            None => name.to_string(),
        };
        let mut tensor = match weight.name.ends_with(".rb_g") || weight.name.ends_with(".rb_h") {
            true => {
                let shape = weight.ty.fixed_shape().unwrap();
                let scale = |_| 0.2 + 0.1 * rng.float();
                let data = (0..shape.iter().product()).map(scale).collect();
                Tensor::f32(&shape, data)
            }
            false => store.load(&dense).unwrap_or_else(|e| panic!("{e}")),
        };
        if own.is_none()
            && let rabitc_ir::Data::F32(values) = &mut tensor.data
        {
            values.iter_mut().for_each(|x| *x += 0.02 * rng.float());
        }
        tensor.dtype = weight.ty.dtype;
        let bytes = tensor.to_le_bytes();
        let tensor = Tensor::from_le_bytes(weight.ty.dtype, &tensor.shape, &bytes).unwrap();
        out.insert(weight.name.clone(), tensor);
    }
    assert!(setup.paths > 0);
    out
}

pub fn inputs(graph: &Graph, setup: &Setup) -> Vec<(String, Vec<i32>)> {
    let tokens = setup.seq_len * setup.sequences;
    let vocab = graph.order().into_iter().find_map(|id| match graph.op(id) {
        Op::Embed(_) => graph.ty(graph.operands(id)[0]).fixed_shape().map(|s| s[0]),
        _ => None,
    });
    let mut rng = Rng(5);
    let mut ids = |_| (rng.next() % vocab.expect("an embedding") as u64) as i32;
    let own: Vec<i32> = (0..tokens).map(&mut ids).collect();
    let mut labels: Vec<i32> = (0..tokens).map(&mut ids).collect();
    labels[0] = -1;
    let positions = (0..tokens).map(|i| (i % setup.seq_len) as i32).collect();
    [("ids", own), ("positions", positions), ("labels", labels)]
        .map(|(name, v)| (name.to_string(), v))
        .into()
}
