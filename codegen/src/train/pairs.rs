//! Nodes that one kernel computes together because they read the same.

use std::collections::HashMap;

use rabitc_ir::ops::squared_error::{Normalize, SquaredError, SquaredErrorGrad};
use rabitc_ir::{Graph, NodeId, Op};

/// Which node is computed beside which.
pub(super) struct Pairs {
    with: HashMap<NodeId, NodeId>,
}

impl Pairs {
    /// The pairs among the nodes `live`, operands first.
    pub fn new(graph: &Graph, live: &[NodeId]) -> Self {
        let same = equals(graph, live);
        let mut firsts: HashMap<(String, NodeId, NodeId), NodeId> = HashMap::new();
        let mut with = HashMap::new();
        for id in live {
            let Some((kind, operands)) = kind(graph, *id) else {
                continue;
            };
            // Copies that are computed again equal what they are copies of.
            let key = (kind, same[&operands[0]], same[&operands[1]]);
            match firsts.remove(&key) {
                Some(first) if graph.op(first).name() != graph.op(*id).name() => {
                    with.insert(first, *id);
                }
                _ => {
                    firsts.insert(key, *id);
                }
            }
        }
        Pairs { with }
    }

    /// What is computed beside `id`, which comes first.
    pub fn of(&self, id: NodeId) -> Option<NodeId> {
        self.with.get(&id).copied()
    }
}

/// The first node that computes the same as each, by structure.
fn equals(graph: &Graph, live: &[NodeId]) -> HashMap<NodeId, NodeId> {
    let mut first: HashMap<(String, Vec<NodeId>), NodeId> = HashMap::new();
    let mut same: HashMap<NodeId, NodeId> = HashMap::new();
    for id in live {
        let operands = graph.operands(*id).iter().map(|o| same[o]).collect();
        let key = (format!("{:?}", graph.op(*id)), operands);
        same.insert(*id, *first.entry(key).or_insert(*id));
    }
    same
}

/// What two nodes of a pair have in common: a word, and two operands.
fn kind(graph: &Graph, id: NodeId) -> Option<(String, [NodeId; 2])> {
    let operands = graph.operands(id);
    let pair = |i: usize, j: usize| [operands[i], operands[j]];
    Some(match graph.op(id) {
        Op::AttentionTrain(op) => (
            format!(
                "{:?}",
                (op.n_heads, op.scale, op.window, op.softcap, op.seq_len)
            ),
            pair(0, 1),
        ),
        Op::AttentionLse(op) => (
            format!(
                "{:?}",
                (op.n_heads, op.scale, op.window, op.softcap, op.seq_len)
            ),
            pair(0, 1),
        ),
        Op::KlDivergence(_) | Op::KlDivergenceGrad(_) => ("kl".into(), pair(0, 1)),
        Op::CrossEntropy(_) | Op::CrossEntropyGrad(_) => ("text".into(), pair(0, 1)),
        // What all rows are divided by together is known after the loss.
        Op::SquaredError(SquaredError { normalize })
        | Op::SquaredErrorGrad(SquaredErrorGrad { normalize })
            if *normalize != Normalize::Target =>
        {
            (format!("error {normalize:?}"), pair(0, 1))
        }
        Op::RmsNormGrad(op) => {
            let group = graph.ty(operands[1]).last()?;
            (format!("norm {} {group}", op.eps), pair(0, 2))
        }
        Op::RmsNormWeightGrad(op) => (format!("norm {} {}", op.eps, op.group), pair(0, 1)),
        _ => return None,
    })
}
