//! Chooses tile and activation format of every `residual_binary` op.
//!
//! More tiles in a row block mean more rows for every table that is read, up to the registers
//! that hold their sums; fewer mean more blocks to share out among threads. The heuristic takes
//! the largest block that still leaves [`MIN_BLOCKS`] of them.

use rabitc_ir::layout::TILE_ROWS;
use rabitc_ir::ops::residual_binary::{Activations, ResidualBinary};
use rabitc_ir::{Graph, Op};

use super::substitute;
use crate::PassError;
use crate::options::Options;

/// Row blocks that a layer should have at least, so that threads end at nearly the same time.
const MIN_BLOCKS: usize = 32;

/// Sets `row_tiles` and `activations` where they are not set.
pub fn run(graph: &mut Graph, options: &Options) -> Result<(), PassError> {
    for id in graph.order() {
        let Op::ResidualBinary(op) = graph.op(id).clone() else {
            continue;
        };
        if op.packed {
            continue;
        }
        let op = ResidualBinary {
            row_tiles: row_tiles(&op.segments, options.activations),
            activations: options.activations,
            ..op
        };
        let operands = graph.operands(id);
        substitute(graph, id, op, &operands)?;
    }
    Ok(())
}

/// Tiles in a row block for a layer with these segments.
pub fn row_tiles(segments: &[usize], activations: Activations) -> usize {
    // The sums of a tile take two 128-bit registers with byte tables, four with f32 tables.
    let most = match activations {
        Activations::F32 => 2,
        _ => 4,
    };
    let rows: usize = segments.iter().sum();
    let choices = [4, 2].into_iter().filter(|t| *t <= most);
    choices
        .into_iter()
        .find(|t| rows / (t * TILE_ROWS) >= MIN_BLOCKS)
        .unwrap_or(1)
}
