//! Puts signs and scales into the layout that the kernels read.

use rabitc_ir::ops::pack::{Concat, PackScales, PackSigns};
use rabitc_ir::ops::residual_binary::ResidualBinary;
use rabitc_ir::{Graph, GraphError, NodeId, Op};

use super::substitute;
use crate::PassError;
use crate::options::Options;

/// Packs every `residual_binary` op that has a tile.
pub fn run(graph: &mut Graph, _: &Options) -> Result<(), PassError> {
    for id in graph.order() {
        if let Op::ResidualBinary(op) = graph.op(id).clone()
            && !op.packed
            && op.row_tiles > 0
        {
            pack(graph, id, op)?;
        }
    }
    Ok(())
}

fn pack(graph: &mut Graph, id: NodeId, op: ResidualBinary) -> Result<(), GraphError> {
    let name = graph.node(id).name.clone();
    let operands = graph.operands(id);
    let roles = op.roles();
    let column = |i: usize| -> Vec<NodeId> {
        let groups = roles.weights.iter();
        groups.map(|group| operands[group[i]]).collect()
    };
    let (signs, g, h) = (column(0), column(1), column(2));
    let row_tiles = op.row_tiles;
    let mut add = |part: &str, new: Op, operands: &[NodeId]| {
        let fresh = graph.fresh_name(&format!("{name}.{part}"));
        graph.add(&fresh, new, operands)
    };
    let signs = add("packed_signs", PackSigns { row_tiles }.into(), &signs)?;
    let g = add("packed_g", PackScales { row_tiles }.into(), &g)?;
    let h = match h[..] {
        [one] => one,
        _ => add("packed_h", Concat {}.into(), &h)?,
    };
    let mut packed = vec![operands[0]];
    packed.extend(roles.prologue.map(|i| operands[i]));
    packed.extend([signs, g, h]);
    packed.extend(roles.residual.map(|i| operands[i]));
    substitute(graph, id, ResidualBinary { packed: true, ..op }, &packed)?;
    Ok(())
}
