//! What autodiff does to a graph, and what it refuses.

use std::collections::BTreeMap;

use rabitc_ir::text::{parse, print};
use rabitc_ir::{Graph, Tensor};
use rabitc_passes::autodiff::{Differentiate, autodiff};

use super::{differentiated, request, run};

/// A graph of these nodes after the inputs `x` and `t`.
fn graph(nodes: &str) -> Graph {
    let text = format!(
        "graph \"g\" {{\n%x = input {{name=\"x\", ty=f32[T,2]}} : f32[T,2]\n\
         %t = input {{name=\"t\", ty=f32[T,2]}} : f32[T,2]\n\
         %w = weight {{name=\"w\", ty=f32[2,2]}} : f32[2,2]\n{nodes}\n}}"
    );
    parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

const LOSS: &str = "%loss = squared_error(%y, %t) {normalize=elements} : f32[1]\n\
                    output \"loss\" %loss";

#[track_caller]
fn refused(nodes: &str, asked: &Differentiate) -> String {
    let mut graph = graph(&format!("{nodes}\n{LOSS}"));
    autodiff(&mut graph, asked).unwrap_err().to_string()
}

/// `w` is read by two layers and, through a second node, by a third; `%h` by two ops.
const FAN_OUT: &str = "%again = weight {name=\"w\", ty=f32[2,2]} : f32[2,2]\n\
     %h = linear(%x, %w) : f32[T,2]\n%a = linear(%h, %w) : f32[T,2]\n\
     %b = linear(%h, %again) : f32[T,2]\n%y = add(%a, %b) : f32[T,2]";

#[test]
fn gradients_of_what_is_read_several_times_are_added() {
    let graph = graph(&format!("{FAN_OUT}\n{LOSS}"));
    let mut asked = request(&["w"]);
    asked.values.push("h".into());
    let graph = differentiated(&graph, &asked);
    let one = |v: f32| Tensor::f32(&[1, 2], vec![v, 0.0]);
    let store = BTreeMap::from([(
        "w".to_string(),
        Tensor::f32(&[2, 2], vec![3.0, 0.0, 0.0, 0.0]),
    )]);
    let inputs = [("x".to_string(), one(1.0)), ("t".to_string(), one(0.0))];
    let outputs = run(&graph, &store, &inputs.into());
    // In its first element everything is a scalar: y = 2 w² x = 18, loss = y² / 2.
    assert_eq!(outputs["loss"].floats(), [162.0]);
    assert_eq!(outputs["grad.w"].floats()[0], 18.0 * 4.0 * 3.0);
    assert_eq!(outputs["grad.h"].floats(), [18.0 * 2.0 * 3.0, 0.0]);
}

#[test]
fn a_backward_graph_prints_and_parses() {
    let block = "%norm = weight {name=\"norm\", ty=f32[2]} : f32[2]\n\
         %n = rms_norm(%x, %norm) {eps=1e-5, unit_offset=false} : f32[T,2]\n\
         %gate = linear(%n, %w) : f32[T,2]\n%up = linear(%n, %w) : f32[T,2]\n\
         %m = gate(%gate, %up) {act=silu} : f32[T,2]\n%y = add(%x, %m) : f32[T,2]";
    let graph = graph(&format!("{block}\n{LOSS}"));
    let asked = Differentiate {
        checkpoint_activations: true,
        ..request(&["norm", "w"])
    };
    let text = print(&differentiated(&graph, &asked));
    assert_eq!(print(&parse(&text).unwrap()), text);
    insta::assert_snapshot!(text);
}

#[test]
fn outputs_come_in_the_order_in_which_they_are_finished() {
    let nodes = "%v = weight {name=\"v\", ty=f32[2,2]} : f32[2,2]\n\
                 %h = linear(%x, %w) : f32[T,2]\n%y = linear(%h, %v) : f32[T,2]";
    let graph = differentiated(&graph(&format!("{nodes}\n{LOSS}")), &request(&["w", "v"]));
    let names: Vec<_> = graph.outputs().iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["loss", "grad.v", "grad.w"]);
}

#[test]
fn nodes_that_need_no_gradient_are_not_differentiated() {
    // Nothing in front of `w` is asked for, so the op without a rule does not matter.
    let nodes = "%q = weight {name=\"q\", ty=i8[2,2]} : i8[2,2]\n\
                 %s = weight {name=\"s\", ty=f32[2]} : f32[2]\n\
                 %h = linear_int8(%x, %q, %s) : f32[T,2]\n%y = linear(%h, %w) : f32[T,2]";
    let graph = graph(&format!("{nodes}\n{LOSS}"));
    let backward = differentiated(&graph, &request(&["w"]));
    let added = backward.order().into_iter();
    let added = added.filter(|id| graph.find(&backward.node(*id).name).is_none());
    let added: Vec<_> = added.map(|id| backward.node(id).name.clone()).collect();
    assert_eq!(added, ["loss.seed", "loss.dx", "y.dweight"]);
}

#[test]
fn what_cannot_be_differentiated_is_refused_by_name() {
    let int8 = "%q = weight {name=\"q\", ty=i8[2,2]} : i8[2,2]\n\
                %s = weight {name=\"s\", ty=f32[2]} : f32[2]\n\
                %h = linear(%x, %w) : f32[T,2]\n%y = linear_int8(%h, %q, %s) : f32[T,2]";
    assert_eq!(
        refused(int8, &request(&["w"])),
        "%y = linear_int8 has no gradient: its weight is stored in integers"
    );
    assert_eq!(
        refused(int8, &request(&["q"])),
        "`q` is i8[2,2], which has no gradient"
    );
    let plain = "%y = linear(%x, %w) : f32[T,2]\n%z = linear(%y, %w) : f32[T,2]\noutput \"z\" %z";
    assert_eq!(
        refused(plain, &request(&["other"])),
        "the graph reads no weight `other`"
    );
    let mut asked = request(&[]);
    asked.values.push("z".into());
    assert_eq!(
        refused(plain, &asked),
        "the loss has no gradient with respect to `z`: it does not depend on it"
    );
    asked.values = vec!["nowhere".into()];
    assert_eq!(refused(plain, &asked), "the graph has no node %nowhere");
    let mut asked = request(&["w"]);
    asked.loss = "z".into();
    assert_eq!(
        refused(plain, &asked),
        "the loss `z` is f32[T,2], it must be f32[1]"
    );
    asked.loss = "cost".into();
    assert_eq!(
        refused(plain, &asked),
        "the graph has no output `cost` to differentiate"
    );
    let taken = format!("{plain}\noutput \"grad.w\" %y");
    assert_eq!(
        refused(&taken, &request(&["w"])),
        "the graph has an output `grad.w` already"
    );
    let target = "%y = linear(%x, %w) : f32[T,2]\n%u = linear(%t, %w) : f32[T,2]\n\
                  %cost = squared_error(%y, %u) {normalize=rows} : f32[1]\noutput \"cost\" %cost";
    let mut asked = request(&["w"]);
    asked.loss = "cost".into();
    assert_eq!(
        refused(target, &asked),
        "%cost = squared_error has no gradient: none with respect to its operand `target`"
    );
}
