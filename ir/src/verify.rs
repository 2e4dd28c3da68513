//! The verifier: every invariant that the passes and code generators rely on.
//!
//! 1. The graph has no cycle, and every operand stands before its reader.
//! 2. Every node's recorded type is what its op's type rule gives for its operands.
//! 3. A compile-time op reads compile-time ops only.
//! 4. No two attention ops share a cache.
//! 5. There is at least one output, no two have one name, and every output is a run-time value.
//! 6. Inputs of one name, and weights of one name, have one type.

use std::collections::BTreeMap;

use crate::graph::{Graph, Node, NodeId};
use crate::op::Op;
use crate::types::Type;

/// One broken invariant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("%{node}: {reason}")]
pub struct VerifyError {
    /// The node it concerns (the graph's name for graph-wide ones).
    pub node: String,
    /// What is wrong.
    pub reason: String,
}

fn fail(node: &str, reason: impl Into<String>) -> Result<(), VerifyError> {
    Err(VerifyError {
        node: node.to_string(),
        reason: reason.into(),
    })
}

/// Checks every invariant; the error names the first node that breaks one.
pub fn verify(graph: &Graph) -> Result<(), VerifyError> {
    if graph.has_cycle() {
        return fail(&graph.name, "the graph has a cycle");
    }
    let mut seen = Seen::default();
    for id in graph.order() {
        types(graph, id)?;
        stages(graph, id)?;
        seen.sources(graph.node(id))?;
        seen.caches(graph.node(id))?;
    }
    outputs(graph)
}

/// Invariant 2.
fn types(graph: &Graph, id: NodeId) -> Result<(), VerifyError> {
    let (node, operands) = (graph.node(id), graph.operands(id));
    let types: Vec<&Type> = operands.iter().map(|o| graph.ty(*o)).collect();
    match node.op.infer(&types) {
        Err(reason) => fail(&node.name, format!("{}: {reason}", node.op.name())),
        Ok(ty) if ty != node.ty => fail(&node.name, format!("is typed {}, computes {ty}", node.ty)),
        Ok(_) => Ok(()),
    }
}

/// Invariant 3.
fn stages(graph: &Graph, id: NodeId) -> Result<(), VerifyError> {
    let mut operands = graph.operands(id).into_iter();
    match graph.op(id).compile_time() && operands.any(|o| !graph.op(o).compile_time()) {
        true => fail(
            &graph.node(id).name,
            "a compile-time op reads a run-time value",
        ),
        false => Ok(()),
    }
}

/// What must not be there twice.
#[derive(Default)]
struct Seen<'a> {
    layers: BTreeMap<usize, &'a str>,
    sources: BTreeMap<(&'static str, &'a str), &'a Type>,
}

impl<'a> Seen<'a> {
    /// Invariant 6.
    fn sources(&mut self, node: &'a Node) -> Result<(), VerifyError> {
        let (name, ty) = match &node.op {
            Op::Input(input) => (&input.name, &input.ty),
            Op::Weight(weight) => (&weight.name, &weight.ty),
            _ => return Ok(()),
        };
        match self.sources.insert((node.op.name(), name), ty) {
            Some(other) if other != ty => {
                let op = node.op.name();
                fail(
                    &node.name,
                    format!("{op} `{name}` is both {other} and {ty}"),
                )
            }
            _ => Ok(()),
        }
    }

    /// Invariant 4.
    fn caches(&mut self, node: &'a Node) -> Result<(), VerifyError> {
        let Op::Attention(attention) = &node.op else {
            return Ok(());
        };
        match self.layers.insert(attention.layer, &node.name) {
            Some(other) => {
                let layer = attention.layer;
                fail(&node.name, format!("shares cache {layer} with %{other}"))
            }
            None => Ok(()),
        }
    }
}

/// Invariant 5.
fn outputs(graph: &Graph) -> Result<(), VerifyError> {
    if graph.outputs().is_empty() {
        return fail(&graph.name, "the graph has no output");
    }
    for (i, (name, id)) in graph.outputs().iter().enumerate() {
        let node = &graph.node(*id).name;
        if graph.op(*id).compile_time() {
            return fail(node, format!("output `{name}` is a constant"));
        }
        if graph.outputs()[..i].iter().any(|(other, _)| other == name) {
            return fail(node, format!("output `{name}` is declared twice"));
        }
    }
    Ok(())
}
