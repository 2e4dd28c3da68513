//! What is computed together: nodes that another node's kernel takes in.

use std::collections::{HashMap, HashSet};

use rabitc_ir::ops::gate::Activation;
use rabitc_ir::ops::residual_binary::{Prologue, ResidualBinary};
use rabitc_ir::{Graph, NodeId, Op};

/// How nodes are joined.
#[derive(Default)]
pub struct Fusions {
    /// Products of two segments whose only reader gates one with the other.
    pub gated: HashMap<NodeId, Activation>,
    /// Nodes between a projection and attention.
    pub heads: HashSet<NodeId>,
    /// Norms to which another tensor is added: the sum, and that tensor.
    pub norm_add: HashMap<NodeId, (NodeId, NodeId)>,
    /// The same sums, which need no kernel of their own.
    pub sums: HashSet<NodeId>,
    /// Norms and row selections that a dense product for one token takes in.
    pub before_linear: HashSet<NodeId>,
}

/// Finds what can be joined.
pub fn find(graph: &Graph) -> Fusions {
    let mut fusions = Fusions::default();
    for id in graph.order() {
        match graph.op(id) {
            Op::ResidualBinary(op) => gate(graph, id, op, &mut fusions),
            Op::Attention(_) => {
                for operand in graph.operands(id).into_iter().take(3) {
                    chain(graph, operand, &mut fusions.heads);
                }
            }
            Op::Add(_) => norm_add(graph, id, &mut fusions),
            Op::Linear(_) | Op::LinearInt8(_) => {
                before_linear(graph, id, &mut fusions.before_linear)
            }
            _ => {}
        }
    }
    fusions
}

/// `down` reads slices of a product of two segments through its gate, and nothing else does.
fn gate(graph: &Graph, down: NodeId, op: &ResidualBinary, fusions: &mut Fusions) {
    if op.prologue != Prologue::Gate {
        return;
    }
    let operands = graph.operands(down);
    if let Some(product) = gate_source(graph, operands[0], operands[1]) {
        fusions.gated.insert(product, op.act);
    }
}

/// The product whose two halves `gate` and `up` are, if nothing else reads it.
pub fn gate_source(graph: &Graph, gate: NodeId, up: NodeId) -> Option<NodeId> {
    let (Op::Slice(a), Op::Slice(b)) = (graph.op(gate), graph.op(up)) else {
        return None;
    };
    let product = graph.operands(gate)[0];
    let Op::ResidualBinary(op) = graph.op(product) else {
        return None;
    };
    let halves = op.segments.len() == 2
        && op.segments[0] == op.segments[1]
        && (a.start, b.start) == (0, op.segments[0])
        && (a.len, b.len) == (op.segments[0], op.segments[0]);
    let alone = graph.operands(up)[0] == product
        && graph.users(product).len() == 2
        && graph.only_user(gate).is_some()
        && graph.only_user(up).is_some();
    (halves && alone && !op.residual).then_some(product)
}

/// Bias, norm and rotation between a projection and attention, each read by the next only.
fn chain(graph: &Graph, mut id: NodeId, heads: &mut HashSet<NodeId>) {
    while matches!(graph.op(id), Op::Rope(_) | Op::RmsNorm(_) | Op::AddBias(_)) {
        if graph.only_user(id).is_none() {
            return;
        }
        heads.insert(id);
        id = graph.operands(id)[0];
    }
}

fn norm_add(graph: &Graph, sum: NodeId, fusions: &mut Fusions) {
    let operands = graph.operands(sum);
    for (norm, other) in [(operands[1], operands[0]), (operands[0], operands[1])] {
        let Op::RmsNorm(_) = graph.op(norm) else {
            continue;
        };
        let whole = graph.ty(graph.operands(norm)[1]).last() == graph.ty(norm).last();
        if whole && norm != other && graph.only_user(norm).is_some() {
            // The kernel runs at the sum, where both operands are there.
            fusions.norm_add.insert(norm, (sum, other));
            fusions.sums.insert(sum);
            return;
        }
    }
}

/// `linear(rms_norm(select_rows(x)))`, both read by it only.
fn before_linear(graph: &Graph, linear: NodeId, taken: &mut HashSet<NodeId>) {
    let norm = graph.operands(linear)[0];
    let Op::RmsNorm(_) = graph.op(norm) else {
        return;
    };
    let whole = graph.ty(graph.operands(norm)[1]).last() == graph.ty(norm).last();
    if !whole || graph.only_user(norm).is_none() {
        return;
    }
    let select = graph.operands(norm)[0];
    if let Op::SelectRows(_) = graph.op(select)
        && graph.only_user(select).is_some()
    {
        taken.insert(norm);
        taken.insert(select);
    }
}
