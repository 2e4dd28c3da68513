//! What a file test must come to: a snapshot, or an error on a line.

use rabitc_ir::text::{parse, print};
use rabitc_ir::verify::verify;
use rabitc_ir::{Graph, GraphError};
use rabitc_passes::PassError;

use crate::directives::FileTest;
use crate::{emit, execute, values};

/// An error with the line it concerns.
#[derive(Debug, PartialEq)]
struct Refusal {
    line: usize,
    message: String,
}

/// Does what the test says. Gives what to compare with the snapshot, or nothing if the test
/// failed as it must; the error says how the outcome differs from what the file expects.
pub fn check(test: &FileTest) -> Result<Option<String>, String> {
    match (outcome(test), test.errors.as_slice()) {
        (Ok(snapshot), []) => Ok(Some(snapshot)),
        (Ok(_), [(line, text), ..]) => Err(format!("no error, expected on line {line}: {text}")),
        (Err(e), [(line, text)]) if e.line == *line && e.message == *text => Ok(None),
        (Err(e), expected) => Err(format!("{e:?}, expected {expected:?}")),
    }
}

/// Whether the passes of a test change its graph.
pub fn changes(test: &FileTest) -> bool {
    let mut graph = parse(&test.text).expect("a test that does not fail");
    let before = print(&graph);
    execute::passes(test, &mut graph).expect("a test that does not fail");
    print(&graph) != before
}

fn outcome(test: &FileTest) -> Result<String, Refusal> {
    let mut graph = parse(&test.text).map_err(|e| Refusal {
        line: e.line,
        message: e.message,
    })?;
    round_trip(&graph);
    let of_node = |node: &str, message: &str| Refusal {
        line: line_of(&test.text, node),
        message: message.to_string(),
    };
    if test.verify {
        verify(&graph).map_err(|e| of_node(&e.node, &e.reason))?;
    }
    if !test.passes.is_empty() {
        let reference = execute::passes(test, &mut graph).map_err(|e| match e {
            PassError::Graph(GraphError::Type { node, reason, .. }) => of_node(&node, &reason),
            other => of_node("", &other.to_string()),
        })?;
        round_trip(&graph);
        if test.run {
            execute::compare(test, &reference, &graph).map_err(|e| of_node("", &e))?;
        }
    }
    if let Some(arch) = test.emit {
        return emit::cuda(&graph, arch, &test.show).map_err(|e| {
            // `planning: %node: message`
            let node = e
                .split_once('%')
                .and_then(|(_, rest)| rest.split_once(": "));
            match node {
                Some((node, reason)) => of_node(node, reason),
                None => of_node("", &e),
            }
        });
    }
    if !test.run || !test.passes.is_empty() {
        return Ok(print(&graph));
    }
    let weights = values::weights(test, &graph).map_err(|e| of_node("", &e))?;
    let outputs = execute::run(test, &graph, &weights).map_err(|e| {
        let message = e.to_string();
        // `%node = op: message`
        let node = message.strip_prefix('%').and_then(|m| m.split_once(" = "));
        match node.and_then(|(node, rest)| Some((node, rest.split_once(": ")?.1))) {
            Some((node, reason)) => of_node(node, reason),
            None => of_node("", &message),
        }
    })?;
    Ok(execute::show(&outputs))
}

fn round_trip(graph: &Graph) {
    let text = print(graph);
    let parsed = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(
        print(&parsed),
        text,
        "printing and parsing is not the identity"
    );
}

/// The line that defines `%node`, else the line on which the graph begins.
fn line_of(text: &str, node: &str) -> usize {
    let find = |start: &str| text.lines().position(|l| l.trim_start().starts_with(start));
    let line = find(&format!("%{node} =")).or_else(|| find("graph "));
    line.map_or(1, |index| index + 1)
}

#[test]
fn errors_must_be_on_their_line_and_word_for_word() {
    let check = |text: &str| check(&FileTest::new(text).unwrap());
    let graph = "\n# test verify\ngraph \"g\" { # error: the graph has no output\n}";
    assert_eq!(check(graph), Ok(None));
    let moved = graph.replace(" # error", "\n # error");
    assert!(
        check(&moved).unwrap_err().contains("line: 3"),
        "another line"
    );
    assert!(
        check(&graph.replace("no output", "an output")).is_err(),
        "another text"
    );
    assert!(
        check(&graph.replace("# error", "# fault")).is_err(),
        "not expected at all"
    );
    assert!(
        check(&graph.replace("verify", "parse")).is_err(),
        "expected, but all went well"
    );
}
