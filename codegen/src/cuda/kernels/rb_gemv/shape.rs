//! What follows from a configuration of the one-token product: who does what, and where it lies.

use rabitc_rbx::SmArch;

use super::{Alone, RbGemv};
use crate::cuda::kernels::rb_product::Finish;
use crate::cuda::layout::{TILE_BYTES, TILE_ROWS};

/// Blocks of 256 inputs that a warp quantises at once, bounded by registers.
const MOST_STEPS: usize = 3;
/// A little more than half of a multiprocessor's shared memory, what the system takes included.
const HALF_SHARED: usize = 115 << 10;

/// Names of [`RbGemv::places`], less the end.
pub const PLACES: [&str; 7] = [
    "STAGING_AT",
    "PARTIAL_AT",
    "G_AT",
    "SQUARES_AT",
    "INBOX_AT",
    "INBOX_SQUARES_AT",
    "BARRIERS_AT",
];

impl RbGemv {
    pub(super) fn gated(&self) -> bool {
        matches!(self.finish, Finish::Gate(_))
    }

    /// Segments that a block computes side by side.
    pub(super) fn paired(&self) -> usize {
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

    /// Blocks of 256 inputs of a block at most.
    pub(super) fn most_chunks(&self) -> usize {
        self.layout.input_tiles().div_ceil(self.tile.splits)
    }

    /// Blocks of 256 inputs that a warp has of a set at most.
    fn chunks_of_warp(&self) -> usize {
        self.most_chunks().div_ceil(self.chunk_warps())
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

    /// Registers of a thread at most. A quarter of a multiprocessor has 16384 for its warps: four
    /// of a block that is alone by shared memory, with 48 registers a lane, and five with 56 or six
    /// with 48 of one that is alone by registers fit there, but not twice the latter.
    pub(super) fn registers(&self) -> u32 {
        match self.tile.alone {
            Alone::Shared => 48,
            Alone::Registers if self.steps() < MOST_STEPS => 48,
            _ => 56,
        }
    }

    /// Warps that do nothing but hold registers, beside 16 that work.
    fn idle_warps(&self) -> usize {
        match (self.tile.alone, self.registers()) {
            (Alone::Registers, 48) => 6,
            (Alone::Registers, _) => 3,
            _ => 0,
        }
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

    /// Row tiles of every segment; paired segments count as one.
    fn segment_tiles(&self) -> Vec<usize> {
        let segments = self.layout.stored.segments.len() / self.paired();
        let tiles = (0..segments).map(|s| self.layout.segment_tiles(s));
        tiles.collect()
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

    /// Rows of a cluster, of each segment where two are paired.
    pub(super) fn rows(&self) -> usize {
        self.tiles() * TILE_ROWS
    }

    /// Lanes that add up a row: a power of two, as many as there are threads for, and whole warps.
    pub(super) fn share(&self) -> usize {
        let values = self.rows() * self.paired();
        let sums = self.layout.stored.paths * self.chunk_warps();
        let mut share = 2 / self.paired();
        while share < 32 && share * 2 <= sums && values * share * 2 <= self.tile.warps * 32 {
            share *= 2;
        }
        share
    }

    /// Bytes of signs of a row tile, of each segment where two are paired: a block's share of its
    /// inputs, or what its warps want of them in a round.
    pub fn stage_bytes(&self, arch: SmArch) -> usize {
        let tiles = match self.bulk(arch) {
            true => self.most_chunks() * self.sets(),
            false => self.tile.warps * self.steps(),
        };
        tiles * TILE_BYTES
    }

    /// Byte offsets in shared memory behind the signs, in the order of [`PLACES`], and the end.
    pub(super) fn places(&self, arch: SmArch) -> [usize; 8] {
        let t = &self.tile;
        let inbox = if t.splits > 1 { 4 } else { 0 };
        let sizes = [
            t.warps * TILE_BYTES,
            self.sets() * self.chunk_warps() * self.rows() * 4,
            self.rows() * self.sets() * 4,
            t.warps * 4,
            self.rows() * self.paired() * inbox,
            t.splits * inbox,
            t.slots * 16,
        ];
        let mut places = [t.slots * self.stage_bytes(arch); 8];
        for (i, size) in sizes.into_iter().enumerate() {
            places[i + 1] = (places[i] + size).next_multiple_of(16);
        }
        places
    }

    /// Bytes of shared memory of a block.
    pub fn shared_bytes(&self, arch: SmArch) -> usize {
        let needed = self.places(arch)[7];
        match self.tile.alone {
            Alone::Shared => needed.max(HALF_SHARED),
            _ => needed,
        }
    }

    /// Whether signs come by bulk copies, which bring all blocks of inputs of a row tile together.
    pub(super) fn bulk(&self, arch: SmArch) -> bool {
        arch.has_clusters() && self.rounds() == 1
    }

    /// Warps of a block, with those that do nothing.
    pub(super) fn all_warps(&self, arch: SmArch) -> usize {
        match self.bulk(arch) {
            true => self.tile.warps + self.idle_warps(),
            false => self.tile.warps,
        }
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
        let clusters = self.segment_clusters();
        let mut text = value(clusters.len() - 1).to_string();
        let mut end: usize = clusters.iter().sum();
        for s in (0..clusters.len() - 1).rev() {
            end -= clusters[s + 1];
            text = format!("cluster < {end} ? {} : {text}", value(s));
        }
        text
    }
}
