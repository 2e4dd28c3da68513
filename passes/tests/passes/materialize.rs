//! Splitting a graph into tensors computed once and the graph that runs.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rabitc_ir::interp::eval_constant;
use rabitc_ir::text::{parse, print};
use rabitc_ir::verify::verify;
use rabitc_ir::{Graph, Op, Tensor, WeightStore};
use rabitc_passes::fitted::FittedStore;
use rabitc_passes::materialize::{Materialized, materialize};
use rabitc_passes::svid::Init;
use rabitc_passes::{HeadForm, Options, PASSES};

use crate::model::{any_model, logits, random_weights};
use crate::pipeline::stages;

/// The tensors' values, by name.
fn evaluate(
    graph: &Graph,
    tensors: &[Materialized],
    store: &dyn WeightStore,
) -> BTreeMap<String, Tensor> {
    let values = tensors.iter().map(|t| {
        let value = eval_constant(graph, t.node, store).expect("a constant");
        assert_eq!(value.ty(), t.ty, "{}", t.name);
        (t.name.clone(), value)
    });
    values.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Bit for bit, after any number of passes.
    #[test]
    fn the_run_time_graph_computes_the_same(
        model in any_model(),
        stage in 0..PASSES.len(),
        int8 in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let head = if int8 { HeadForm::Int8 } else { HeadForm::Paths(2) };
        let options = Options { head, ..Options::default() };
        let graph = model.graph();
        let weights = random_weights(&graph, seed);
        let (_, graph) = stages(graph, &options).swap_remove(stage);
        let store = FittedStore::new(&weights, &graph, Init::Greedy);
        let (run_time, tensors) = materialize(&graph).unwrap();
        verify(&run_time).unwrap();
        prop_assert_eq!(print(&parse(&print(&run_time)).unwrap()), print(&run_time));
        let values = evaluate(&graph, &tensors, &store);
        prop_assert_eq!(values.len(), tensors.len(), "names are unique");
        prop_assert_eq!(logits(&run_time, &values), logits(&graph, &store));
        for id in run_time.order() {
            let op = run_time.op(id);
            prop_assert!(!op.compile_time() || matches!(op, Op::Weight(_) | Op::Const(_)));
        }
        let read: BTreeSet<_> = run_time.order().into_iter().filter_map(|id| match run_time.op(id) {
            Op::Weight(w) => Some(w.name.clone()),
            _ => None,
        }).collect();
        let written: BTreeSet<_> = values.keys().cloned().collect();
        prop_assert_eq!(read, written, "every tensor is read, and no other");
    }
}

fn split(nodes: &str) -> (Graph, Vec<Materialized>) {
    let graph = parse(&format!("graph \"g\" {{\n{nodes}\n}}")).unwrap();
    verify(&graph).unwrap();
    materialize(&graph).unwrap()
}

fn names(tensors: &[Materialized]) -> Vec<&str> {
    tensors.iter().map(|t| t.name.as_str()).collect()
}

#[test]
fn tensors_are_named_and_ordered_by_first_use() {
    let (graph, tensors) = split(
        "%c = const {ty=f32[1], data=[0.5]} : f32[1]
         %p = input {name=\"p\", ty=i32[T]} : i32[T]
         %unused = weight {name=\"unused\", ty=f32[2]} : f32[2]
         %w1 = weight {name=\"first.weight\", ty=f32[4,2]} : f32[4,2]
         %w2 = weight {name=\"second.weight\", ty=f32[2,4]} : f32[2,4]
         %half = cast(%w2) {to=f16} : f16[2,4]
         %table = rope_table(%p, %c) {attention_factor=1.0} : f32[T,2]
         %y = linear(%table, %w1) : f32[T,4]
         %z = linear(%y, %half) : f32[T,2]
         %again = linear(%z, %w1) : f32[T,4]
         output \"again\" %again
         output \"z\" %z",
    );
    assert_eq!(names(&tensors), ["first.weight", "half"]);
    assert_eq!(tensors[1].ty.to_string(), "f16[2,4]");
    let expected = "graph \"g\" {
  %p = input {name=\"p\", ty=i32[T]} : i32[T]
  %c = const {ty=f32[1], data=[0.5]} : f32[1]
  %table = rope_table(%p, %c) {attention_factor=1.0} : f32[T,2]
  %w1 = weight {name=\"first.weight\", ty=f32[4,2]} : f32[4,2]
  %y = linear(%table, %w1) : f32[T,4]
  %half = weight {name=\"half\", ty=f16[2,4]} : f16[2,4]
  %z = linear(%y, %half) : f32[T,2]
  %again = linear(%z, %w1) : f32[T,4]
  output \"again\" %again
  output \"z\" %z
}
";
    assert_eq!(print(&graph), expected);
}

#[test]
fn two_nodes_of_one_weight_become_one_tensor() {
    let (graph, tensors) = split(
        "%x = input {name=\"x\", ty=f32[T,2]} : f32[T,2]
         %w = weight {name=\"w\", ty=f32[2,2]} : f32[2,2]
         %w.1 = weight {name=\"w\", ty=f32[2,2]} : f32[2,2]
         %y = linear(%x, %w) : f32[T,2]
         %z = linear(%y, %w.1) : f32[T,2]
         output \"z\" %z",
    );
    assert_eq!(names(&tensors), ["w"]);
    let operands = |name: &str| graph.operands(graph.find(name).unwrap());
    assert_eq!(operands("y")[1], operands("z")[1]);
}

#[test]
fn computed_tensors_never_take_a_checkpoint_tensors_name() {
    let (_, tensors) = split(
        "%x = input {name=\"x\", ty=f32[T,2]} : f32[T,2]
         %w = weight {name=\"w\", ty=f32[2,2]} : f32[2,2]
         %v = cast(%w) {to=f16} : f16[2,2]
         %other = weight {name=\"v\", ty=f32[2,2]} : f32[2,2]
         %y = linear(%x, %v) : f32[T,2]
         %z = linear(%y, %other) : f32[T,2]
         output \"z\" %z",
    );
    assert_eq!(names(&tensors), ["v.1", "v"]);
    assert_eq!(tensors[0].ty.to_string(), "f16[2,2]");
}
