//! Shapes and sizes of the product of several tokens.

use rabitc_rbx::SmArch;

use super::RbTokens;
use crate::cuda::kernels::finish::Finish;
use crate::cuda::kernels::segments;
use crate::cuda::layout::{TILE_BYTES, TILE_INPUTS, TILE_ROWS};

/// Registers of a lane that may hold signs, where a block has few warps.
const SIGN_REGISTERS: usize = 48;
/// The same with more warps than [`FEW_WARPS`].
const SIGN_REGISTERS_OF_MANY: usize = 24;
/// Warps of a block that may have more than half of the registers that an instruction can name.
const FEW_WARPS: usize = 8;

/// Byte offsets in shared memory.
pub(super) struct Places {
    /// Name and offset of each part.
    pub named: Vec<(&'static str, usize)>,
    /// Bytes in all.
    pub end: usize,
}

impl RbTokens {
    /// Whether two segments are computed together and gated.
    pub fn gated(&self) -> bool {
        matches!(self.finish, Finish::Gate(_))
    }

    /// Blocks of inputs that a split has at most.
    pub fn most_chunks(&self) -> usize {
        self.layout.input_tiles().div_ceil(self.tile.splits)
    }

    /// Blocks of inputs that a warp takes at most.
    pub fn part_chunks(&self) -> usize {
        self.most_chunks().div_ceil(self.tile.parts)
    }

    /// Bytes of a row tile's signs that a warp reads.
    pub fn tile_bytes(&self) -> usize {
        self.part_chunks() * self.layout.stored.paths * TILE_BYTES
    }

    /// Sets of scales for one block of inputs: one a path, and for paired segments of each.
    pub fn sets(&self) -> usize {
        self.layout.stored.paths * if self.gated() { 2 } else { 1 }
    }

    /// Tokens that share a matrix instruction.
    pub fn columns(&self) -> usize {
        self.tokens.min(8)
    }

    /// Matrix instructions for the planes of as many tokens as share one.
    pub fn steps(&self) -> usize {
        self.planes * self.columns() / 8
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

    /// Sets of `at_once` row tiles of a cluster, each counted by a warp for every part of the inputs.
    pub fn tile_sets(&self) -> usize {
        let (tiles, at_once) = (self.tile.row_tiles, self.tile.at_once);
        match self.gated() {
            true => 2 * (tiles / 2).div_ceil(at_once),
            false => tiles.div_ceil(at_once),
        }
    }

    /// Pairs of steps whose instructions are in one stretch of the text, as registers allow.
    pub(super) fn steps_unrolled(&self) -> usize {
        let crowded = self.tile.warps > FEW_WARPS && self.tile.at_once > 2;
        (self.steps() / 2).min(if crowded { 1 } else { 2 })
    }

    /// Row tiles that one block finishes at most.
    pub fn finished(&self) -> usize {
        let unit = if self.gated() { 2 } else { 1 };
        (self.tile.row_tiles / unit).div_ceil(self.tile.splits) * unit
    }

    /// Clusters of each segment; paired segments count as one.
    pub(super) fn segment_clusters(&self) -> Vec<usize> {
        let each = |tiles: usize| tiles.div_ceil(self.tile.row_tiles);
        match self.gated() {
            true => vec![each(self.layout.row_tiles())],
            false => (0..self.layout.stored.segments.len())
                .map(|s| each(self.layout.segment_tiles(s)))
                .collect(),
        }
    }

    /// Blocks along x.
    pub fn grid(&self) -> usize {
        self.segment_clusters().iter().sum::<usize>() * self.tile.splits
    }

    /// Columns of the result.
    pub fn width(&self) -> usize {
        let segments = &self.layout.stored.segments;
        match self.gated() {
            true => segments[0],
            false => segments.iter().sum(),
        }
    }

    pub(super) fn places(&self, bulk: bool) -> Places {
        let (t, paths) = (&self.tile, self.layout.stored.paths);
        let (chunks, sets, tokens) = (self.most_chunks(), self.sets(), self.tokens);
        // Where signs are taken in shares, the last share reads planes past the end, by zeros.
        let part = self.part_chunks();
        let padded = (t.parts - 1) * part + part.next_multiple_of(self.chunks_at_once());
        let in_flight = t.warps * t.slots * t.at_once * self.tile_bytes();
        let sizes = [
            ("SIGNS_AT", if bulk { in_flight } else { 0 }),
            ("PLANES_AT", padded * sets * tokens * self.planes * 32),
            ("H_AT", sets * chunks * TILE_INPUTS * 2),
            ("G_AT", t.row_tiles * paths * TILE_ROWS * 4),
            ("SUMS_AT", sets * tokens * 4),
            ("LARGEST_AT", sets * tokens * 4),
            ("SQUARES_AT", chunks * tokens * 4),
            ("INVERSE_AT", tokens * 4),
            (
                "INBOX_AT",
                t.splits * t.parts * self.finished() * tokens * TILE_ROWS * 4,
            ),
            ("INBOX_SQUARES_AT", t.splits * tokens * 4),
            ("READY_AT", (3 + t.warps * t.slots) * 8),
        ];
        let mut places = Places {
            named: Vec::new(),
            end: 0,
        };
        for (name, size) in sizes {
            places.named.push((name, places.end));
            places.end += size.next_multiple_of(128);
        }
        places
    }

    /// Bytes of shared memory on an architecture.
    pub fn shared_bytes(&self, arch: SmArch) -> usize {
        self.places(arch.has_clusters()).end
    }

    /// A C expression that picks a value by the number of the cluster.
    pub(super) fn by_segment(&self, value: impl Fn(usize) -> usize) -> String {
        segments::by_cluster(&self.segment_clusters(), value)
    }
}
