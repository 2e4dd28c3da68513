//! Chooses tile and activation format of every `residual_binary` op.
//!
//! How tiles are chosen: [`crate::tiles`].

use rabitc_ir::ops::residual_binary::ResidualBinary;
use rabitc_ir::{Graph, Op};

use super::substitute;
use crate::PassError;
use crate::options::Options;
use crate::tiles::LayerShape;

/// Sets `row_tiles` and `activations` where they are not set.
pub fn run(graph: &mut Graph, options: &Options) -> Result<(), PassError> {
    for id in graph.order() {
        let Op::ResidualBinary(op) = graph.op(id).clone() else {
            continue;
        };
        if op.packed {
            continue;
        }
        let operands = graph.operands(id);
        let shape = LayerShape {
            d_in: graph.ty(operands[0]).last().unwrap_or(0),
            segments: op.segments.clone(),
            paths: op.paths,
            activations: options.activations.name(),
        };
        let op = ResidualBinary {
            row_tiles: options.tiles.row_tiles(&shape, options.activations),
            activations: options.activations,
            ..op
        };
        substitute(graph, id, op, &operands)?;
    }
    Ok(())
}
