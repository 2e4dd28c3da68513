//! How a residual-binary product of one token is cut, chosen without a GPU.
//!
//! A warp quantises what it counts, at most three blocks of 256 inputs of a path, and every block
//! reads its inputs and their scales, which all blocks want at the same moment. So clusters of two
//! split the inputs, and larger ones where those still leave a warp too many; larger clusters cannot
//! be placed on all multiprocessors. Every multiprocessor gets one block, and the row tiles are
//! shared out evenly.
//!
//! Signs under way are bounded so that blocks of two successive kernels fit on a multiprocessor, of
//! the same product too. One that has more signs than that streams the rest while it counts; it is
//! kept alone, and the kernel beside it has the smaller part.
//!
//! Products that add to the residual stream are followed by ones with more signs, which may begin to
//! fetch at once. The others are followed by less, and read their own inputs first.

use rabitc_rbx::SmArch;

use crate::cuda::kernels::finish::Finish;
use crate::cuda::kernels::rb_gemv::{Alone, GemvTile, HALF_SHARED, Next, RbGemv};

/// Blocks of a cluster at most; larger clusters are not portable.
const MOST_SPLITS: usize = 8;
/// Warps of a block that work.
const WARPS: usize = 16;
/// Bytes of signs that a block has room for, of those of which two fit on a multiprocessor.
const MOST_SIGNS: usize = 96 << 10;
/// The same in a block that is kept alone.
const MOST_SIGNS_ALONE: usize = 96 << 10;
/// The same where blocks of successive kernels do not overlap.
const MOST_SIGNS_APART: usize = 48 << 10;
/// Blocks of a cluster that splits the inputs, where they need not be more.
const SPLITS: usize = 2;

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
    tiles.sort_by_key(|tile| (rounds(tile), tile.splits < SPLITS, tile.splits));
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
        Finish::Residual(_) => Alone::No,
        _ if signs <= MOST_SIGNS_ALONE => Alone::No,
        _ => Alone::Shared,
    }
}

/// From when on the kernel behind a product may begin.
pub(super) fn next(product: &RbGemv, arch: SmArch) -> Next {
    match product.finish {
        _ if !arch.has_clusters() => Next::AtOnce,
        Finish::Residual(_) => Next::AtOnce,
        _ => Next::AfterInputs,
    }
}

/// Bytes of signs under way in a block that leaves room for its neighbours'.
pub(super) fn most_signs(alone: Alone, arch: SmArch) -> usize {
    match alone {
        _ if !arch.has_clusters() => MOST_SIGNS_APART,
        Alone::Shared => MOST_SIGNS_ALONE,
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
            next: next(product, arch),
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
