//! A graph whose weights are f32, which is what the engine holds them as.

use std::collections::HashMap;

use rabitc_ir::ops::round::Round;
use rabitc_ir::{DType, Graph, NodeId, Op};

use crate::engine::EngineError;

/// `graph` with the float types of weights replaced by f32, and conversions to other float types
/// by rounding.
pub fn widen(graph: &Graph) -> Result<Graph, EngineError> {
    let mut out = Graph::new(&graph.name);
    let mut map: HashMap<NodeId, NodeId> = HashMap::new();
    for id in graph.order() {
        let node = graph.node(id);
        let mut op = node.op.clone();
        match &mut op {
            Op::Weight(weight) if weight.ty.dtype.is_float() => weight.ty.dtype = DType::F32,
            Op::Cast(cast) => op = Op::Round(Round { to: cast.to }),
            _ => {}
        }
        let operands: Vec<_> = graph.operands(id).iter().map(|o| map[o]).collect();
        map.insert(id, out.add(&node.name, op, &operands)?);
    }
    for (name, id) in graph.outputs() {
        out.set_output(name, map[id]);
    }
    Ok(out)
}
