//! The ways to cut a residual-binary product of a few tokens, and what each asks of a card.
//!
//! Each block should read about the same number of bytes, and the blocks should fill the card a
//! whole number of times. More splits mean less quantisation a block, since a block quantises only
//! its share of the inputs. More signs in flight hide more of the memory's latency, and leave less
//! room beside the block for the next kernel's.

use rabitc_rbx::SmArch;

use super::cost::{Kind, SCHEDULERS, Work};
use super::product::{Cut, Task};
use crate::cuda::kernels::rb_product::{Finish, RbProduct, Tile};
use crate::cuda::layout::TILE_BYTES;

/// Blocks of a cluster; larger clusters are not portable.
const SPLITS: [usize; 4] = [8, 4, 2, 1];
/// Blocks of a launch that are aimed at: part of a large card, once and twice all of one, as far as
/// clusters can be placed there.
const BLOCKS: [usize; 5] = [64, 96, 120, 192, 240];
/// Warps of a block. An even number, so that a warp's row tiles are all of one segment where two
/// are paired.
const WARPS: [usize; 3] = [16, 8, 4];
/// Row tiles of a warp in flight.
const SLOTS: [usize; 5] = [1, 2, 3, 4, 6];
/// Bytes of signs of a block in flight at most.
const IN_FLIGHT: usize = 160 << 10;
/// Registers of a thread where two blocks share a multiprocessor, and where they need not.
const REGISTERS: [usize; 2] = [64, 128];

/// See [`Kind`].
const KIND: Kind = Kind {
    unit: 1.2e-6,
    turn: 0.3e-6,
    exchange: 0.07e-6,
    item: 1.1e-6,
    leaves_room: None,
};

impl Cut for RbProduct {
    fn problem(&self) -> String {
        self.problem_name()
    }

    fn candidates(&self, arch: SmArch) -> Vec<RbProduct> {
        let mut wanted = self.clone();
        loop {
            let candidates = cuts(&wanted, arch);
            if !candidates.is_empty() || wanted.tokens == 1 {
                return candidates;
            }
            wanted.tokens /= 2;
        }
    }

    fn work(&self, arch: SmArch) -> Work {
        let tile = &self.tile;
        let paths = self.layout.stored.paths;
        let chunks = self.layout.input_tiles().div_ceil(tile.splits);
        let sign_bytes = tile.row_tiles * chunks * paths * TILE_BYTES;
        let paired = if self.gated() { 2 } else { 1 };
        let units = chunks * paths * paired * self.tokens;
        let tiles_each = tile.row_tiles.div_ceil(tile.warps);
        let warps_each = tile.warps.div_ceil(SCHEDULERS);
        Work {
            kind: KIND,
            blocks: self.grid(),
            cluster: tile.splits,
            threads: tile.warps * 32,
            shared: self.shared_bytes(arch),
            bytes: sign_bytes + chunks * paths * paired * 512 + chunks * self.tokens * 1024,
            in_flight: (tile.warps * tile.slots.min(tiles_each) * chunks * paths * TILE_BYTES)
                .min(sign_bytes),
            registers: REGISTERS[usize::from(self.tokens > 2)],
            units: units.div_ceil(tile.warps),
            items: (tile.row_tiles * 16 * self.tokens).div_ceil(tile.splits * tile.warps * 32),
            matrix: tiles_each * warps_each * chunks * paths * self.tokens * (self.planes / 8),
        }
    }

    fn task(&self) -> Task {
        Task {
            layout: self.layout.clone(),
            tokens: self.tokens,
            planes: self.planes,
            x_stride: self.x_stride,
            norm: self.norm,
            gate: match self.finish {
                Finish::Gate(act) => Some(act),
                _ => None,
            },
            residual: match self.finish {
                Finish::Residual(stride) => Some(stride),
                _ => None,
            },
            columns: self.columns(),
        }
    }
}

/// The ways to cut `product` without changing its number of tokens.
fn cuts(product: &RbProduct, arch: SmArch) -> Vec<RbProduct> {
    let chunks = product.layout.input_tiles();
    let mut cuts: Vec<RbProduct> = Vec::new();
    for splits in SPLITS {
        if splits > chunks.max(1) || (splits > 1 && !arch.has_clusters()) {
            continue;
        }
        let slot = chunks.div_ceil(splits) * product.layout.stored.paths * TILE_BYTES;
        for blocks in BLOCKS {
            let row_tiles = row_tiles(product, (blocks / splits).max(1));
            for (warps, slots) in WARPS.iter().flat_map(|w| SLOTS.map(|s| (*w, s))) {
                let used = slots <= row_tiles.div_ceil(warps);
                let in_flight = warps * slots * slot <= IN_FLIGHT || (warps, slots) == (4, 1);
                let mut cut = product.clone();
                cut.tile = Tile {
                    splits,
                    row_tiles,
                    warps,
                    slots,
                };
                let fits = cut.shared_bytes(arch) <= arch.shared_bytes();
                if used && in_flight && fits && !cuts.contains(&cut) {
                    cuts.push(cut);
                }
            }
        }
    }
    cuts
}

/// The fewest row tiles a cluster with which no more than `clusters` are needed.
fn row_tiles(product: &RbProduct, clusters: usize) -> usize {
    let layout = &product.layout;
    let (unit, segments) = match product.gated() {
        true => (2, vec![layout.row_tiles()]),
        false => {
            let segments = 0..layout.stored.segments.len();
            (1, segments.map(|s| layout.segment_tiles(s)).collect())
        }
    };
    let needed = |tiles: usize| segments.iter().map(|s| s.div_ceil(tiles)).sum::<usize>();
    let mut tiles = layout
        .row_tiles()
        .div_ceil(clusters)
        .next_multiple_of(unit)
        .max(unit);
    while tiles < layout.row_tiles() && needed(tiles) > clusters.max(segments.len()) {
        tiles += unit;
    }
    tiles
}

#[cfg(test)]
#[path = "tile_tests.rs"]
mod tests;
