//! What follows from a configuration of the one-token product: who does what, and where it lies.

use rabitc_rbx::SmArch;

use super::{Alone, RbGemv};
use crate::cuda::kernels::finish::Finish;
use crate::cuda::kernels::segments;
use crate::cuda::layout::{TILE_BYTES, TILE_ROWS};

/// Blocks of 256 inputs that a warp quantises at once, bounded by registers.
const MOST_STEPS: usize = 3;

/// Registers of a thread at most. A quarter of a multiprocessor has 16384 for its warps: four of a
/// block of 16 and five of one with [`IDLE_WARPS`] more fit there, but not twice the latter.
pub const REGISTERS: u32 = 56;
/// Warps that do nothing but hold registers in a block of 16 that is to have more than half of them.
const IDLE_WARPS: usize = 3;
/// A little more than half of a multiprocessor's shared memory where that is 228 KiB, what the
/// system takes included.
pub const HALF_SHARED: usize = 115 << 10;

/// Bytes of signs that a block has under way, where it begins to fetch beside the kernel ahead: what
/// keeps the memory busy over its latency, so that what that kernel reads does not wait for more.
const UNDER_WAY: usize = 16 << 10;
/// Bytes of a barrier in shared memory.
const BARRIER_BYTES: usize = 8;

/// Names of [`RbGemv::places`], less the end.
pub const PLACES: [&str; 7] = [
    "STAGING_AT",
    "PARTIAL_AT",
    "G_AT",
    "SQUARES_AT",
    "INBOX_AT",
    "INBOX_SQUARES_AT",
    "INBOX_FULL_AT",
];

impl RbGemv {
    /// Whether two paired segments become one result.
    pub fn gated(&self) -> bool {
        matches!(self.finish, Finish::Gate(_))
    }

    /// Segments that a block computes side by side.
    pub fn paired(&self) -> usize {
        if self.gated() { 2 } else { 1 }
    }

    /// Sets of input scales in a block: one a path, and for paired segments one of each.
    pub fn sets(&self) -> usize {
        self.layout.stored.paths * self.paired()
    }

    /// Sets that warps work on at the same time.
    pub(super) fn set_warps(&self) -> usize {
        self.sets().min(self.tile.warps)
    }

    pub(super) fn set_rounds(&self) -> usize {
        self.sets().div_ceil(self.set_warps())
    }

    /// Warps that share a set, and split its inputs.
    pub(super) fn chunk_warps(&self) -> usize {
        self.tile.warps / self.set_warps()
    }

    /// Blocks of 256 inputs that a warp has of a set.
    fn chunks_of_warp(&self) -> usize {
        let of_block = self.layout.input_tiles().div_ceil(self.tile.splits);
        of_block.div_ceil(self.chunk_warps())
    }

    /// Blocks of inputs of a warp in a round; fewer where several rounds need registers too.
    pub fn steps(&self) -> usize {
        let most = match self.chunks_of_warp() > MOST_STEPS || self.set_rounds() > 1 {
            true => MOST_STEPS - 1,
            false => MOST_STEPS,
        };
        let rounds = self.chunks_of_warp().div_ceil(most);
        self.chunks_of_warp().div_ceil(rounds)
    }

    /// Times that a warp goes over the row tiles.
    pub fn rounds(&self) -> usize {
        self.set_rounds() * self.chunks_of_warp().div_ceil(self.steps())
    }

    /// Whether all warps of all blocks have the same number of blocks of inputs.
    pub(super) fn even(&self) -> bool {
        let all = self.tile.splits * self.chunk_warps() * self.chunks_of_warp();
        self.layout.input_tiles() == all && self.chunks_of_warp().is_multiple_of(self.steps())
    }

    /// Row tiles that a warp counts together, so that it has something to do while it waits for
    /// the results of one.
    pub(super) fn batch(&self) -> usize {
        if self.rounds() > 1 || self.tile.slots < 2 || self.tiles() < 2 {
            return 1;
        }
        (4 / self.steps()).clamp(1, 2)
    }

    /// Row tiles whose code is written out: all, unless that is much.
    pub(super) fn unroll(&self) -> usize {
        match self.rounds() == 1 && self.tiles() <= 16 {
            true => self.tiles(),
            false => 1,
        }
    }

    /// Rows of a cluster, of each segment where two are paired.
    pub fn rows(&self) -> usize {
        self.tiles() * TILE_ROWS
    }

    /// Numbers of a warp in the place of its sums, through which its planes go too if there is a
    /// single round.
    pub(super) fn sums(&self) -> usize {
        match self.rounds() {
            1 => self.rows().max(TILE_BYTES / 4),
            _ => self.rows(),
        }
    }

