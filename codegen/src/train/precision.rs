//! The element type of every stored value.
//!
//! With 16-bit storage, what a product reads and what it gives, and whatever lies between, is
//! bf16. The residual stream is f32, as are logits, losses, statistics, and everything whose size
//! does not grow with the tokens but effective weights.

use std::collections::HashSet;

use rabitc_ir::{DType, Dim, Graph, NodeId, Op};

use super::fuse::{is_unary, readers};

/// Decides the element types of a graph's values.
pub(super) struct Precision {
    storage: DType,
    /// What products read.
    factors: HashSet<NodeId>,
    /// What is f32 though its kind is not.
    exact: HashSet<NodeId>,
}

/// Whether it is a dense product.
pub(super) fn is_product(op: &Op) -> bool {
    matches!(op, Op::Linear(_) | Op::Matmul(_) | Op::MatmulTn(_))
}

impl Precision {
    /// For the nodes `live` of a graph. `storage` is f32 or bf16; `outputs` are read back.
    pub fn new(graph: &Graph, live: &[NodeId], storage: DType, outputs: &[NodeId]) -> Self {
        let products = live.iter().filter(|id| is_product(graph.op(**id)));
        let factors = products.flat_map(|id| graph.operands(*id)).collect();
        let readers = readers(graph, live);
        let mut exact: HashSet<_> = outputs.iter().copied().collect();
        for id in live.iter().rev() {
            let of = readers.get(id).map(Vec::as_slice).unwrap_or_default();
            let loss = of.iter().any(|r| {
                let logits = matches!(
                    graph.op(*r),
                    Op::KlDivergence(_) | Op::CrossEntropy(_) | Op::Sample(_) | Op::Softcap(_)
                );
                logits && (!is_unary(graph.op(*r)) || exact.contains(r))
            });
            if loss {
                exact.insert(*id);
            }
        }
        Precision {
            storage,
            factors,
            exact,
        }
    }

    /// The element type of `id` if it is stored.
    pub fn of(&self, graph: &Graph, id: NodeId) -> DType {
        let ty = graph.ty(id);
        if ty.dtype != DType::F32 || self.storage == DType::F32 || self.exact.contains(&id) {
            return ty.dtype;
        }
        let per_token = ty.shape.first() == Some(&Dim::Tokens) && ty.rank() > 1;
        match graph.op(id) {
            Op::EffectiveWeight(_) => self.storage,
            _ if !per_token => DType::F32,
            Op::RopeTable(_) | Op::AttentionLse(_) | Op::ScatterAdd(_) => DType::F32,
            Op::Add(_) | Op::Embed(_) if !self.factors.contains(&id) => DType::F32,
            _ => self.storage,
        }
    }
}
