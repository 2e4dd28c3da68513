//! Shapes and sizes of the product of several tokens by groups of warps.

use super::RbTokensWgmma;
use crate::cuda::kernels::several_tokens::Places;
use crate::cuda::layout::{TILE_BYTES, TILE_INPUTS, TILE_ROWS};

/// Blocks of inputs whose signs a lane holds at once, of each path.
const MOST_AT_ONCE: usize = 6;
/// The same where other registers are short.
const FEW_AT_ONCE: usize = 4;
/// Eights of columns of an instruction at most.
const EIGHTS: usize = 8;

impl RbTokensWgmma {
    /// Blocks of inputs that a split has at most.
    pub fn most_chunks(&self) -> usize {
        self.of.layout.input_tiles().div_ceil(self.tile.splits)
    }

    /// Bytes of a row tile's signs that a warp reads.
    pub fn tile_bytes(&self) -> usize {
        self.most_chunks() * self.of.layout.stored.paths * TILE_BYTES
    }

    /// Eights of columns that an instruction has.
    pub fn eight(&self) -> usize {
        self.of.steps().min(EIGHTS)
    }

    /// Chains of instructions under way at a time: those of two paths, where one counts all planes.
    pub fn chains(&self) -> usize {
        if self.of.steps() <= EIGHTS { 2 } else { 1 }
    }

    /// Whether counts take most of a lane's registers.
    fn is_crowded(&self) -> bool {
        self.of.steps() == EIGHTS
    }

    /// Blocks of inputs that are counted without waiting in between, as registers allow: even shares.
    pub fn batch(&self) -> usize {
        let most = match self.is_crowded() && self.tile.groups > 2 {
            true => FEW_AT_ONCE,
            false => MOST_AT_ONCE,
        };
        let chunks = self.most_chunks();
        chunks.div_ceil(chunks.div_ceil(most))
    }

    /// Groups of a block at most, as registers allow.
    pub fn most_groups(&self) -> usize {
        if self.is_crowded() { 3 } else { 4 }
    }

    /// Warps that compute.
    pub fn warps(&self) -> usize {
        4 * self.tile.groups
    }

    /// Fours of row tiles of a cluster, each counted by a group.
    pub fn tile_sets(&self) -> usize {
        match self.of.gated() {
            true => 2 * (self.tile.row_tiles / 2).div_ceil(4),
            false => self.tile.row_tiles.div_ceil(4),
        }
    }

    /// What shares a warp's eight columns with the tokens when planes are made: sets of scales, and stretches
    /// of 128 inputs.
    pub(super) fn beside(&self) -> (usize, usize) {
        let others = 8 / self.of.columns();
        let sets = match self.of.sets() {
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
        self.stretches() / self.beside().1 * (self.of.tokens / self.of.columns())
    }

    /// Warps that take the same part of x for different sets: as many as would have nothing to do otherwise.
    pub(super) fn set_warps(&self) -> usize {
        let (turns, warps) = (self.of.sets() / self.beside().0, self.warps());
        let fits = |n: &usize| {
            turns.is_multiple_of(*n) && warps.is_multiple_of(*n) && self.x_units() * n <= warps
        };
        (1..=turns).rev().find(fits).unwrap_or(1)
    }

    /// Whether registers hold the scaled inputs from one pass to the next, 32 for each part of x and set
    /// that a warp has: x is in shared memory only until there are planes then.
    pub(super) fn held(&self) -> bool {
        let turns = self.of.sets() / self.beside().0 / self.set_warps();
        let rounds = self.x_units().div_ceil(self.warps() / self.set_warps());
        rounds * turns <= if self.warps() > 12 { 2 } else { 3 }
    }

    /// Bytes of x in shared memory: rows of 32 inputs with a gap of four, and one of sixteen behind a
    /// token's.
    fn x_bytes(&self) -> usize {
        self.of.tokens * (self.stretches() * 4 * 36 + 16) * 4
    }

    /// Fours of row tiles that a group counts one after the other.
    pub fn rounds(&self) -> usize {
        self.tile_sets().div_ceil(self.tile.groups)
    }

    /// Blocks along x.
    pub fn grid(&self) -> usize {
        let clusters = self.of.segment_clusters(self.tile.row_tiles);
        clusters.iter().sum::<usize>() * self.tile.splits
    }

    pub(super) fn places(&self) -> Places {
        let (t, of) = (&self.tile, &self.of);
        let (chunks, sets, tokens) = (self.most_chunks(), of.sets(), of.tokens);
        // The last batch reads planes past the end, by zeros. Where registers hold x from when it is there,
        // planes lie in its place: an x of no bytes of its own begins where they do.
        let planes = of.plane_bytes(chunks.next_multiple_of(self.batch()));
        let (planes, x) = match self.held() {
            true => (planes.max(self.x_bytes()), 0),
            false => (planes, self.x_bytes()),
        };
        let scales = self.warps() * sets * (8 / of.columns()) * tokens * 8;
        Places::new(&[
            ("SIGNS_AT", self.warps() * t.slots * self.tile_bytes()),
            ("X_AT", x),
            ("PLANES_AT", planes),
            ("H_AT", sets * chunks * TILE_INPUTS * 2),
            ("G_AT", t.row_tiles * of.layout.stored.paths * TILE_ROWS * 4),
            ("SUMS_AT", sets * tokens * 4),
            ("LARGEST_AT", sets * tokens * 4),
            ("SCALES_AT", scales),
            ("SQUARES_AT", self.stretches() * tokens * 4),
            ("INVERSE_AT", tokens * 4),
            (
                "INBOX_AT",
                of.sum_bytes(t.splits * of.finished(t.row_tiles, t.splits)),
            ),
            ("INBOX_SQUARES_AT", t.splits * tokens * 4),
            ("READY_AT", (3 + self.warps() * t.slots) * 8),
        ])
    }

    /// Bytes of shared memory.
    pub fn shared_bytes(&self) -> usize {
        self.places().end
    }
}
