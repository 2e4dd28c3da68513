//! How a residual-binary product of one token is cut, chosen without a GPU.
//!
//! A warp quantises what it counts, at most three blocks of 256 inputs of a path, so the inputs are
//! split over as few blocks of a cluster as that takes: what is exchanged in a cluster costs more
//! than quantising twice. Every multiprocessor gets one block, and the row tiles are shared out
//! evenly. Products that read the residual stream and products that add to it take turns, so one
//! kind is kept alone on a multiprocessor by shared memory and the other by registers, and signs
//! under way are bounded so that one block of each fits. A product that brings few signs needs no
//! such thing: its blocks are soon done.

use rabitc_rbx::SmArch;

use crate::cuda::kernels::finish::Finish;
use crate::cuda::kernels::rb_gemv::{Alone, GemvTile, HALF_SHARED, RbGemv};

/// Blocks of a cluster at most; larger clusters are not portable.
const MOST_SPLITS: usize = 8;
/// Warps of a block that work.
const WARPS: usize = 16;
/// Bytes of signs under way in a block.
const MOST_SIGNS: usize = 96 << 10;
/// The same in a block that is kept alone by registers.
const MOST_SIGNS_BESIDE: usize = 48 << 10;
/// The same where blocks of successive kernels do not overlap.
const MOST_SIGNS_APART: usize = 48 << 10;
/// Bytes of signs of a block that are few.
const FEW_SIGNS: usize = 64 << 10;

/// The tile of `product` on `arch` that is expected to be fastest; `None` if nothing fits.
pub fn choose(product: &RbGemv, arch: SmArch) -> Option<GemvTile> {
    candidates(product, arch).into_iter().next()
}

/// The tiles of `product` that fit `arch`, the most promising first.
pub fn candidates(product: &RbGemv, arch: SmArch) -> Vec<GemvTile> {
    let most = if arch.has_clusters() { MOST_SPLITS } else { 1 };
    let splits: Vec<_> = [1, 2, 4, 8].into_iter().filter(|s| *s <= most).collect();
    let mut tiles: Vec<_> = splits
        .iter()
        .filter_map(|s| fit(product, arch, *s))
        .collect();
    let rounds = |tile: &GemvTile| with(product, *tile).rounds();
    tiles.sort_by_key(|tile| (rounds(tile), tile.splits));
    tiles
}

/// The product cut otherwise.
pub(super) fn with(product: &RbGemv, tile: GemvTile) -> RbGemv {
    RbGemv {
        tile,
        ..product.clone()
    }
}

/// Blocks that run at once, one a multiprocessor. Of large clusters, fewer can be placed.
pub(super) fn blocks(arch: SmArch, splits: usize) -> usize {
    match (arch.has_clusters(), splits) {
        (true, 1 | 2) => 132,
        (true, _) => 120,
        (false, _) => 108,
    }
}

/// What keeps blocks of a product apart.
pub(super) fn alone(product: &RbGemv, arch: SmArch) -> Alone {
    let signs = product.tiles() * product.rounds() * product.stage_bytes();
    match product.finish {
        // Where successive kernels do not overlap, or a block cannot have half of the memory.
        _ if !arch.has_clusters() || arch.shared_bytes() < HALF_SHARED => Alone::No,
        Finish::Residual(_) if signs <= FEW_SIGNS => Alone::No,
        Finish::Residual(_) => Alone::Registers,
        _ => Alone::Shared,
    }
}

/// Bytes of signs under way in a block that leaves room for its neighbours'.
pub(super) fn most_signs(alone: Alone, arch: SmArch) -> usize {
    match alone {
        _ if !arch.has_clusters() => MOST_SIGNS_APART,
        Alone::Registers => MOST_SIGNS_BESIDE,
        _ => MOST_SIGNS,
    }
}

/// The tile with so many splits, with as many signs under way as there is room for.
fn fit(product: &RbGemv, arch: SmArch, splits: usize) -> Option<GemvTile> {
    let sets = product.sets();
    let chunks = product.layout.input_tiles();
    if splits > chunks {
        return None;
    }
    let chunk_warps = (WARPS / sets).clamp(1, chunks.div_ceil(splits));
    let mut clusters = blocks(arch, splits) / splits;
    loop {
        let mut tile = GemvTile {
            splits,
            clusters,
            warps: (sets * chunk_warps).min(WARPS),
            slots: 1,
            alone: Alone::No,
        };
        let one = with(product, tile);
        tile.alone = alone(&one, arch);
        let bytes = most_signs(tile.alone, arch);
        tile.slots = (bytes / one.stage_bytes()).clamp(1, one.tiles());
        while tile.slots > 1 && with(product, tile).shared_bytes() > arch.shared_bytes() {
            tile.slots -= 1;
        }
        if with(product, tile).shared_bytes() <= arch.shared_bytes() {
            return Some(tile);
        }
        if one.tiles() == 1 {
            return None;
        }
        clusters *= 2;
    }
}
