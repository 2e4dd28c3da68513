//! The passes, one file each.

pub mod binarize;
pub mod fuse_gate;
pub mod fuse_paths;
pub mod fuse_prologue;
pub mod fuse_residual;
pub mod fuse_siblings;
pub mod head;
pub mod pack;
pub mod tile;

use rabitc_ir::{Graph, GraphError, NodeId, Op};

/// Replaces `old` by a new node that takes over its name.
fn substitute(
    graph: &mut Graph,
    old: NodeId,
    op: impl Into<Op>,
    operands: &[NodeId],
) -> Result<NodeId, GraphError> {
    let name = graph.node(old).name.clone();
    let fresh = graph.fresh_name(&name);
    let new = graph.add(&fresh, op, operands)?;
    graph.replace(old, new);
    graph.take_name(new, &name);
    Ok(new)
}
