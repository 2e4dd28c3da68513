//! Shapes and sizes of the product of several tokens.

use super::RbTokens;
use crate::cuda::kernels::several_tokens::Places;
use crate::cuda::layout::{TILE_INPUTS, TILE_ROWS};

/// Registers of a lane that may hold signs, where a block has few warps.
const SIGN_REGISTERS: usize = 48;
/// The same with more warps than [`FEW_WARPS`].
const SIGN_REGISTERS_OF_MANY: usize = 24;
/// Warps of a block that may have more than half of the registers that an instruction can name.
const FEW_WARPS: usize = 8;

impl RbTokens {
    /// Blocks of inputs that a warp takes at most.
    pub fn part_chunks(&self) -> usize {
        self.of.layout.input_tiles().div_ceil(self.tile.parts)
    }

    /// Blocks of inputs whose signs are in registers together: all, or even shares of them.
    pub fn chunks_at_once(&self) -> usize {
        let registers = match self.tile.warps <= FEW_WARPS {
            true => SIGN_REGISTERS,
            false => SIGN_REGISTERS_OF_MANY,
        };
        let most = (registers / (4 * self.tile.at_once)).max(1);
        let rounds = self.part_chunks().div_ceil(most).max(1);
        self.part_chunks().div_ceil(rounds).max(1)
    }

    /// Sets of `at_once` row tiles of a block, each counted by a warp for every part of the inputs.
    pub fn tile_sets(&self) -> usize {
        let (tiles, at_once) = (self.tile.row_tiles, self.tile.at_once);
        match self.of.gated() {
            true => 2 * (tiles / 2).div_ceil(at_once),
            false => tiles.div_ceil(at_once),
        }
    }

    /// Pairs of steps whose instructions are in one stretch of the text, as registers allow.
    pub(super) fn steps_unrolled(&self) -> usize {
        let crowded = self.tile.warps > FEW_WARPS && self.tile.at_once > 2;
        (self.of.steps() / 2).min(if crowded { 1 } else { 2 })
    }

    /// Blocks along x.
    pub fn grid(&self) -> usize {
        let blocks = self.of.segment_clusters(self.tile.row_tiles);
        blocks.iter().sum()
    }

    pub(super) fn places(&self) -> Places {
        let (t, of) = (&self.tile, &self.of);
        let (chunks, sets, tokens) = (of.layout.input_tiles(), of.sets(), of.tokens);
        // Where signs are taken in shares, the last share reads planes past the end, by zeros.
        let part = self.part_chunks();
        let padded = (t.parts - 1) * part + part.next_multiple_of(self.chunks_at_once());
        Places::new(&[
            ("PLANES_AT", of.plane_bytes(padded)),
            ("H_AT", sets * chunks * TILE_INPUTS * 2),
            ("G_AT", t.row_tiles * of.layout.stored.paths * TILE_ROWS * 4),
            ("SUMS_AT", sets * tokens * 4),
            ("LARGEST_AT", sets * tokens * 4),
            ("SQUARES_AT", chunks * tokens * 4),
            ("INVERSE_AT", tokens * 4),
            (
                "INBOX_AT",
                of.sum_bytes(t.parts * of.finished(t.row_tiles, 1)),
            ),
            ("INBOX_SQUARES_AT", tokens * 4),
        ])
    }

    /// Bytes of shared memory.
    pub fn shared_bytes(&self) -> usize {
        self.places().end
    }
}
