//! What a gradient rule sees and does.
//!
//! An op's rule ([`OpRules::gradient`](crate::op::OpRules::gradient)) is given the gradient of a
//! scalar with respect to the op's result, and adds the nodes that compute it with respect to the
//! operands. It knows nothing of the rest of the graph: which operands need a gradient, what is
//! added up where a value is read several times, and what is kept or computed again is the
//! business of whoever walks the graph.

use crate::graph::{Graph, GraphError, NodeId};
use crate::op::Op;
use crate::types::{DType, Type};

/// Why no gradient could be computed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GradientError {
    /// An op without a gradient, at all or with respect to one of its operands.
    #[error("%{node} = {op} has no gradient: {reason}")]
    NoRule {
        /// The node that a gradient would have to pass.
        node: String,
        /// The op's name.
        op: &'static str,
        /// Why it has none.
        reason: String,
    },
    /// A rule that the op table refuses: a defect of the rule.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

/// One node as its gradient rule sees it.
pub struct Backward<'a> {
    graph: &'a mut Graph,
    node: NodeId,
    values: Vec<NodeId>,
    result: NodeId,
    dy: NodeId,
    wanted: Vec<bool>,
    given: Vec<Option<NodeId>>,
}

impl<'a> Backward<'a> {
    /// The view of `node`, of whose result `dy` is the gradient. The rule reads `values` as the
    /// operands and `result` as the result, which may be copies; `wanted` says which operands
    /// need a gradient.
    pub fn new(
        graph: &'a mut Graph,
        node: NodeId,
        values: Vec<NodeId>,
        result: NodeId,
        dy: NodeId,
        wanted: Vec<bool>,
    ) -> Self {
        let given = vec![None; values.len()];
        Backward {
            graph,
            node,
            values,
            result,
            dy,
            wanted,
            given,
        }
    }

    /// The gradient of the result; f32 of the result's shape.
    pub fn dy(&self) -> NodeId {
        self.dy
    }

    /// Operand `i`.
    pub fn operand(&self, i: usize) -> NodeId {
        self.values[i]
    }

    /// All operands.
    pub fn operands(&self) -> Vec<NodeId> {
        self.values.clone()
    }

    /// The result.
    pub fn result(&self) -> NodeId {
        self.result
    }

    /// The type of operand `i`.
    pub fn ty(&self, i: usize) -> &Type {
        self.graph.ty(self.values[i])
    }

    /// The type of the gradient of operand `i`: f32 of its shape.
    pub fn gradient_type(&self, i: usize) -> Type {
        Type::new(DType::F32, self.ty(i).shape.clone())
    }

    /// Whether operand `i` needs a gradient.
    pub fn wants(&self, i: usize) -> bool {
        self.wanted[i]
    }

    /// Adds a node named after this one and `part`.
    pub fn add(
        &mut self,
        part: &str,
        op: impl Into<Op>,
        operands: &[NodeId],
    ) -> Result<NodeId, GradientError> {
        let hint = format!("{}.{part}", self.graph.node(self.node).name);
        let name = self.graph.fresh_name(&hint);
        Ok(self.graph.add(&name, op, operands)?)
    }

    /// States that `op` computes the gradient of operand `i`, and adds it if it is needed.
    pub fn give(
        &mut self,
        i: usize,
        op: impl Into<Op>,
        operands: &[NodeId],
    ) -> Result<(), GradientError> {
        if self.wants(i) {
            let part = format!("d{}", self.operand_name(i));
            let id = self.add(&part, op, operands)?;
            self.given[i] = Some(id);
        }
        Ok(())
    }

    /// States that a value that is there already is the gradient of operand `i`.
    pub fn pass(&mut self, i: usize, gradient: NodeId) {
        if self.wants(i) {
            self.given[i] = Some(gradient);
        }
    }

    /// The error of an op that has no gradient.
    pub fn no_rule(&self, reason: impl Into<String>) -> GradientError {
        let node = self.graph.node(self.node);
        GradientError::NoRule {
            node: node.name.clone(),
            op: node.op.name(),
            reason: reason.into(),
        }
    }

    /// The gradients by operand, once the rule has run: an error if one that is wanted is missing.
    pub fn finish(self) -> Result<Vec<Option<NodeId>>, GradientError> {
        for (i, given) in self.given.iter().enumerate() {
            if self.wanted[i] && given.is_none() {
                let name = self.operand_name(i);
                return Err(self.no_rule(format!("none with respect to its operand `{name}`")));
            }
        }
        Ok(self.given)
    }

    /// The name of operand `i`; of any number of operands, the name and which.
    fn operand_name(&self, i: usize) -> String {
        let names = self.graph.op(self.node).operand_names();
        match names.get(i).filter(|name| !name.ends_with('*')) {
            Some(name) => (*name).to_string(),
            None => {
                let name = names.last().map_or("", |name| name.trim_end_matches('*'));
                format!("{name}{}", i + 1 - names.len())
            }
        }
    }
}

/// In an [`OpRules`](crate::op::OpRules) impl: states that the op has no gradient, and why.
#[macro_export]
macro_rules! no_gradient {
    ($reason:literal) => {
        const NO_GRADIENT: Option<&'static str> = Some($reason);

        fn gradient(
            &self,
            b: &mut $crate::gradient::Backward<'_>,
        ) -> Result<(), $crate::gradient::GradientError> {
            Err(b.no_rule($reason))
        }
    };
}
