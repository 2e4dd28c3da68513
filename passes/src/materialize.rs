//! Splits a graph into what is computed once and what runs: every compile-time value that a
//! run-time op reads becomes a named tensor.

use std::collections::HashMap;

use rabitc_ir::ops::source::Weight;
use rabitc_ir::{Graph, GraphError, NodeId, Op, Type};

/// A tensor that the run-time graph reads.
#[derive(Clone, Debug)]
pub struct Materialized {
    /// Its name: the checkpoint's, if it is a checkpoint tensor as it stands.
    pub name: String,
    /// The node of the original graph that computes it.
    pub node: NodeId,
    /// Its type.
    pub ty: Type,
}

/// The run-time graph, whose compile-time nodes are weights and constants only, and the tensors
/// it reads in order of first use, each name once.
pub fn materialize(graph: &Graph) -> Result<(Graph, Vec<Materialized>), GraphError> {
    let mut split = Split::new(graph);
    for id in graph.order() {
        if graph.op(id).compile_time() {
            continue;
        }
        let operands = graph.operands(id).into_iter();
        let operands = operands
            .map(|o| split.value(o))
            .collect::<Result<Vec<_>, _>>()?;
        let node = graph.node(id);
        let new = split.out.add(&node.name, node.op.clone(), &operands)?;
        split.map.insert(id, new);
    }
    for (name, id) in graph.outputs() {
        let new = split.value(*id)?;
        split.out.set_output(name, new);
    }
    Ok((split.out, split.tensors))
}

struct Split<'a> {
    graph: &'a Graph,
    out: Graph,
    map: HashMap<NodeId, NodeId>,
    tensors: Vec<Materialized>,
    /// The node of the run-time graph that reads a tensor. Tensors of the checkpoint stand here
    /// from the start, so that nothing computed takes their names.
    readers: HashMap<String, Option<NodeId>>,
}

impl<'a> Split<'a> {
    fn new(graph: &'a Graph) -> Self {
        let order = graph.order().into_iter();
        let weights = order.filter_map(|id| match graph.op(id) {
            Op::Weight(weight) => Some((weight.name.clone(), None)),
            _ => None,
        });
        Split {
            graph,
            out: Graph::new(&graph.name),
            map: HashMap::new(),
            tensors: Vec::new(),
            readers: weights.collect(),
        }
    }

    /// What stands for node `id` in the run-time graph; compile-time nodes are added when they
    /// are first asked for.
    fn value(&mut self, id: NodeId) -> Result<NodeId, GraphError> {
        if let Some(new) = self.map.get(&id) {
            return Ok(*new);
        }
        let node = self.graph.node(id);
        let new = match &node.op {
            Op::Const(_) => self.out.add(&node.name, node.op.clone(), &[])?,
            Op::Weight(weight) => match self.readers.get(&weight.name) {
                Some(Some(reader)) => *reader,
                _ => self.tensor(id, weight.clone())?,
            },
            _ => {
                let weight = Weight {
                    name: self.fresh(&node.name),
                    ty: node.ty.clone(),
                };
                self.tensor(id, weight)?
            }
        };
        self.map.insert(id, new);
        Ok(new)
    }

    fn tensor(&mut self, id: NodeId, weight: Weight) -> Result<NodeId, GraphError> {
        self.tensors.push(Materialized {
            name: weight.name.clone(),
            node: id,
            ty: weight.ty.clone(),
        });
        let name = weight.name.clone();
        let new = self.out.add(&self.graph.node(id).name, weight, &[])?;
        self.readers.insert(name, Some(new));
        Ok(new)
    }

    /// A tensor name that is not taken: `hint` itself or `hint.N`.
    fn fresh(&self, hint: &str) -> String {
        let numbered = (1..).map(|n| format!("{hint}.{n}"));
        let mut names = std::iter::once(hint.to_string()).chain(numbered);
        names
            .find(|n| !self.readers.contains_key(n))
            .expect("some number is free")
    }
}
