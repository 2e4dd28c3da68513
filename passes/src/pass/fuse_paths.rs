//! Gathers the paths of a layer into one `residual_binary` op.
//!
//! Matches y = Σ_i scale(binary_matmul(scale(x, h){i}, B){i}, g){i}, the additions in order of
//! the paths, all k paths of B present and no scales for more.

use rabitc_ir::ops::residual_binary::ResidualBinary;
use rabitc_ir::{Graph, NodeId, Op};

use super::substitute;
use crate::PassError;
use crate::options::Options;

/// The parts of one path.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Path {
    x: NodeId,
    signs: NodeId,
    g: NodeId,
    h: NodeId,
}

/// Fuses every layer whose paths are all there.
pub fn run(graph: &mut Graph, _: &Options) -> Result<(), PassError> {
    for id in graph.order() {
        let Some((0, path)) = match_path(graph, id) else {
            continue;
        };
        let shape = graph.ty(path.signs).fixed_shape().unwrap_or_default();
        let rows = |scales: NodeId| graph.ty(scales).shape[0].fixed();
        if rows(path.g) != Some(shape[0]) || rows(path.h) != Some(shape[0]) {
            continue;
        }
        let Some(sum) = whole_sum(graph, id, path, shape[0]) else {
            continue;
        };
        let op = ResidualBinary::plain(shape[0], shape[1]);
        substitute(graph, sum, op, &[path.x, path.signs, path.g, path.h])?;
    }
    Ok(())
}

/// The path's number and parts, if `id` is the end of one.
fn match_path(graph: &Graph, id: NodeId) -> Option<(usize, Path)> {
    let Op::Scale(outer) = graph.op(id) else {
        return None;
    };
    let [product, g] = graph.operands(id)[..] else {
        return None;
    };
    let Op::BinaryMatmul(matmul) = graph.op(product) else {
        return None;
    };
    let [u, signs] = graph.operands(product)[..] else {
        return None;
    };
    let Op::Scale(inner) = graph.op(u) else {
        return None;
    };
    let [x, h] = graph.operands(u)[..] else {
        return None;
    };
    let one_path = outer.row == matmul.path && inner.row == matmul.path;
    one_path.then_some((matmul.path, Path { x, signs, g, h }))
}

/// The node that sums up paths 0..k, starting from path 0's end.
fn whole_sum(graph: &Graph, first: NodeId, path: Path, k: usize) -> Option<NodeId> {
    let mut sum = first;
    for next in 1..k {
        let add = graph.only_user(sum)?;
        let Op::Add(_) = graph.op(add) else {
            return None;
        };
        let operands = graph.operands(add);
        let other = *operands.iter().find(|o| **o != sum)?;
        if operands[0] != sum || match_path(graph, other) != Some((next, path)) {
            return None;
        }
        sum = add;
    }
    Some(sum)
}
