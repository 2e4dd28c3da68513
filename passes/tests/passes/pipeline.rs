//! The whole list of passes over small models: every pass leaves what is computed as it was.

use proptest::prelude::*;
use rabitc_ir::ops::residual_binary::{Activations, Prologue, ResidualBinary};
use rabitc_ir::text::{parse, print};
use rabitc_ir::{Graph, Op, WeightStore};
use rabitc_passes::fitted::FittedStore;
use rabitc_passes::svid::Init;
use rabitc_passes::{HeadForm, Options, PASSES, Pattern, run};

use crate::model::{Model, any_model, assert_same, count, logits, random_weights};

/// What a handful of f32 roundings in every layer may add up to.
const ROUNDING: f32 = 2e-5;

/// The graph after every pass, in order.
pub fn stages(mut graph: Graph, options: &Options) -> Vec<(&'static str, Graph)> {
    let mut stages = Vec::new();
    run(&mut graph, options, &mut |pass, graph, _| {
        stages.push((pass.name, graph.clone()));
        Ok(())
    })
    .expect("passes that run");
    stages
}

fn any_options() -> impl Strategy<Value = Options> {
    let head = prop_oneof![
        Just(HeadForm::AsStored),
        Just(HeadForm::Bf16),
        Just(HeadForm::Int8),
        (1..4usize).prop_map(HeadForm::Paths),
    ];
    let keep = prop_oneof![
        4 => Just(vec![]),
        1 => Just(vec![Pattern::new("k_proj")]),
        1 => Just(vec![Pattern::new("layers.0."), Pattern::new("*.up_proj")]),
    ];
    let activations = prop_oneof![Just(Activations::Int8), Just(Activations::F32)];
    (1..4usize, head, keep, activations).prop_map(|(paths, head, keep, activations)| Options {
        paths,
        keep_dense_layers: keep,
        head,
        activations,
        ..Options::default()
    })
}

/// The `residual_binary` ops of a graph.
fn layers(graph: &Graph) -> Vec<ResidualBinary> {
    let ids = graph.order().into_iter();
    ids.filter_map(|id| match graph.op(id) {
        Op::ResidualBinary(op) => Some(op.clone()),
        _ => None,
    })
    .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn passes_after_binarize_change_nothing_that_is_computed(
        model in any_model(),
        options in any_options(),
        seed in any::<u64>(),
    ) {
        let graph = model.graph();
        let weights = random_weights(&graph, seed);
        let stages = stages(graph, &options);
        let at = stages.iter().position(|(pass, _)| *pass == "binarize").unwrap();
        let store = FittedStore::new(&weights, &stages[at].1, Init::Greedy);
        let expected = logits(&stages[at].1, &store);
        for (pass, graph) in &stages[at + 1..] {
            assert_same(&logits(graph, &store), &expected, ROUNDING, pass);
            let text = print(graph);
            prop_assert_eq!(print(&parse(&text).unwrap()), text);
        }
    }

    #[test]
    fn kept_dense_a_model_computes_what_it_did(model in any_model(), seed in any::<u64>()) {
        let graph = model.graph();
        let weights = random_weights(&graph, seed);
        let options = Options { keep_dense: true, ..Options::default() };
        let expected = logits(&graph, &weights);
        for (pass, stage) in stages(graph, &options) {
            assert_same(&logits(&stage, &weights), &expected, ROUNDING, pass);
            prop_assert_eq!(count(&stage, "residual_sign"), 0);
        }
    }

    /// Nothing of a layer's paths is left outside its residual_binary op, whatever the model.
    #[test]
    fn every_layer_ends_fused_tiled_and_packed(model in any_model(), paths in 1..5usize) {
        let options = Options { paths, ..Options::default() };
        let (_, graph) = stages(model.graph(), &options).pop().unwrap();
        for op in ["scale", "binary_matmul", "silu", "gelu_tanh", "mul", "gate"] {
            prop_assert_eq!(count(&graph, op), 0, "{}", op);
        }
        prop_assert_eq!(count(&graph, "linear"), 1, "the head");
        let layers = layers(&graph);
        prop_assert_eq!(layers.len(), 4 * model.layers);
        for (i, layer) in layers.iter().enumerate() {
            let prologue = [Prologue::RmsNorm, Prologue::None, Prologue::RmsNorm, Prologue::Gate];
            prop_assert_eq!(layer.prologue, prologue[i % 4]);
            prop_assert_eq!(layer.segments.len(), [3, 1, 2, 1][i % 4]);
            prop_assert_eq!(layer.residual, i % 2 == 1 && !model.post_norm);
            prop_assert!(layer.packed && layer.row_tiles > 0);
            prop_assert_eq!((layer.paths, layer.activations), (paths, Activations::Int8));
        }
    }

    #[test]
    fn the_result_is_the_same_every_time(model in any_model(), options in any_options()) {
        let texts = |graph: Graph| -> Vec<_> {
            stages(graph, &options).into_iter().map(|(_, g)| print(&g)).collect()
        };
        let first = texts(model.graph());
        prop_assert_eq!(&texts(model.graph()), &first);
        // Not even the numbers that nodes have by chance matter.
        let parsed = parse(&print(&model.graph())).unwrap();
        prop_assert_eq!(&texts(parsed), &first);
    }
}

