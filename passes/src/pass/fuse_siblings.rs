//! Joins `residual_binary` ops that share their input: q/k/v, gate/up.
//!
//! The joined op computes all of them as segments; slices of its result stand for the originals.

use std::collections::BTreeMap;

use rabitc_ir::ops::residual_binary::{Prologue, ResidualBinary};
use rabitc_ir::ops::slice::Slice;
use rabitc_ir::{DType, Graph, GraphError, NodeId, Op};

use super::substitute;
use crate::PassError;
use crate::options::Options;

/// Joins what can be joined, in order of first appearance.
pub fn run(graph: &mut Graph, _: &Options) -> Result<(), PassError> {
    let mut groups: BTreeMap<(NodeId, usize, DType, DType), Vec<NodeId>> = BTreeMap::new();
    for id in graph.order() {
        if let Op::ResidualBinary(op) = graph.op(id)
            && op.prologue == Prologue::None
            && !op.residual
            && !op.packed
        {
            let operands = graph.operands(id);
            let dtype = |i: usize| graph.ty(operands[i]).dtype;
            let key = (operands[0], op.paths, dtype(2), dtype(3));
            groups.entry(key).or_default().push(id);
        }
    }
    for ((x, paths, ..), members) in groups {
        if members.len() > 1 {
            join(graph, x, paths, &members)?;
        }
    }
    Ok(())
}

fn join(graph: &mut Graph, x: NodeId, paths: usize, members: &[NodeId]) -> Result<(), GraphError> {
    let mut operands = vec![x];
    let mut segments = Vec::new();
    for &member in members {
        if let Op::ResidualBinary(op) = graph.op(member) {
            segments.extend(&op.segments);
        }
        operands.extend(graph.operands(member).into_iter().skip(1));
    }
    let names: Vec<_> = members
        .iter()
        .map(|m| graph.node(*m).name.clone())
        .collect();
    let op = ResidualBinary {
        segments,
        ..ResidualBinary::plain(paths, 0)
    };
    let fresh = graph.fresh_name(&joint_name(&names));
    let joined = graph.add(&fresh, op, &operands)?;
    let mut start = 0;
    for &member in members {
        let len = graph.ty(member).last().unwrap_or(0);
        substitute(graph, member, Slice { start, len }, &[joined])?;
        start += len;
    }
    Ok(())
}

/// `a.b.q_proj`, `a.b.k_proj` → `a.b.q_proj+k_proj`
fn joint_name(names: &[String]) -> String {
    let prefix = names[0].rfind('.').map_or("", |dot| &names[0][..=dot]);
    let rest = names[1..]
        .iter()
        .map(|n| n.strip_prefix(prefix).unwrap_or(n));
    let mut out = names[0].clone();
    for name in rest {
        out.push('+');
        out.push_str(name);
    }
    out
}
