//! Which elementwise nodes are computed inside the steps that read them.
//!
//! An elementwise node is stored if something other than an elementwise step reads it, or if it
//! is an output. Otherwise it is computed where it is read: if it is read once, or if it has one
//! operand of its size alone, so that reading the operand costs what reading the result would.

use std::collections::{HashMap, HashSet};

use rabitc_ir::{Graph, NodeId, Op};

/// Terms that a node may stand for, with those of its operands that are not stored. It keeps
/// kernels small.
const MOST_TERMS: usize = 16;

/// Whether every element of the result depends on the elements at the same place, or in the same
/// column, alone.
pub fn is_elementwise(op: &Op) -> bool {
    matches!(
        op,
        Op::Add(_)
            | Op::Mul(_)
            | Op::AddBias(_)
            | Op::Scale(_)
            | Op::Silu(_)
            | Op::GeluTanh(_)
            | Op::Softcap(_)
            | Op::Gate(_)
            | Op::ActivationGrad(_)
            | Op::SoftcapGrad(_)
            | Op::GateGrad(_)
            | Op::Round(_)
            | Op::Cast(_)
            | Op::WeightedSum(_)
            | Op::PadColumns(_)
    )
}

/// Whether the only operand of the result's size is the first.
pub fn is_unary(op: &Op) -> bool {
    match op {
        Op::AddBias(_) | Op::Scale(_) | Op::Silu(_) | Op::GeluTanh(_) => true,
        Op::Softcap(_) | Op::Round(_) | Op::Cast(_) => true,
        Op::WeightedSum(sum) => sum.factors.len() == 1,
        _ => false,
    }
}

/// The operands of an elementwise node that must be stored whatever they are: those that are not
/// read at the node's own place.
fn reads_stored(op: &Op, operand: usize) -> bool {
    match op {
        Op::AddBias(_) | Op::Scale(_) => operand == 1,
        Op::PadColumns(_) => true,
        _ => false,
    }
}

/// Who reads what among `live` nodes.
pub(super) fn readers(graph: &Graph, live: &[NodeId]) -> HashMap<NodeId, Vec<NodeId>> {
    let mut readers: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
    for id in live {
        for operand in graph.operands(*id) {
            readers.entry(operand).or_default().push(*id);
        }
    }
    readers
}

/// The elementwise nodes among `live`, in order, that are stored; `roots` are stored in any case.
pub(super) fn stored(graph: &Graph, live: &[NodeId], roots: &HashSet<NodeId>) -> HashSet<NodeId> {
    let readers = readers(graph, live);
    let mut stored = HashSet::new();
    let mut terms: HashMap<NodeId, usize> = HashMap::new();
    for id in live.iter().filter(|id| is_elementwise(graph.op(**id))) {
        let inside = graph.operands(*id).into_iter();
        let inside: usize = inside.filter_map(|o| terms.get(&o)).sum();
        let own = 1 + graph.operands(*id).len();
        let none = Vec::new();
        let readers = readers.get(id).unwrap_or(&none);
        let alone = readers.iter().any(|r| {
            let operands = graph.operands(*r).into_iter().enumerate();
            let mut mine = operands.filter(|(_, o)| o == id);
            !is_elementwise(graph.op(*r)) || mine.any(|(i, _)| reads_stored(graph.op(*r), i))
        });
        let shared = readers.len() > 1 && !is_unary(graph.op(*id));
        if roots.contains(id) || alone || shared || inside + own > MOST_TERMS {
            stored.insert(*id);
        } else {
            terms.insert(*id, inside + own);
        }
    }
    stored
}
