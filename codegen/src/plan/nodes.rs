//! What lowering asks of a graph's nodes, whatever the target.

use std::collections::HashMap;

use rabitc_ir::{Graph, NodeId, Op};

use crate::CodegenError;
use crate::kernels::Float;

/// The error that there is no kernel for a node.
pub fn unsupported(graph: &Graph, id: NodeId, reason: &str) -> CodegenError {
    CodegenError::plan(format!("%{}: {reason}", graph.node(id).name))
}

/// The place of a node's value.
///
/// # Errors
/// A value that no launch computes.
pub fn place<P: Copy>(
    graph: &Graph,
    places: &HashMap<NodeId, P>,
    id: NodeId,
) -> Result<P, CodegenError> {
    let place = places.get(&id).copied();
    place.ok_or_else(|| unsupported(graph, id, "is read but has no place in memory"))
}

/// The place of the logits, of which `extent` tells the first column and the elements a row.
///
/// # Errors
/// A graph without such an output, or logits that are a part of another value.
pub fn logits<P: Copy>(
    graph: &Graph,
    places: &HashMap<NodeId, P>,
    extent: impl FnOnce(&P) -> (usize, usize),
) -> Result<P, CodegenError> {
    let logits = graph.outputs().iter().find(|(name, _)| name == "logits");
    let (_, id) = logits.ok_or_else(|| CodegenError::plan("the graph has no output `logits`"))?;
    let found = place(graph, places, *id)?;
    let (column, stride) = extent(&found);
    match column == 0 && graph.ty(*id).last() == Some(stride) {
        true => Ok(found),
        false => Err(CodegenError::plan("the logits must not be a slice")),
    }
}

/// The form of a float operand.
///
/// # Errors
/// A dtype that is no float type.
pub fn float(graph: &Graph, id: NodeId) -> Result<Float, CodegenError> {
    let dtype = graph.ty(id).dtype;
    Float::of(dtype).ok_or_else(|| unsupported(graph, id, &format!("{dtype} is no float type")))
}

/// The name of a tensor of the artifact.
///
/// # Errors
/// A node that is none.
pub fn weight(graph: &Graph, id: NodeId) -> Result<&str, CodegenError> {
    match graph.op(id) {
        Op::Weight(w) => Ok(&w.name),
        _ => Err(unsupported(graph, id, "is no tensor of the artifact")),
    }
}
