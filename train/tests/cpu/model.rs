//! A training step of a small model, as a graph with its weights.

use std::path::Path;

use rabitc_frontend::{Checkpoint, LowerOptions, lower};
use rabitc_ir::ops::cross_entropy::CrossEntropy;
use rabitc_ir::ops::effective_weight::Derive;
use rabitc_ir::ops::kl_divergence::KlDivergence;
use rabitc_ir::ops::source::Input;
use rabitc_ir::ops::squared_error::{Normalize, SquaredError};
use rabitc_ir::ops::sums::WeightedSum;
use rabitc_ir::{DType, Dim, Graph, NodeId, Op, Tensor, Type, WeightStore};
use rabitc_passes::autodiff::training::{Binary, BinaryLayer, Form, append, binarize, form};
use rabitc_passes::autodiff::{Differentiate, autodiff};
use rabitc_train::engine::{Engine, Trainable};

use super::Values;

/// What is trained.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Tokens of a sequence.
    pub seq_len: usize,
    /// Sequences.
    pub batch: usize,
    /// Paths of a layer.
    pub paths: usize,
    /// Where the cores come from.
    pub derive: Derive,
    /// Leading paths that are not trained.
    pub frozen: usize,
    /// Whether cheap activations are computed again.
    pub again: bool,
    /// The type of the student's weights.
    pub weights: DType,
}

/// A step's graph, all weights, the names of those that train, and the inputs.
pub struct Step {
    /// The graph, with gradients.
    pub graph: Graph,
    /// The weights.
    pub weights: Values,
    /// What trains.
    pub trained: Vec<String>,
    /// ids, positions and labels.
    pub inputs: Vec<(String, Vec<i32>)>,
    /// Tokens of a run.
    pub tokens: usize,
}

impl Step {
    /// The step of a model of this repository.
    pub fn new(model: &str, setting: Setting) -> Step {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../models")
            .join(model);
        let checkpoint = Checkpoint::open(folder).unwrap();
        let model = lower(&checkpoint, &LowerOptions::default()).unwrap().graph;
        let (seq_len, weights) = (setting.seq_len, Some(setting.weights));
        let mut graph = form(&model, &Form { seq_len, weights }).unwrap();
        let binary = Binary {
            paths: setting.paths,
            derive: setting.derive,
            frozen: setting.frozen,
            scales: DType::F16,
        };
        let layers = binarize(&mut graph, &binary, |name| name != "lm_head").unwrap();
        let frozen = |name: &String| {
            let mut latents = layers.iter().map(|l| &l.latents[..]);
            let frozen = setting.frozen * usize::from(setting.derive == Derive::Independent);
            latents.any(|l| l.iter().take(frozen).any(|latent| latent == name))
        };
        let trained: Vec<_> = names(&graph).into_iter().map(|(name, _)| name).collect();
        let trained: Vec<_> = trained.into_iter().filter(|name| !frozen(name)).collect();
        let mut values = latent_values(&checkpoint, &graph, &layers, setting.weights);
        let teacher = form(
            &model,
            &Form {
                seq_len,
                weights: None,
            },
        )
        .unwrap();
        for (name, _) in names(&teacher) {
            values.insert(format!("teacher.{name}"), checkpoint.load(&name).unwrap());
        }
        losses(&mut graph, &teacher);
        let request = Differentiate {
            loss: "loss".into(),
            weights: trained.clone(),
            values: Vec::new(),
            checkpoint_activations: setting.again,
        };
        autodiff(&mut graph, &request).unwrap();
        let tokens = seq_len * setting.batch;
        Step {
            graph,
            weights: values,
            trained,
            inputs: inputs(seq_len, tokens),
            tokens,
        }
    }

    /// The weights that train, of which the scales are of group 1.
    pub fn trainables(&self) -> Vec<Trainable> {
        let trainable = |name: &String| Trainable {
            name: name.clone(),
            shape: self.weights[name].shape.clone(),
            dtype: self.weights[name].dtype,
            group: usize::from(name.contains(".rb_")),
            decay: 0.01,
        };
        self.trained.iter().map(trainable).collect()
    }

    /// Gives an engine all weights.
    pub fn set_weights(&self, engine: &mut dyn Engine) {
        for (name, value) in &self.weights {
            engine.set_weight(name, value).unwrap();
        }
    }

    /// The inputs as engines take them.
    pub fn inputs(&self) -> Vec<(&str, &[i32])> {
        let inputs = self.inputs.iter();
        inputs.map(|(n, v)| (n.as_str(), v.as_slice())).collect()
    }
}

