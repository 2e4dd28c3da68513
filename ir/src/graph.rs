//! The graph: nodes, operands, rewriting.

use std::collections::{HashMap, HashSet};

use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;

use crate::op::Op;
use crate::text::is_name;
use crate::types::Type;

/// Names a node of one graph.
pub type NodeId = NodeIndex<u32>;

/// One op of a graph.
#[derive(Clone, Debug)]
pub struct Node {
    /// Unique within the graph; `%name` in the text form.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// The type of its result, as the op's type rule gives it.
    pub ty: Type,
}

/// Why a node could not be added or a graph not be built.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GraphError {
    /// The op's type rule refuses its operands.
    #[error("%{node} = {op}: {reason}")]
    Type {
        /// The node that was to be added.
        node: String,
        /// The op's name.
        op: &'static str,
        /// What does not fit.
        reason: String,
    },
    /// Two nodes of one name.
    #[error("the name %{0} is defined twice")]
    Duplicate(String),
    /// A name that the text form could not hold.
    #[error("`{0}` cannot name a node: letters, digits and `_ . - + /` can")]
    Name(String),
}

/// A directed acyclic graph of ops with named outputs.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// The graph's name.
    pub name: String,
    dag: StableDiGraph<Node, u32>,
    names: HashMap<String, NodeId>,
    outputs: Vec<(String, NodeId)>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: &str) -> Self {
        Graph {
            name: name.to_string(),
            ..Graph::default()
        }
    }

    /// Adds an op. Its result type follows from the op's type rule. `name` must be new and made
    /// of letters, digits, `_`, `.`, `-`, `+` and `/`.
    pub fn add(
        &mut self,
        name: &str,
        op: impl Into<Op>,
        operands: &[NodeId],
    ) -> Result<NodeId, GraphError> {
        let op = op.into();
        if !is_name(name) {
            return Err(GraphError::Name(name.to_string()));
        }
        if self.names.contains_key(name) {
            return Err(GraphError::Duplicate(name.to_string()));
        }
        let types: Vec<&Type> = operands.iter().map(|&o| &self.dag[o].ty).collect();
        let ty = op.infer(&types).map_err(|reason| GraphError::Type {
            node: name.to_string(),
            op: op.name(),
            reason,
        })?;
        let id = self.dag.add_node(Node {
            name: name.to_string(),
            op,
            ty,
        });
        for (position, &operand) in operands.iter().enumerate() {
            self.dag.add_edge(operand, id, position as u32);
        }
        self.names.insert(name.to_string(), id);
        Ok(id)
    }

    /// A name that no node has yet: `hint` itself or `hint.N`.
    pub fn fresh_name(&self, hint: &str) -> String {
        if !self.names.contains_key(hint) {
            return hint.to_string();
        }
        (1..)
            .map(|n| format!("{hint}.{n}"))
            .find(|n| !self.names.contains_key(n))
            .expect("some number is free")
    }

    /// The node `id`.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.dag[id]
    }

    /// The op of node `id`.
    pub fn op(&self, id: NodeId) -> &Op {
        &self.dag[id].op
    }

    /// The result type of node `id`.
    pub fn ty(&self, id: NodeId) -> &Type {
        &self.dag[id].ty
    }

    /// The node of that name.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.names.get(name).copied()
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.dag.node_count()
    }

    /// Whether the graph has no nodes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The operands of `id`, in order.
    pub fn operands(&self, id: NodeId) -> Vec<NodeId> {
        let mut edges: Vec<_> = self
            .dag
            .edges_directed(id, Direction::Incoming)
            .map(|e| (*e.weight(), e.source()))
            .collect();
        edges.sort_by_key(|(position, _)| *position);
        edges.into_iter().map(|(_, source)| source).collect()
    }

    /// The nodes that read `id`, each once, in order of their number.
    pub fn users(&self, id: NodeId) -> Vec<NodeId> {
        let mut users: Vec<_> = self
            .dag
            .neighbors_directed(id, Direction::Outgoing)
            .collect();
        users.sort();
        users.dedup();
        users
    }

    /// The only reader of `id`, if it has exactly one and is not an output.
    pub fn only_user(&self, id: NodeId) -> Option<NodeId> {
        let edges = self.dag.edges_directed(id, Direction::Outgoing).count();
        match (edges, self.outputs.iter().any(|(_, o)| *o == id)) {
            (1, false) => self.users(id).first().copied(),
            _ => None,
        }
    }

    /// Declares `id` as the output `name`.
    pub fn set_output(&mut self, name: &str, id: NodeId) {
        self.outputs.push((name.to_string(), id));
    }

    /// The outputs, in order of declaration.
    pub fn outputs(&self) -> &[(String, NodeId)] {
        &self.outputs
    }

    /// Makes every reader of `old`, and every output that is `old`, read `new` instead.
    pub fn replace(&mut self, old: NodeId, new: NodeId) {
        let edges: Vec<_> = self
            .dag
            .edges_directed(old, Direction::Outgoing)
            .filter(|e| e.target() != new)
            .map(|e| (e.id(), e.target(), *e.weight()))
            .collect();
        for (edge, target, position) in edges {
            self.dag.remove_edge(edge);
            self.dag.add_edge(new, target, position);
        }
        for (_, output) in &mut self.outputs {
            if *output == old {
                *output = new;
            }
        }
    }

    /// Gives `id` the name `name`, taking it from a node that is dead or being replaced.
    pub fn take_name(&mut self, id: NodeId, name: &str) {
        if let Some(holder) = self.names.remove(name)
            && holder != id
        {
            let other = self.fresh_name(&format!("{name}.old"));
            self.names.insert(other.clone(), holder);
            self.dag[holder].name = other;
        }
        let previous = std::mem::replace(&mut self.dag[id].name, name.to_string());
        if previous != name {
            self.names.remove(&previous);
        }
        self.names.insert(name.to_string(), id);
    }

    /// Removes every node that no output depends on.
    pub fn remove_dead(&mut self) {
        let live: HashSet<_> = self
            .post_order(self.outputs.iter().map(|(_, id)| *id))
            .into_iter()
            .collect();
        let dead: Vec<_> = self
            .dag
            .node_indices()
            .filter(|n| !live.contains(n))
            .collect();
        for id in dead {
            if let Some(node) = self.dag.remove_node(id) {
                self.names.remove(&node.name);
            }
        }
    }

    /// All nodes, operands before their readers. The order follows from the structure alone:
    /// depth first from the outputs, then whatever no output needs. Graphs are acyclic by
    /// construction: [`Graph::add`] takes existing operands and [`Graph::replace`] is checked by
    /// the verifier.
    pub fn order(&self) -> Vec<NodeId> {
        let roots = self.outputs.iter().map(|(_, id)| *id);
        self.post_order(roots.chain(self.dag.node_indices()))
    }

    fn post_order(&self, roots: impl Iterator<Item = NodeId>) -> Vec<NodeId> {
        let mut seen = HashSet::new();
        let mut order = Vec::with_capacity(self.len());
        for root in roots {
            let mut stack = vec![(root, 0)];
            if !seen.insert(root) {
                continue;
            }
            let mut operands = vec![self.operands(root)];
            while let Some((node, next)) = stack.last_mut() {
                let here = operands.last().expect("one list a stack entry");
                if let Some(&operand) = here.get(*next) {
                    *next += 1;
                    if seen.insert(operand) {
                        stack.push((operand, 0));
                        operands.push(self.operands(operand));
                    }
                } else {
                    order.push(*node);
                    stack.pop();
                    operands.pop();
                }
            }
        }
        order
    }

    /// Whether the graph has a cycle, which only a faulty rewrite can produce.
    pub fn has_cycle(&self) -> bool {
        petgraph::algo::is_cyclic_directed(&self.dag)
    }
}
