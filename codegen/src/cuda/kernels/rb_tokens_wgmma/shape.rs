//! Shapes and sizes of the product of several tokens by groups of warps.

use super::RbTokensWgmma;
use crate::cuda::kernels::finish::Finish;
use crate::cuda::kernels::segments;
use crate::cuda::layout::{TILE_BYTES, TILE_INPUTS, TILE_ROWS};

/// Blocks of inputs whose signs a lane holds at once, of each path.
const MOST_AT_ONCE: usize = 6;
/// The same where other registers are short.
const FEW_AT_ONCE: usize = 4;
/// Eights of columns of an instruction at most.
const EIGHTS: usize = 8;

/// Byte offsets in shared memory.
pub(super) struct Places {
    /// Name and offset of each part.
    pub named: Vec<(&'static str, usize)>,
    /// Bytes in all.
    pub end: usize,
}

impl RbTokensWgmma {
    /// Whether two segments are computed together and gated.
    pub fn gated(&self) -> bool {
        matches!(self.finish, Finish::Gate(_))
    }

    /// Blocks of inputs that a split has at most.
    pub fn most_chunks(&self) -> usize {
        self.layout.input_tiles().div_ceil(self.tile.splits)
    }

    /// Bytes of a row tile's signs that a warp reads.
    pub fn tile_bytes(&self) -> usize {
        self.most_chunks() * self.layout.stored.paths * TILE_BYTES
    }

    /// Sets of scales for one block of inputs: one a path, and for paired segments of each.
    pub fn sets(&self) -> usize {
        self.layout.stored.paths * if self.gated() { 2 } else { 1 }
    }

    /// Tokens that share eight columns of a matrix instruction.
    pub fn columns(&self) -> usize {
        self.tokens.min(8)
    }

    /// Eights of columns for the planes of as many tokens as share one.
    pub fn steps(&self) -> usize {
        self.planes * self.columns() / 8
    }

    /// Eights of columns that an instruction has.
    pub fn eight(&self) -> usize {
        self.steps().min(EIGHTS)
    }

    /// Whether the chains of two paths are under way at a time: where one counts all planes.
    fn two_chains(&self) -> bool {
        self.steps() <= EIGHTS
    }

    /// Blocks of inputs that are counted without waiting in between, as registers allow: even shares.
    pub fn batch(&self) -> usize {
        let crowded = self.two_chains() && self.steps() == EIGHTS && self.tile.groups > 2;
        let most = if crowded { FEW_AT_ONCE } else { MOST_AT_ONCE };
        let chunks = self.most_chunks();
        chunks.div_ceil(chunks.div_ceil(most))
    }

    /// Groups of a block at most, as registers allow.
    pub fn most_groups(&self) -> usize {
        match self.two_chains() && self.steps() == EIGHTS {
            true => 3,
            false => 4,
        }
    }

    /// Warps that compute.
    pub fn warps(&self) -> usize {
        4 * self.tile.groups
    }

    /// Fours of row tiles of a cluster, each counted by a group.
    pub fn tile_sets(&self) -> usize {
        match self.gated() {
            true => 2 * (self.tile.row_tiles / 2).div_ceil(4),
            false => self.tile.row_tiles.div_ceil(4),
        }
    }

    /// What shares a warp's eight columns with the tokens when planes are made: sets of scales, and stretches
    /// of 128 inputs.
    pub(super) fn beside(&self) -> (usize, usize) {
        let others = 8 / self.columns();
        let sets = match self.sets() {
            s if s.is_multiple_of(others) => others,
            s if s.is_multiple_of(2) => 2,
            _ => 1,
        };
        (sets, others / sets)
    }

    /// Stretches of 128 inputs of a block, whole warps of them.
    pub(super) fn stretches(&self) -> usize {
        (2 * self.most_chunks()).next_multiple_of(self.beside().1)
    }

    /// Parts of x, as much of each as a warp takes at a time.
    fn x_units(&self) -> usize {
        self.stretches() / self.beside().1 * (self.tokens / self.columns())
    }

    /// Warps that take the same part of x for different sets: as many as would have nothing to do otherwise.
    pub(super) fn set_warps(&self) -> usize {
        let (turns, warps) = (self.sets() / self.beside().0, self.warps());
        let fits = |n: &usize| {
            turns.is_multiple_of(*n) && warps.is_multiple_of(*n) && self.x_units() * n <= warps
        };
        (1..=turns).rev().find(fits).unwrap_or(1)
    }

    /// Whether registers hold the scaled inputs from one pass to the next, 32 for each part of x and set
    /// that a warp has: x is in shared memory only until there are planes then.
    pub(super) fn held(&self) -> bool {
        let turns = self.sets() / self.beside().0 / self.set_warps();
        let rounds = self.x_units().div_ceil(self.warps() / self.set_warps());
        rounds * turns <= if self.warps() > 12 { 2 } else { 3 }
    }

    /// Bytes of x in shared memory: rows of 32 inputs with a gap of four, and one of sixteen behind a
    /// token's.
    fn x_bytes(&self) -> usize {
        self.tokens * (self.stretches() * 4 * 36 + 16) * 4
    }

    /// Fours of row tiles that a group counts one after the other.
    pub fn rounds(&self) -> usize {
        self.tile_sets().div_ceil(self.tile.groups)
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

    pub(super) fn places(&self) -> Places {
        let (t, paths) = (&self.tile, self.layout.stored.paths);
        let (chunks, sets, tokens) = (self.most_chunks(), self.sets(), self.tokens);
        // The last batch reads planes past the end, by zeros.
        let padded = chunks.next_multiple_of(self.batch());
        // Where registers hold x from when it is there, planes may lie in its place.
        let planes = padded * sets * tokens * self.planes * 32;
        let (planes, x) = match self.held() {
            true => (planes.max(self.x_bytes()), 0),
            false => (planes, self.x_bytes()),
        };
        let sizes = [
            ("SIGNS_AT", self.warps() * t.slots * self.tile_bytes()),
            ("PLANES_AT", planes),
            ("X_AT", x),
            ("H_AT", sets * chunks * TILE_INPUTS * 2),
            ("G_AT", t.row_tiles * paths * TILE_ROWS * 4),
            ("SUMS_AT", sets * tokens * 4),
            ("LARGEST_AT", sets * tokens * 4),
            ("SCALES_AT", self.warps() * sets * (8 / self.columns()) * tokens * 8),
            ("SQUARES_AT", self.stretches() * tokens * 4),
            ("INVERSE_AT", tokens * 4),
            (
                "INBOX_AT",
                t.splits * self.finished() * tokens * TILE_ROWS * 4,
            ),
            ("INBOX_SQUARES_AT", t.splits * tokens * 4),
            ("READY_AT", (3 + self.warps() * t.slots) * 8),
        ];
        let mut places = Places {
            named: Vec::new(),
            end: 0,
        };
        for (name, size) in sizes {
            let at = match name == "X_AT" && size == 0 {
                true => places.named[1].1,
                false => places.end,
            };
            places.named.push((name, at));
            places.end += size.next_multiple_of(128);
        }
        places
    }

    /// Bytes of shared memory.
    pub fn shared_bytes(&self) -> usize {
        self.places().end
    }

    /// A C expression that picks a value by the number of the cluster.
    pub(super) fn by_segment(&self, value: impl Fn(usize) -> usize) -> String {
        segments::by_cluster(&self.segment_clusters(), value)
    }
}