    /// Lanes that add up a row: a power of two, as many as there are threads for, and whole warps.
    pub(super) fn share(&self) -> usize {
        let (values, sums) = (
            self.rows() * self.paired(),
            self.layout.stored.paths * self.chunk_warps(),
        );
        let mut share = 2 / self.paired();
        while share < 32 && share * 2 <= sums && values * share * 2 <= self.tile.warps * 32 {
            share *= 2;
        }
        share
    }

    /// Bytes of signs that the warps of a block have of a row tile in a round.
    pub fn stage_bytes(&self) -> usize {
        self.tile.warps * self.steps() * TILE_BYTES
    }

    /// Row tiles that a warp asks for before the first of them must have arrived: all where kernels do
    /// not overlap.
    pub(super) fn under_way(&self, arch: SmArch) -> usize {
        match arch.has_clusters() {
            true => (UNDER_WAY / self.stage_bytes()).clamp(1, self.tile.slots),
            false => self.tile.slots,
        }
    }

    /// Byte offsets in shared memory behind the signs, in the order of [`PLACES`], and the end.
    pub(super) fn places(&self) -> [usize; 8] {
        let t = &self.tile;
        let staging = if self.rounds() == 1 {
            0
        } else {
            t.warps * TILE_BYTES
        };
        let sizes = [
            staging,
            self.sets() * self.chunk_warps() * self.sums() * 4,
            self.rows() * self.sets() * 4,
            t.warps * 4,
            if t.splits > 1 {
                self.rows() * self.paired() * 4
            } else {
                0
            },
            if t.splits > 1 { t.splits * 4 } else { 0 },
            if t.splits > 1 { BARRIER_BYTES } else { 0 },
        ];
        let mut places = [t.slots * self.stage_bytes(); 8];
        for (i, size) in sizes.into_iter().enumerate() {
            places[i + 1] = (places[i] + size).next_multiple_of(16);
        }
        places
    }

    /// Bytes of shared memory of a block.
    pub fn shared_bytes(&self) -> usize {
        match self.tile.alone {
            Alone::Shared => self.places()[7].max(HALF_SHARED),
            _ => self.places()[7],
        }
    }

    /// Warps of a block, with those that do nothing.
    pub fn all_warps(&self) -> usize {
        match self.tile.alone {
            Alone::Registers => self.tile.warps + IDLE_WARPS,
            _ => self.tile.warps,
        }
    }

    /// Row tiles of every segment; paired segments count as one.
    fn segment_tiles(&self) -> Vec<usize> {
        let segments = self.layout.stored.segments.len() / self.paired();
        (0..segments)
            .map(|s| self.layout.segment_tiles(s))
            .collect()
    }

    /// Clusters of every segment: each next one goes where most row tiles share a cluster.
    pub(super) fn segment_clusters(&self) -> Vec<usize> {
        let tiles = self.segment_tiles();
        let mut clusters = vec![1; tiles.len()];
        for _ in tiles.len()..self.tile.clusters.min(tiles.iter().sum()) {
            let fullest = (0..tiles.len())
                .rev()
                .max_by(|&a, &b| (tiles[a] * clusters[b]).cmp(&(tiles[b] * clusters[a])));
            clusters[fullest.unwrap_or(0)] += 1;
        }
        clusters
    }

    /// Row tiles of a cluster at most, of each segment where two are paired.
    pub fn tiles(&self) -> usize {
        let (tiles, clusters) = (self.segment_tiles(), self.segment_clusters());
        let each = tiles.iter().zip(&clusters).map(|(t, c)| t.div_ceil(*c));
        each.max().unwrap_or(1)
    }

    /// Row tiles that every cluster has.
    pub(super) fn least_tiles(&self) -> usize {
        let (tiles, clusters) = (self.segment_tiles(), self.segment_clusters());
        let each = tiles.iter().zip(&clusters).map(|(t, c)| t / c);
        each.min().unwrap_or(0)
    }

    /// Clusters in all.
    pub fn clusters(&self) -> usize {
        self.segment_clusters().iter().sum()
    }

    /// Blocks along x.
    pub fn grid(&self) -> usize {
        self.clusters() * self.tile.splits
    }

    /// Columns of the result.
    pub fn columns(&self) -> usize {
        let segments = &self.layout.stored.segments;
        segments.iter().sum::<usize>() / self.paired()
    }

    /// A C expression that picks a value by the number of the cluster.
    pub(super) fn by_segment(&self, value: impl Fn(usize) -> usize) -> String {
        segments::by_cluster(&self.segment_clusters(), value)
    }
}
