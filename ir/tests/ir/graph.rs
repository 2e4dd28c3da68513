//! Rewriting a graph: replacing, renaming, removing, order.

use rabitc_ir::ops::elementwise::{Add, GeluTanh, Mul, Silu};
use rabitc_ir::text::{parse, print};
use rabitc_ir::{Graph, NodeId};

/// `y = add(silu(x), silu(x))`, `z = gelu(y)`, and a dead node.
fn graph() -> (Graph, impl Fn(&Graph, &str) -> NodeId) {
    let text = "graph \"g\" {
      %x = input {name=\"x\", ty=f32[T,2]} : f32[T,2]
      %a = silu(%x) : f32[T,2]
      %y = add(%a, %a) : f32[T,2]
      %z = gelu_tanh(%y) : f32[T,2]
      %dead = mul(%a, %x) : f32[T,2]
      output \"z\" %z
    }";
    (parse(text).unwrap(), |g: &Graph, name: &str| {
        g.find(name).expect("a node")
    })
}

fn names(graph: &Graph, ids: &[NodeId]) -> Vec<String> {
    ids.iter().map(|id| graph.node(*id).name.clone()).collect()
}

#[test]
fn order_puts_operands_first_and_follows_from_structure() {
    let (graph, _) = graph();
    assert_eq!(names(&graph, &graph.order()), ["x", "a", "y", "z", "dead"]);
}

#[test]
fn operands_keep_their_order_and_users_are_told_once() {
    let (graph, id) = graph();
    let [x, a, y] = ["x", "a", "y"].map(|n| id(&graph, n));
    assert_eq!(names(&graph, &graph.operands(y)), ["a", "a"]);
    assert_eq!(
        names(&graph, &graph.operands(id(&graph, "dead"))),
        ["a", "x"]
    );
    assert_eq!(names(&graph, &graph.users(a)), ["y", "dead"]);
    assert_eq!(names(&graph, &graph.users(x)), ["a", "dead"]);
    assert_eq!(graph.only_user(y), Some(id(&graph, "z")));
    assert_eq!(graph.only_user(a), None, "two readers");
}

#[test]
fn a_value_read_twice_or_by_an_output_has_no_only_user() {
    let (mut graph, id) = graph();
    graph.remove_dead();
    let (a, y) = (id(&graph, "a"), id(&graph, "y"));
    assert_eq!(graph.only_user(a), None, "one reader, but twice");
    graph.set_output("y", y);
    assert_eq!(graph.only_user(y), None, "an output, too");
}

#[test]
fn dead_nodes_and_their_names_go() {
    let (mut graph, id) = graph();
    graph.remove_dead();
    assert_eq!(graph.find("dead"), None);
    assert_eq!(graph.len(), 4);
    let x = id(&graph, "x");
    graph.add("dead", Silu {}, &[x]).unwrap();
}

#[test]
fn replacing_moves_all_readers_and_outputs_but_the_new_node() {
    let (mut graph, id) = graph();
    let (x, a, z) = (id(&graph, "x"), id(&graph, "a"), id(&graph, "z"));
    let new = graph.add("new", Mul {}, &[a, x]).unwrap();
    graph.replace(a, new);
    assert_eq!(
        names(&graph, &graph.operands(id(&graph, "y"))),
        ["new", "new"]
    );
    assert_eq!(names(&graph, &graph.operands(new)), ["a", "x"]);
    graph.replace(z, new);
    assert_eq!(graph.outputs(), [("z".to_string(), new)]);
    assert!(!graph.has_cycle());
}

#[test]
fn names_are_taken_over() {
    let (mut graph, id) = graph();
    let (x, y) = (id(&graph, "x"), id(&graph, "y"));
    let new = graph.add("y.1", Add {}, &[x, x]).unwrap();
    assert_eq!(graph.fresh_name("y"), "y.2");
    graph.take_name(new, "y");
    assert_eq!((graph.find("y"), graph.find("y.old")), (Some(new), Some(y)));
    assert_eq!(graph.find("y.1"), None);
    graph.take_name(new, "y");
    assert_eq!(
        (graph.find("y"), graph.len()),
        (Some(new), 6),
        "its own name"
    );
    // The printed text is still one that can be read.
    let text = print(&graph);
    assert_eq!(print(&parse(&text).unwrap()), text);
}

#[test]
fn refused_nodes_name_op_and_reason() {
    let (mut graph, id) = graph();
    let x = id(&graph, "x");
    let error = graph.add("bad", GeluTanh {}, &[x, x]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "%bad = gelu_tanh: takes 1 operands (x), found 2"
    );
}
