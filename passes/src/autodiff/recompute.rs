//! Copies of cheap activations for the backward pass.

use std::collections::HashMap;

use rabitc_ir::{Graph, GraphError, NodeId};

/// Which node the backward pass reads in place of a forward one.
pub(super) struct Recompute {
    on: bool,
    copies: HashMap<NodeId, NodeId>,
}

impl Recompute {
    /// With `on` false, the backward pass reads every node itself.
    pub(super) fn new(on: bool) -> Self {
        Recompute {
            on,
            copies: HashMap::new(),
        }
    }

    /// The node to read for `id`: a copy if that is cheap, made of copies as far as those are
    /// cheap, else `id` itself. Each node is copied once.
    pub(super) fn value(&mut self, graph: &mut Graph, id: NodeId) -> Result<NodeId, GraphError> {
        if !self.on || !graph.op(id).cheap() {
            return Ok(id);
        }
        if let Some(copy) = self.copies.get(&id) {
            return Ok(*copy);
        }
        let operands = graph.operands(id).into_iter();
        let operands = operands.map(|o| self.value(graph, o));
        let operands = operands.collect::<Result<Vec<_>, _>>()?;
        let name = graph.fresh_name(&format!("{}.again", graph.node(id).name));
        let copy = graph.add(&name, graph.op(id).clone(), &operands)?;
        self.copies.insert(id, copy);
        Ok(copy)
    }
}
