//! The text form: printing and parsing are each other's inverse; errors name their line.

use proptest::prelude::*;
use rabitc_ir::text::{parse, print};
use rabitc_ir::verify::verify;
use rabitc_ir::{Graph, Interpreter, Op};

use crate::random;

/// Random graphs as steps for [`random::graph`].
pub fn steps(most: usize) -> impl Strategy<Value = Vec<(usize, u64)>> {
    let ops = Op::table().len();
    proptest::collection::vec((0..ops, any::<u64>()), 1..most)
}

/// Checks that printing, parsing and printing again changes nothing, and gives the parsed graph.
#[track_caller]
fn assert_round_trip(graph: &Graph) -> Graph {
    let text = print(graph);
    let parsed = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(print(&parsed), text);
    assert_eq!(parsed.len(), graph.len());
    parsed
}

#[test]
fn every_op_of_the_table_is_printed_and_parsed() {
    for (index, op) in Op::table().iter().enumerate() {
        for seed in 0..40 {
            let graph = random::graph(&[(index, seed)]);
            let mut ids = graph.order().into_iter();
            assert!(ids.any(|id| graph.op(id).name() == op.name), "{}", op.name);
            verify(&graph).unwrap_or_else(|e| panic!("{e}\n{}", print(&graph)));
            assert_round_trip(&graph);
        }
    }
}

#[test]
fn op_names_are_unique_and_documented() {
    let table = Op::table();
    for (i, op) in table.iter().enumerate() {
        assert!(op.doc.len() > 5, "{} has no documentation", op.name);
        assert!(table[..i].iter().all(|o| o.name != op.name), "{}", op.name);
    }
}

proptest! {
    #[test]
    fn print_parse_print_is_the_identity(steps in steps(40)) {
        let graph = random::graph(&steps);
        verify(&graph).unwrap_or_else(|e| panic!("{e}\n{}", print(&graph)));
        assert_round_trip(&graph);
    }

    #[test]
    fn a_parsed_graph_computes_what_the_printed_one_does(steps in steps(25)) {
        let graph = random::graph(&steps);
        let parsed = parse(&print(&graph)).unwrap();
        let (inputs, weights) = (random::step_inputs(&graph), random::weights(&graph));
        let run = |g: &Graph| {
            let outputs = Interpreter::new(g, &weights).run(inputs.clone());
            // As text, because NaN differs from itself.
            format!("{outputs:?}")
        };
        prop_assert_eq!(run(&graph), run(&parsed));
    }
}

/// A text whose error is known: line, message, text.
const ERRORS: &[(usize, &str, &str)] = &[
    (1, "expected `graph`", ""),
    (2, "expected `graph`", "# nothing\nwords"),
    (1, "expected the graph's name in quotes", "graph tiny {}"),
    (1, "expected `{`", "graph \"g\"\n"),
    (
        2,
        "expected a node, an output or `}`",
        "graph \"g\" {\n  input\n}",
    ),
    (1, "expected a node, an output or `}`", "graph \"g\" {"),
    (
        2,
        "%x is not defined above",
        "graph \"g\" {\n  output \"x\" %x",
    ),
    (2, "unexpected text after the graph", "graph \"g\" {}\n}"),
    (2, "expected `=`", "graph \"g\" {\n%x\n}"),
    (2, "`%` without a name", "graph \"g\" {\n% = silu(%x)\n}"),
    (
        2,
        "expected the name of an op",
        "graph \"g\" {\n%x =\n%y = silu(%x) : f32[T,1]\n}",
    ),
    (
        2,
        "frob: unknown op `frob`",
        "graph \"g\" {\n%x = frob : f32[T,1]\n}",
    ),
    (
        2,
        "%y is not defined above",
        "graph \"g\" {\n%x = silu(%y) : f32[T,1]\n}",
    ),
    (
        3,
        "expected `:`",
        "graph \"g\" {\n%x = input\n{name=\"x\", ty=f32[T,1]}\n}",
    ),
    (
        2,
        "expected a type",
        "graph \"g\" {\n%x = input {name=\"x\", ty=f32[T,1]} :\n}",
    ),
    (
        2,
        "`f32[Q]` is not a type such as `f32[T,64]`",
        "graph \"g\" {\n%x = weight : f32[Q]\n}",
    ),
    (
        2,
        "unknown dtype `f8`",
        "graph \"g\" {\n%x = weight : f8[1]\n}",
    ),
    (
        2,
        "a string does not end on its line",
        "graph \"g\" {\n%x = input {name=\"x\n\"}",
    ),
    (1, "unknown escape in a string", "graph \"\\t\" {}"),
    (1, "unexpected `;` in column 10", "graph \"é\";"),
    (
        2,
        "input: unknown attribute `nam`",
        "graph \"g\" {\n%x = input {nam=\"x\", ty=f32[T,1]} : f32[T,1]\n}",
    ),
    (
        2,
        "input: attribute `ty` is missing",
        "graph \"g\" {\n%x = input {name=\"x\"} : f32[T,1]\n}",
    ),
    (
        2,
        "input: attribute `ty` is given twice",
        "graph \"g\" {\n%x = input {name=\"x\", ty=i32[T], ty=i32[T]} : i32[T]\n}",
    ),
    (
        2,
        "%x is written as f32[T,2] but computes f32[T,1]",
        "graph \"g\" {\n%x = input {name=\"x\", ty=f32[T,1]} : f32[T,2]\n}",
    ),
    (
        4,
        "the name %x is defined twice",
        "graph \"g\" {\n%x = input {name=\"x\", ty=f32[T,1]} : f32[T,1]\n\n%x = silu(%x) : f32[T,1]}",
    ),
    (
        3,
        "%y = silu: takes 1 operands (x), found 2",
        "graph \"g\" {\n%x = input {name=\"x\", ty=f32[T,1]} : f32[T,1]\n%y = silu(%x, %x) : f32[T,1]\n}",
    ),
    (
        3,
        "softcap: attribute `cap`: expected a number, found `x`",
        "graph \"g\" {\n%x = input {name=\"x\", ty=f32[T,1]} : f32[T,1]\n%y = softcap(%x) {cap=x} : f32[T,1]\n}",
    ),
    (
        2,
        "const: attribute `data`: expected a list, found Word(\"1\")",
        "graph \"g\" {\n%x = const {ty=f32[1], data=1} : f32[1]\n}",
    ),
    (
        2,
        "lists are nested too deep",
        "graph \"g\" {\n%x = const {ty=f32[1], data=[[[[[[[[[[1]]]]]]]]]]} : f32[1]\n}",
    ),
];

#[test]
fn errors_name_the_line_and_what_is_wrong() {
    for (line, message, text) in ERRORS {
        let error = parse(text).expect_err(text);
        assert_eq!(
            (error.line, error.message.as_str()),
            (*line, *message),
            "{text}"
        );
        assert_eq!(error.to_string(), format!("line {line}: {message}"));
    }
}

#[test]
fn layout_of_the_text_does_not_matter() {
    let text = "graph \"g\" { # a comment\n%x=input{name=\"#x\",ty=f32[ T , 2 ]}:f32[T,2]\r\n\n\
                %y = silu ( %x ) :\n f32[T,2] output \"y\" %y}";
    let expected = "graph \"g\" {\n  %x = input {name=\"#x\", ty=f32[T,2]} : f32[T,2]\n  \
                    %y = silu(%x) : f32[T,2]\n  output \"y\" %y\n}\n";
    assert_eq!(print(&parse(text).unwrap()), expected);
}
