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
/// it reads in order of first use.
pub fn materialize(graph: &Graph) -> Result<(Graph, Vec<Materialized>), GraphError> {
    let mut out = Graph::new(&graph.name);
    let mut map: HashMap<NodeId, NodeId> = HashMap::new();
    let mut tensors = Vec::new();
    for id in graph.order() {
        if graph.op(id).compile_time() {
            continue;
        }
        let mut operands = Vec::new();
        for operand in graph.operands(id) {
            let new = match map.get(&operand) {
                Some(new) => *new,
                None => {
                    let new = constant(graph, operand, &mut out, &mut tensors)?;
                    map.insert(operand, new);
                    new
                }
            };
            operands.push(new);
        }
        let node = graph.node(id);
        map.insert(id, out.add(&node.name, node.op.clone(), &operands)?);
    }
    for (name, id) in graph.outputs() {
        if let Some(new) = map.get(id) {
            out.set_output(name, *new);
        }
    }
    Ok((out, tensors))
}

fn constant(
    graph: &Graph,
    id: NodeId,
    out: &mut Graph,
    tensors: &mut Vec<Materialized>,
) -> Result<NodeId, GraphError> {
    let node = graph.node(id);
    let op = match &node.op {
        Op::Const(_) => return out.add(&node.name, node.op.clone(), &[]),
        Op::Weight(w) => w.clone(),
        _ => Weight {
            name: node.name.clone(),
            ty: node.ty.clone(),
        },
    };
    tensors.push(Materialized {
        name: op.name.clone(),
        node: id,
        ty: op.ty.clone(),
    });
    out.add(&node.name, op, &[])
}
