//! The interpreter: inputs of a step, weights, what it does with graphs it cannot evaluate.

use std::collections::BTreeMap;

use rabitc_ir::interp::eval_constant;
use rabitc_ir::text::parse;
use rabitc_ir::{Graph, Interpreter, Tensor};

use crate::support::{ints, rows, vector};

const TEXT: &str = "graph \"g\" {
  %ids = input {name=\"ids\", ty=i32[T]} : i32[T]
  %rows = input {name=\"rows\", ty=i32[R]} : i32[R]
  %bias = input {name=\"bias\", ty=f32[T,2]} : f32[T,2]
  %table = weight {name=\"table\", ty=f32[3,2]} : f32[3,2]
  %x = embed(%table, %ids) {scale=1.0} : f32[T,2]
  %sum = add(%x, %bias) : f32[T,2]
  %y = select_rows(%sum, %rows) : f32[R,2]
  output \"y\" %y
  output \"sum\" %sum
}";

fn graph() -> Graph {
    parse(TEXT).expect("a valid graph")
}

fn weights() -> BTreeMap<String, Tensor> {
    let table = rows(&[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]);
    BTreeMap::from([("table".to_string(), table)])
}

fn inputs(ids: &[i32], wanted: &[i32]) -> BTreeMap<String, Tensor> {
    let bias = Tensor::f32(&[ids.len(), 2], vec![0.5; 2 * ids.len()]);
    let values = [("ids", ints(ids)), ("rows", ints(wanted)), ("bias", bias)];
    values.map(|(name, x)| (name.to_string(), x)).into()
}

#[test]
fn steps_differ_in_size_and_give_every_output() {
    let (graph, weights) = (graph(), weights());
    let mut run = Interpreter::new(&graph, &weights);
    let out = run.run(inputs(&[2, 0, 1], &[2])).unwrap();
    assert_eq!(out["y"], rows(&[[3.5, 4.5]]));
    assert_eq!(out["sum"], rows(&[[5.5, 6.5], [1.5, 2.5], [3.5, 4.5]]));
    let out = run.run(inputs(&[1], &[0, 0])).unwrap();
    assert_eq!(out["y"], rows(&[[3.5, 4.5], [3.5, 4.5]]));
    // A step in which no logits are asked for.
    let out = run.run(inputs(&[1, 2], &[])).unwrap();
    assert_eq!(out["y"], Tensor::f32(&[0, 2], vec![]));
}

#[test]
fn inputs_are_checked() {
    let (graph, weights) = (graph(), weights());
    let error = |change: &dyn Fn(&mut BTreeMap<String, Tensor>)| {
        let mut inputs = inputs(&[2, 0], &[1]);
        change(&mut inputs);
        Interpreter::new(&graph, &weights)
            .run(inputs)
            .unwrap_err()
            .to_string()
    };
    let set = |name: &str, x: Tensor| error(&|i| drop(i.insert(name.to_string(), x.clone())));
    let missing = error(&|i| drop(i.remove("bias")));
    assert_eq!(missing, "%bias = input: input `bias` was not given");
    let float = "%ids = input: input `ids` is f32[2], the graph has i32[T]";
    assert_eq!(set("ids", vector(&[0.0, 1.0])), float);
    let rank = "%rows = input: input `rows` is i32[1,1], the graph has i32[R]";
    assert_eq!(set("rows", Tensor::i32(&[1, 1], vec![0])), rank);
    let width = "%bias = input: input `bias` is f32[2,1], the graph has f32[T,2]";
    assert_eq!(set("bias", rows(&[[0.0], [0.0]])), width);
    let tokens = "%bias = input: input `bias` is f32[1,2], the graph has f32[T,2]";
    assert_eq!(set("bias", rows(&[[0.0, 0.0]])), tokens);
}

#[test]
fn weights_are_checked() {
    let graph = graph();
    let error = |weights: BTreeMap<String, Tensor>| {
        let run = Interpreter::new(&graph, &weights).run(inputs(&[0], &[0]));
        run.unwrap_err().to_string()
    };
    let missing = error(BTreeMap::new());
    assert_eq!(missing, "%table = weight: there is no weight named `table`");
    let wrong = error(BTreeMap::from([("table".to_string(), vector(&[1.0]))]));
    assert_eq!(
        wrong,
        "%table = weight: weight `table` is f32[1], the graph expects f32[3,2]"
    );
}

#[test]
fn constants_are_evaluated_alone_and_run_time_values_are_not() {
    let text = "graph \"g\" {
      %w = weight {name=\"w\", ty=f32[1,2]} : f32[1,2]
      %v = weight {name=\"v\", ty=f32[1,2]} : f32[1,2]
      %both = concat(%w, %v, %w) : f32[3,2]
      %x = input {name=\"x\", ty=f32[T,2]} : f32[T,2]
      %y = linear(%x, %both) : f32[T,3]
      output \"y\" %y
    }";
    let graph = parse(text).unwrap();
    let mut weights = BTreeMap::from([("w".to_string(), rows(&[[1.0, 2.0]]))]);
    let eval = |name: &str, weights: &BTreeMap<String, Tensor>| {
        let id = graph.find(name).expect("a node");
        eval_constant(&graph, id, weights).map_err(|e| e.to_string())
    };
    // Only what a value depends on is read.
    assert_eq!(eval("w", &weights), Ok(rows(&[[1.0, 2.0]])));
    assert_eq!(
        eval("both", &weights),
        Err("there is no weight named `v`".into())
    );
    weights.insert("v".to_string(), rows(&[[3.0, 4.0]]));
    let both = rows(&[[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]]);
    assert_eq!(eval("both", &weights), Ok(both));
    let error = eval("y", &weights).unwrap_err();
    assert_eq!(error, "%y = linear does not depend on weights alone");
}

#[test]
fn a_graph_of_ten_thousand_nodes_needs_no_deep_stack() {
    let mut text =
        String::from("graph \"g\" {\n%x0 = input {name=\"x\", ty=f32[T,1]} : f32[T,1]\n");
    for i in 1..10_000 {
        text += &format!("%x{i} = add(%x{}, %x0) : f32[T,1]\n", i - 1);
    }
    let graph = parse(&(text + "output \"y\" %x9999\n}")).unwrap();
    rabitc_ir::verify::verify(&graph).unwrap();
    let weights = BTreeMap::new();
    let inputs = [("x".to_string(), rows(&[[1.0]]))];
    let out = Interpreter::new(&graph, &weights).run(inputs).unwrap();
    assert_eq!(out["y"], rows(&[[10_000.0]]));
}

#[test]
fn the_wide_interpreter_computes_in_f64() {
    let text = "graph \"g\" {\n%x = input {name=\"x\", ty=f32[T,2]} : f32[T,2]\n\
                %w = weight {name=\"w\", ty=f32[1,2]} : f32[1,2]\n\
                %y = linear(%x, %w) : f32[T,1]\n%z = add(%y, %y) : f32[T,1]\noutput \"z\" %z\n}";
    let graph = rabitc_ir::text::parse(text).unwrap();
    let store = BTreeMap::from([("w".to_string(), Tensor::f32(&[1, 2], vec![1.0, 2.0]))]);
    let x = || [("x".to_string(), Tensor::real(&[1, 2], vec![1e-12, 1.0f64]))];
    let mut run = Interpreter::wide(&graph, &store);
    assert_eq!(run.run(x()).unwrap()["z"].floats(), [2.0 * (1e-12 + 2.0)]);
    // A weight that is given stands in for the store's, and what was kept of that is forgotten.
    run.give_weight("w", Tensor::real(&[1, 2], vec![1.0, 2.0 + 1e-12]));
    let expected = 2.0 * (1e-12 + (2.0 + 1e-12));
    assert_eq!(run.run(x()).unwrap()["z"].floats(), [expected]);
}
