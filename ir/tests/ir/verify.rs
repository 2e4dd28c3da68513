//! The verifier refuses a graph for every invariant it lists.

use rabitc_ir::ops::elementwise::{Add, Silu};
use rabitc_ir::ops::source::Input;
use rabitc_ir::text::parse;
use rabitc_ir::verify::verify;
use rabitc_ir::{DType, Dim, Graph, GraphError, NodeId, Type};

fn input(graph: &mut Graph, name: &str, d: usize) -> NodeId {
    let ty = Type::new(DType::F32, [Dim::Tokens, Dim::Fixed(d)]);
    let source = Input {
        name: name.to_string(),
        ty,
    };
    graph.add(name, source, &[]).unwrap()
}

/// The error of a graph that a faulty rewrite left behind.
#[track_caller]
fn refused(graph: &Graph) -> String {
    verify(graph)
        .expect_err("an invariant is broken")
        .to_string()
}

#[track_caller]
fn refused_text(nodes: &str) -> String {
    refused(&parse(&format!("graph \"g\" {{\n{nodes}\n}}")).expect("valid text"))
}

#[test]
fn invariant_1_no_cycle() {
    let mut graph = Graph::new("loop");
    let x = input(&mut graph, "x", 4);
    let a = graph.add("a", Silu {}, &[x]).unwrap();
    let b = graph.add("b", Silu {}, &[a]).unwrap();
    let c = graph.add("c", Add {}, &[b, x]).unwrap();
    graph.set_output("y", c);
    verify(&graph).unwrap();
    // b read c, which reads b.
    graph.replace(a, c);
    assert!(graph.has_cycle());
    assert_eq!(refused(&graph), "%loop: the graph has a cycle");
    assert_eq!(
        graph.order().len(),
        graph.len(),
        "the order of a cyclic graph ends, too"
    );
}

#[test]
fn invariant_2_types_are_what_the_rules_give() {
    let mut graph = Graph::new("g");
    let (narrow, wide) = (input(&mut graph, "narrow", 4), input(&mut graph, "wide", 5));
    let y = graph.add("y", Silu {}, &[narrow]).unwrap();
    let sum = graph.add("sum", Add {}, &[y, narrow]).unwrap();
    graph.set_output("y", y);
    verify(&graph).unwrap();
    graph.replace(narrow, wide);
    assert_eq!(refused(&graph), "%y: is typed f32[T,4], computes f32[T,5]");
    // An operand that its reader refuses altogether.
    let mut graph = Graph::new("g");
    let (a, b, c) = (
        input(&mut graph, "a", 4),
        input(&mut graph, "b", 4),
        input(&mut graph, "c", 5),
    );
    let y = graph.add("y", Add {}, &[a, b]).unwrap();
    graph.set_output("y", y);
    graph.replace(b, c);
    assert_eq!(
        refused(&graph),
        "%y: add: operands differ: f32[T,4] and f32[T,5]"
    );
    let _ = sum;
}

#[test]
fn invariant_3_compile_time_ops_read_weights() {
    let error = refused_text(
        "%w = input {name=\"w\", ty=f32[2,3]} : f32[2,3]\n\
         %c = cast(%w) {to=f16} : f16[2,3]\n\
         %x = input {name=\"x\", ty=f32[T,3]} : f32[T,3]\n\
         %y = linear(%x, %c) : f32[T,2]\noutput \"y\" %y",
    );
    assert_eq!(error, "%c: a compile-time op reads a run-time value");
}

#[test]
fn invariant_4_no_two_attention_ops_share_a_cache() {
    let attention = |name: &str, layer: usize| {
        format!(
            "%{name} = attention(%x, %x, %x, %p) {{n_heads=1, n_kv_heads=1, head_dim=2, scale=1.0, \
             window=0, softcap=0.0, layer={layer}}} : f32[T,2]\noutput \"{name}\" %{name}\n"
        )
    };
    let sources = "%x = input {name=\"x\", ty=f32[T,2]} : f32[T,2]\n\
                   %p = input {name=\"p\", ty=i32[T]} : i32[T]\n";
    let apart = format!("{sources}{}{}", attention("a", 0), attention("b", 1));
    verify(&parse(&format!("graph \"g\" {{{apart}}}")).unwrap()).unwrap();
    let error = refused_text(&format!(
        "{sources}{}{}",
        attention("a", 7),
        attention("b", 7)
    ));
    assert_eq!(error, "%b: shares cache 7 with %a");
}

#[test]
fn invariant_5_outputs() {
    let x = "%x = input {name=\"x\", ty=f32[T,2]} : f32[T,2]\n";
    assert_eq!(refused_text(x), "%g: the graph has no output");
    assert_eq!(refused_text(""), "%g: the graph has no output");
    let constant = "%w = weight {name=\"w\", ty=f32[2]} : f32[2]\noutput \"w\" %w";
    assert_eq!(refused_text(constant), "%w: output `w` is a constant");
    let twice = format!("{x}%y = silu(%x) : f32[T,2]\noutput \"y\" %x\noutput \"y\" %y");
    assert_eq!(refused_text(&twice), "%y: output `y` is declared twice");
}

#[test]
fn invariant_6_sources_of_one_name_have_one_type() {
    let x = "%x = input {name=\"x\", ty=f32[T,2]} : f32[T,2]\noutput \"x\" %x\n";
    let again = format!("{x}%z = input {{name=\"x\", ty=f32[R,2]}} : f32[R,2]\noutput \"z\" %z");
    assert_eq!(
        refused_text(&again),
        "%z: input `x` is both f32[T,2] and f32[R,2]"
    );
    let weights = |other: &str| {
        format!(
            "{x}%a = weight {{name=\"w\", ty=f16[2]}} : f16[2]\n\
             %b = weight {{name=\"w\", ty={other}}} : {other}\n\
             %y = add_bias(%x, %a) : f32[T,2]\n%z = add_bias(%y, %b) : f32[T,2]\noutput \"z\" %z"
        )
    };
    assert_eq!(
        refused_text(&weights("bf16[2]")),
        "%b: weight `w` is both f16[2] and bf16[2]"
    );
    // The same weight read through two nodes is no error, and a weight may be named as an input.
    verify(&parse(&format!("graph \"g\" {{{}}}", weights("f16[2]"))).unwrap()).unwrap();
}

#[test]
fn nodes_that_cannot_be_printed_are_refused() {
    let mut graph = Graph::new("g");
    let x = input(&mut graph, "x", 2);
    for bad in ["", "a b", "a%", "a:0", "é\n", "\"", "#"] {
        let error = graph.add(bad, Silu {}, &[x]).unwrap_err();
        assert!(
            matches!(&error, GraphError::Name(name) if name == bad),
            "{error}"
        );
    }
    let error = graph.add("x", Silu {}, &[x]).unwrap_err();
    assert_eq!(error.to_string(), "the name %x is defined twice");
    assert_eq!(graph.len(), 1, "a refused node leaves nothing behind");
    graph.add("0/größe.a-b_c+d", Silu {}, &[x]).unwrap();
}