fn plain_model() -> Model {
    Model {
        layers: 2,
        n_kv_heads: 2,
        group: 2,
        head_dim: 4,
        ffn: 24,
        window: 0,
        bias: false,
        qk_norm: false,
        post_norm: false,
        tied: false,
        act: "silu",
        dtype: "bf16",
    }
}

/// The mean distance of the logits from those of the dense model, over the dense ones' size.
fn distance(options: &Options, init: Init) -> f32 {
    let graph = plain_model().graph();
    let weights = random_weights(&graph, 7);
    let dense = logits(&graph, &weights);
    let (_, last) = stages(graph, options).pop().unwrap();
    let store = FittedStore::new(&weights, &last, init);
    let found = logits(&last, &store);
    let error: f32 = found.iter().zip(&dense).map(|(f, d)| (f - d).abs()).sum();
    error / dense.iter().map(|d| d.abs()).sum::<f32>()
}

#[test]
fn more_paths_come_closer_to_the_dense_model() {
    let of = |paths| {
        let options = Options {
            paths,
            ..Options::default()
        };
        distance(&options, Init::Iterative { iters: 10 })
    };
    let errors = [1, 2, 4, 8].map(of);
    assert!(errors.is_sorted_by(|a, b| a > b), "{errors:?}");
    assert!(errors[3] < 0.05, "{errors:?}");
}

#[test]
fn rounded_heads_come_close_to_the_dense_one() {
    let of = |head| {
        let options = Options {
            keep_dense: true,
            head,
            ..Options::default()
        };
        distance(&options, Init::Greedy)
    };
    assert!(of(HeadForm::AsStored) < 1e-6);
    assert!(of(HeadForm::Bf16) < 1e-6, "it is bf16 already");
    let (int8, paths) = (of(HeadForm::Int8), of(HeadForm::Paths(8)));
    assert!(int8 > 0.0 && int8 < 0.01, "{int8}");
    assert!(paths > 0.0 && paths < 0.1, "{paths}");
}

#[test]
fn kept_layers_read_their_dense_weights() {
    let options = Options {
        keep_dense_layers: vec![Pattern::new("layers.1.*k_proj"), Pattern::new("down")],
        ..Options::default()
    };
    let (_, graph) = stages(plain_model().graph(), &options).pop().unwrap();
    let dense = |name: &str| {
        let id = graph.find(name).expect(name);
        graph.op(id).name() == "linear"
    };
    assert!(dense("layers.1.k_proj") && dense("layers.0.down_proj") && dense("layers.1.down_proj"));
    assert!(!dense("layers.0.k_proj") && dense("lm_head"));
    assert_eq!(count(&graph, "linear"), 4);
}

#[test]
fn a_store_is_asked_for_dense_weights_of_fitted_layers_only() {
    let graph = plain_model().graph();
    let (_, last) = stages(graph.clone(), &Options::default()).pop().unwrap();
    let weights = random_weights(&graph, 1);
    let store = FittedStore::new(&weights, &last, Init::Greedy);
    assert_eq!(store.layers(), 2 * 7);
    assert!(store.info("lm_head.rb_g").is_none());
    assert!(PASSES.iter().any(|p| p.name == "binarize"));
}
