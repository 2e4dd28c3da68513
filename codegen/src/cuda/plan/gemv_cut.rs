//! The ways to cut the product of one token that are tried, and what each asks of a card.
//!
//! The figures rank the ways as [`super::gemv_tile`] has them, which follow from measurements; what is
//! tried beside varies one or two of their numbers.

use rabitc_rbx::SmArch;

use super::cost::{Card, Kind, SCHEDULERS, Work};
use super::gemv_tile::{self, room, with};
use super::product::{Cut, Rounding, Task};
use crate::cuda::kernels::rb_gemv::{Alone, GemvTile, Next, RbGemv};

/// See [`Kind`].
const KIND: Kind = Kind {
    unit: 0.5e-6,
    turn: 0.1e-6,
    exchange: 0.45e-6,
    item: 0.2e-6,
};

impl Cut for RbGemv {
    const KIND: &'static str = "one token";

    fn problem(&self) -> String {
        self.problem_name()
    }

    /// [`super::gemv_tile::candidates`], each also with fewer or more clusters, fewer signs under way,
    /// kept alone otherwise, and with another moment for the next kernel to begin.
    fn candidates(&self, arch: SmArch) -> Vec<RbGemv> {
        let mut cuts: Vec<RbGemv> = Vec::new();
        let first = gemv_tile::candidates(self, arch);
        let varied = first.iter().flat_map(|tile| variations(*tile, arch));
        for tile in first.iter().copied().chain(varied) {
            let cut = with(self, tile);
            let fits = cut.shared_bytes() <= arch.shared_bytes()
                && cut.all_warps() <= MOST_WARPS
                && tile.slots <= cut.tiles();
            if fits && !cuts.contains(&cut) {
                cuts.push(cut);
            }
        }
        cuts
    }

    fn seconds(&self, arch: SmArch) -> f64 {
        Card::of(arch).seconds(&work(self, arch))
    }

    fn grid(&self) -> [usize; 2] {
        [RbGemv::grid(self), 1]
    }

    fn task(&self) -> Task {
        let d_in = self.layout.stored.d_in;
        Task {
            layout: self.layout.clone(),
            tokens: 1,
            rounding: Rounding::Planes(self.planes),
            x_stride: d_in,
            norm: self.norm,
            gate: self.finish.gate(),
            residual: self.finish.residual(),
            columns: self.columns(),
        }
    }
}

/// What a product asks of a card.
fn work(product: &RbGemv, arch: SmArch) -> Work {
    let tile = &product.tile;
    let threads = product.all_warps() * 32;
    let signs = product.tiles() * product.rounds() * product.stage_bytes();
    // x and its scales come from the cache, but on the way that signs take.
    let inputs = product.layout.input_tiles().div_ceil(tile.splits) * 256;
    let bytes = signs + inputs * (4 + 2 * product.sets());
    let counted = product.tiles() * product.rounds() * product.steps() * (product.planes / 8);
    Work {
        kind: KIND,
        room: room(product, arch),
        blocks: product.grid(),
        cluster: tile.splits,
        threads,
        registers: REGISTERS,
        shared: product.shared_bytes(),
        bytes,
        in_flight: (tile.slots * product.stage_bytes()).min(signs) + (bytes - signs),
        inputs: inputs * 4,
        units: product.rounds() * product.steps(),
        tiles: product.tiles() * product.rounds() * product.steps(),
        matrix: counted * tile.warps.div_ceil(SCHEDULERS),
        items: (product.rows() * product.paired()).div_ceil(tile.splits * tile.warps * 32),
    }
}

/// Registers of a thread, about.
const REGISTERS: usize = 48;
/// Warps of a block that can be launched.
const MOST_WARPS: usize = 32;

/// Ways to cut that differ from `tile` in one or two respects.
fn variations(tile: GemvTile, arch: SmArch) -> Vec<GemvTile> {
    let alone: &[Alone] = match arch.has_clusters() {
        true => &[Alone::Shared, Alone::Registers, Alone::No],
        false => &[Alone::No],
    };
    let nexts: &[Next] = match arch.has_clusters() {
        true => &[Next::AtOnce, Next::AfterInputs],
        false => &[Next::AtOnce],
    };
    // Of clusters, fewer can be placed than multiprocessors suggest.
    let fewer = tile.clusters * 15 / 16;
    let clusters = [tile.clusters, fewer, tile.clusters / 2, tile.clusters * 2];
    let slots = [
        tile.slots,
        tile.slots * 3 / 4,
        tile.slots / 2,
        tile.slots * 3 / 2,
    ];
    let mut all = Vec::new();
    for &alone in alone {
        for clusters in clusters.into_iter().filter(|n| *n > 0) {
            for slots in slots.into_iter().filter(|n| *n > 0) {
                all.extend(nexts.iter().map(|&next| GemvTile {
                    alone,
                    clusters,
                    slots,
                    next,
                    ..tile
                }));
            }
        }
    }
    all
}

#[cfg(test)]
#[path = "gemv_cut_tests.rs"]
mod tests;
