//! Gradients of whole small models that are trained towards a teacher.

use proptest::prelude::*;
use rabitc_ir::ops::effective_weight::Derive;
use rabitc_ir::ops::kl_divergence::KlDivergence;
use rabitc_ir::ops::squared_error::{Normalize, SquaredError};
use rabitc_ir::ops::sums::WeightedSum;
use rabitc_ir::{DType, Graph, Interpreter, Op, Tensor};
use rabitc_passes::autodiff::Differentiate;
use rabitc_passes::autodiff::training::{Binary, Form, append, binarize, form};

use super::{Values, check_gradients, differentiated, request, run};
use crate::model::{Model, VOCAB, any_model, logits, random_weights};

const SEQ_LEN: usize = 3;
const HIDDEN_STATE: &str = "layers.0.mlp.residual";

/// The student in its form for training.
fn student(model: &Model) -> Graph {
    let weights = None;
    let seq_len = SEQ_LEN;
    form(&model.graph(), &Form { seq_len, weights }).expect("a form for training")
}

/// Adds a teacher, and the loss KL + 0.3 × the squared distance of hidden states.
fn with_loss(mut graph: Graph, teacher: &Graph) -> Graph {
    let [logits, hidden] = [graph.find("lm_head"), graph.find(HIDDEN_STATE)].map(Option::unwrap);
    let outputs = append(&mut graph, teacher, "teacher/").expect("other names");
    let theirs = graph.find(&format!("teacher/{HIDDEN_STATE}")).unwrap();
    let kl = graph
        .add("kl", KlDivergence {}, &[outputs[0].1, logits])
        .unwrap();
    let normalize = Normalize::Rows;
    let distance = graph
        .add("mse", SquaredError { normalize }, &[hidden, theirs])
        .unwrap();
    let factors = vec![1.0, 0.3];
    let loss = graph
        .add("loss", WeightedSum { factors }, &[kl, distance])
        .unwrap();
    graph.set_output("loss", loss);
    graph
}

fn inputs() -> Values<f32> {
    let ids = [3, 1, 4, 1, 5, 9].map(|id| id % VOCAB as i32).to_vec();
    let positions = vec![0, 1, 2, 0, 1, 2];
    let values = [("ids", ids), ("positions", positions)];
    let tensors = values.map(|(name, v)| (name.to_string(), Tensor::i32(&[v.len()], v)));
    tensors.into_iter().collect()
}

/// The student's weights.
fn weights(graph: &Graph) -> Vec<String> {
    let ids = graph.order().into_iter();
    ids.filter_map(|id| match graph.op(id) {
        Op::Weight(w) if !w.name.starts_with("teacher/") => Some(w.name.clone()),
        _ => None,
    })
    .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn gradients_of_models_are_derivatives(model in any_model(), seed in any::<u64>()) {
        let student = student(&model);
        let graph = with_loss(student.clone(), &student);
        let store = random_weights(&graph, seed);
        let names = weights(&graph);
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        check_gradients(&graph, &names, &store, &inputs(), 2);
    }

    #[test]
    fn what_is_computed_again_changes_nothing(model in any_model(), seed in any::<u64>()) {
        let teacher = student(&model);
        let mut student = teacher.clone();
        let binary = Binary { paths: 2, derive: Derive::Residual, frozen: 0, scales: DType::F16 };
        let layers = binarize(&mut student, &binary, |name| name != "lm_head").unwrap();
        prop_assert_eq!(layers.len(), 7 * model.layers);
        let graph = with_loss(student, &teacher);
        let store = random_weights(&graph, seed);
        let names = weights(&graph);
        let kept = Differentiate { weights: names, ..request(&[]) };
        let again = Differentiate { checkpoint_activations: true, ..kept.clone() };
        let [kept, again] = [kept, again].map(|asked| differentiated(&graph, &asked));
        let extra = again.order().into_iter().filter(|id| again.node(*id).name.ends_with(".again"));
        let extra: Vec<_> = extra.map(|id| again.op(id).name()).collect();
        for op in ["rms_norm", "mul", "rope", "effective_weight"] {
            prop_assert!(extra.contains(&op), "{op} is not computed again");
        }
        for op in ["linear", "attention_train", "add", "embed"] {
            prop_assert!(!extra.contains(&op), "{op} is computed again");
        }
        let outputs = [kept, again].map(|graph| {
            Interpreter::new(&graph, &store).run(inputs()).unwrap_or_else(|e| panic!("{e}"))
        });
        prop_assert_eq!(&outputs[0], &outputs[1]);
    }

    /// A sequence through the form for training gives what its tokens through the caches do.
    #[test]
    fn the_form_for_training_computes_the_same(model in any_model(), seed in any::<u64>()) {
        let whole = model.graph();
        let store = random_weights(&whole, seed);
        let expected = logits(&whole, &store);
        let form = form(&whole, &Form { seq_len: 6, weights: None }).unwrap();
        let tokens = [("ids", vec![3, 1, 4, 1, 5, 9]), ("positions", (0..6).collect())];
        let tokens = tokens.map(|(name, v)| (name.to_string(), Tensor::i32(&[6], v)));
        let found = Interpreter::new(&form, &store).run(tokens).unwrap();
        // Rows 4 and 2 of the first step, then the sixth token.
        for (row, expected) in [4, 2, 5].into_iter().zip(expected.chunks(VOCAB)) {
            prop_assert_eq!(&found["logits"].floats()[row * VOCAB..][..VOCAB], expected);
        }
    }
}

#[test]
fn sequences_see_nothing_of_each_other() {
    let model = Model {
        layers: 1,
        n_kv_heads: 1,
        group: 2,
        head_dim: 4,
        ffn: 5,
        window: 0,
        bias: false,
        qk_norm: false,
        post_norm: false,
        tied: true,
        act: "silu",
        dtype: "f32",
    };
    let graph = student(&model);
    let store = random_weights(&graph, 1);
    let mut other = inputs();
    other.insert("ids".into(), Tensor::i32(&[6], vec![7, 7, 7, 1, 5, 9]));
    let [a, b] = [inputs(), other].map(|i| run(&graph, &store, &i)["logits"].floats().to_vec());
    let (first, second) = (0..SEQ_LEN * VOCAB, SEQ_LEN * VOCAB..);
    assert_ne!(a[first.clone()], b[first]);
    assert_eq!(a[second.clone()], b[second]);
}