fn inputs(seq_len: usize, tokens: usize) -> Vec<(String, Vec<i32>)> {
    let ids: Vec<i32> = (0..tokens)
        .map(|i| (i * i * 7 + 13 * i) as i32 % 307)
        .collect();
    let labels = ids.iter().enumerate();
    let labels = labels
        .map(|(i, id)| if i % 5 == 4 { -1 } else { id + 1 })
        .collect();
    let positions = (0..tokens).map(|i| (i % seq_len) as i32).collect();
    let all = [("ids", ids), ("labels", labels), ("positions", positions)];
    all.map(|(name, v)| (name.to_string(), v)).into()
}

fn names(graph: &Graph) -> Vec<(String, Type)> {
    let ids = graph.order().into_iter();
    let mut names: Vec<_> = ids
        .filter_map(|id| match graph.op(id) {
            Op::Weight(w) => Some((w.name.clone(), w.ty.clone())),
            _ => None,
        })
        .collect();
    names.sort_by(|a, b| a.0.cmp(&b.0));
    names.dedup_by(|a, b| a.0 == b.0);
    names
}

/// Weights as they are, all latent weights of a layer its dense one; path i has scales that are
/// 2⁻ⁱ times the mean magnitude of a row.
fn latent_values(
    checkpoint: &Checkpoint,
    graph: &Graph,
    layers: &[BinaryLayer],
    dtype: DType,
) -> Values {
    let mut values = Values::new();
    for layer in layers {
        let dense = layer.g.replace(".rb_g", ".weight");
        let dense = checkpoint.load(&dense).unwrap();
        let paths = graph
            .ty(graph.find(&layer.g).unwrap())
            .fixed_shape()
            .unwrap()[0];
        let (mut g, mut h) = (Vec::new(), Vec::new());
        for path in 0..paths {
            let part = 0.5f32.powi(path as i32);
            let rows = dense.floats().chunks(dense.width());
            g.extend(
                rows.map(|row| {
                    part * row.iter().map(|x| x.abs()).sum::<f32>() / dense.width() as f32
                }),
            );
            h.extend((0..dense.width()).map(|i| 1.0 + 0.01 * (i % 7) as f32));
        }
        values.insert(layer.g.clone(), Tensor::f32(&[paths, dense.rows()], g));
        values.insert(layer.h.clone(), Tensor::f32(&[paths, dense.width()], h));
        for name in &layer.latents {
            values.insert(
                name.clone(),
                Tensor {
                    dtype,
                    ..dense.clone()
                },
            );
        }
    }
    for (name, _) in names(graph) {
        let value = || Tensor {
            dtype,
            ..checkpoint.load(&name).unwrap()
        };
        values.entry(name.clone()).or_insert_with(value);
    }
    values
}

/// KL + 0.3 × the squared error of hidden states + 0.1 × the cross-entropy.
fn losses(graph: &mut Graph, teacher: &Graph) {
    let (_, logits) = graph.outputs()[0].clone();
    let theirs = append(graph, teacher, "teacher.").unwrap()[0].1;
    let ty = Type::new(DType::I32, [Dim::Tokens]);
    let name = "labels".to_string();
    let labels = graph.add("labels", Input { name, ty }, &[]).unwrap();
    let kl = graph.add("kl", KlDivergence {}, &[theirs, logits]).unwrap();
    let text = graph
        .add("text", CrossEntropy {}, &[logits, labels])
        .unwrap();
    let mut terms: Vec<(f32, NodeId)> = vec![(1.0, kl), (0.1, text)];
    for (layer, &normalize) in (0..).zip(Normalize::ALL.iter().cycle()) {
        let node = format!("model.layers.{layer}.mlp.residual");
        let (Some(x), Some(t)) = (graph.find(&node), graph.find(&format!("teacher.{node}"))) else {
            break;
        };
        let name = format!("hidden{layer}");
        let error = graph
            .add(&name, SquaredError { normalize }, &[x, t])
            .unwrap();
        graph.set_output(&name, error);
        terms.push((0.3, error));
    }
    assert!(terms.len() > 2, "the model has no blocks");
    let (factors, parts): (Vec<_>, Vec<_>) = terms.into_iter().unzip();
    let loss = graph.add("loss", WeightedSum { factors }, &parts).unwrap();
    for (name, id) in [("loss", loss), ("kl", kl), ("text", text)] {
        graph.set_output(name, id);
    }
}
