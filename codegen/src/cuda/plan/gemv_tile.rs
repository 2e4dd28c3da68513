//! How a residual-binary product of one token is cut, chosen without a GPU.
//!
//! A warp quantises what it counts, at most three blocks of 256 inputs of a path, and every block
//! reads its inputs and their scales, which all blocks want at the same moment. So clusters of two
//! split the inputs, and larger ones where those still leave a warp too many; larger clusters cannot
//! be placed on all multiprocessors. Every multiprocessor gets one block, and the row tiles are
//! shared out evenly.
//!
//! Shared memory is bounded so that blocks of two successive kernels fit on a multiprocessor. A product
//! that has more signs than that streams the rest while it counts; it is kept alone, and the kernel
//! beside it has the smaller part. Small products are cut into blocks of a quarter of a multiprocessor,
//! of which the card may put two on one and the next kernel's beside them; see [`room`].
//!
//! Products that add to the residual stream are followed by ones with more signs, which may begin to
//! fetch at once. The others are followed by less, and read their own inputs first.

use rabitc_rbx::SmArch;

use super::cost::{RESERVED, Room};
use super::product::Cut;
use crate::cuda::kernels::finish::Finish;
use crate::cuda::kernels::rb_gemv::{Alone, GemvTile, HALF_SHARED, Next, REGISTERS, RbGemv};

/// Blocks of a cluster at most; larger clusters are not portable.
const MOST_SPLITS: usize = 8;
/// Warps of a block that work.
const WARPS: usize = 16;
/// Bytes of signs that a block has under way where blocks of successive kernels do not overlap.
const MOST_SIGNS_APART: usize = 48 << 10;
/// Registers of a multiprocessor.
const ALL_REGISTERS: usize = 1 << 16;
/// Blocks of a cluster that are placed on neighbouring multiprocessors.
const PAIR: usize = 2;
/// Bytes of shared memory that a block of attention takes, about.
const ATTENTION: usize = 42 << 10;
/// Blocks of attention that a multiprocessor needs room for: they are in large clusters, and not all
/// multiprocessors get as many.
const ATTENTIONS: usize = 3;
/// Blocks of a cluster that splits the inputs, where they need not be more.
const SPLITS: usize = 2;

/// The tile of `product` on `arch` that is expected to be fastest; `None` if nothing fits.
pub fn choose(product: &RbGemv, arch: SmArch) -> Option<GemvTile> {
    let seconds = |tile: &GemvTile| with(product, *tile).seconds(arch);
    let tiles = candidates(product, arch).into_iter();
    tiles.min_by(|a, b| seconds(a).total_cmp(&seconds(b)))
}

/// The tiles of `product` that fit `arch`, one for each number of splits, the most promising first.
pub fn candidates(product: &RbGemv, arch: SmArch) -> Vec<GemvTile> {
    let most = if arch.has_clusters() { MOST_SPLITS } else { 1 };
    let most = most.min(product.layout.input_tiles());
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

/// Blocks that run at once, one a multiprocessor. Of large clusters, fewer can be placed, unless two
/// blocks fit on a multiprocessor.
fn blocks(arch: SmArch, splits: usize, two_fit: bool) -> usize {
    match (arch.has_clusters(), splits, two_fit) {
        (true, 1 | 2, _) | (true, _, true) => 132,
        (true, _, false) => 120,
        (false, ..) => 108,
    }
}

/// What a block takes of a multiprocessor's shared memory.
fn shared(product: &RbGemv) -> usize {
    product.shared_bytes() + RESERVED
}

/// Shared memory of a multiprocessor.
fn all_shared(arch: SmArch) -> usize {
    arch.shared_bytes() + RESERVED
}

fn two_fit(product: &RbGemv, arch: SmArch) -> bool {
    2 * shared(product) <= all_shared(arch)
}

/// Whether blocks run beside those of the kernels ahead and behind, wherever the card puts them.
///
/// Of two successive products, one may be kept alone and take a little more than half of a
/// multiprocessor's shared memory; then the other has to be content with the rest. Where the kernel
/// ahead leaves so much that two blocks can be placed on one multiprocessor, that will happen, and
/// beside both there must be room for the next kernel's: in shared memory, and in registers for a block
/// of [`WARPS`] warps. Larger clusters than two find room for all their blocks at the same time only if
/// those are so small.
pub(super) fn room(product: &RbGemv, arch: SmArch) -> Room {
    let (tile, fits_twice) = (&product.tile, two_fit(product, arch));
    let expected = tile.alone == alone(product, arch)
        && tile.next == next(product, arch)
        && product.grid() <= blocks(arch, tile.splits, fits_twice);
    if !arch.has_clusters() {
        let few = tile.slots * product.stage_bytes() <= MOST_SIGNS_APART;
        return if expected && few {
            Room::Beside
        } else {
            Room::Crowded
        };
    }
    let (own, all) = (shared(product), all_shared(arch));
    let half = all - rest(arch) - RESERVED;
    let warps = 2 * product.all_warps() + WARPS;
    let registers = warps * 32 * REGISTERS as usize;
    let beside_two = 2 * own + half <= all && registers <= ALL_REGISTERS;
    let beside_one =
        product.shared_bytes() <= most_shared(product, arch) && 2 * own + ATTENTION > all;
    match beside_two || beside_one {
        _ if tile.splits > PAIR && !beside_two => Room::Apart,
        true if expected => Room::Beside,
        _ => Room::Crowded,
    }
}

/// What keeps blocks of a product apart: those that have room for all their signs need nothing.
fn alone(product: &RbGemv, arch: SmArch) -> Alone {
    let whole = GemvTile {
        slots: product.tiles() * product.rounds(),
        alone: Alone::No,
        ..product.tile
    };
    match product.finish {
        // Where successive kernels do not overlap, or a block cannot have half of the memory.
        _ if !arch.has_clusters() || arch.shared_bytes() < HALF_SHARED => Alone::No,
        Finish::Residual(_) => Alone::No,
        _ if with(product, whole).shared_bytes() <= rest(arch) => Alone::No,
        _ => Alone::Shared,
    }
}

/// From when on the kernel behind a product may begin.
fn next(product: &RbGemv, arch: SmArch) -> Next {
    match product.finish {
        _ if !arch.has_clusters() => Next::AtOnce,
        Finish::Residual(_) => Next::AtOnce,
        _ => Next::AfterInputs,
    }
}

/// Bytes of shared memory of a block that leaves room for its neighbours' in the chain of kernels: one
/// that is kept alone has a little more than half of a multiprocessor's, the others have the rest, or
/// what attention leaves if that is behind.
fn most_shared(product: &RbGemv, arch: SmArch) -> usize {
    match (product.tile.alone, product.finish) {
        _ if !arch.has_clusters() => arch.shared_bytes(),
        (Alone::Shared, _) => HALF_SHARED,
        (_, Finish::Store) if arch.shared_bytes() >= HALF_SHARED => {
            rest(arch).min(arch.shared_bytes() - ATTENTIONS * ATTENTION)
        }
        _ => rest(arch),
    }
}

/// Bytes of shared memory of a block beside one that is kept alone, or beside another like it where
/// none is.
fn rest(arch: SmArch) -> usize {
    let all = arch.shared_bytes();
    match all < HALF_SHARED {
        true => all_shared(arch) / 2 - RESERVED,
        false => all - HALF_SHARED - RESERVED,
    }
}

/// The tile with so many splits, with as many signs under way as there is room for.
fn fit(product: &RbGemv, arch: SmArch, splits: usize) -> Option<GemvTile> {
    let mut clusters = blocks(arch, splits, false) / splits;
    loop {
        let tile = slotted(product, arch, splits, clusters);
        let cut = with(product, tile);
        if cut.shared_bytes() <= arch.shared_bytes() {
            // Where two fit on a multiprocessor, more can be placed.
            let more = blocks(arch, splits, two_fit(&cut, arch)) / splits;
            return Some(slotted(product, arch, splits, clusters.max(more)));
        }
        if cut.tiles() == 1 {
            return None;
        }
        clusters *= 2;
    }
}

/// The tile with so many splits and clusters.
fn slotted(product: &RbGemv, arch: SmArch, splits: usize, clusters: usize) -> GemvTile {
    let (sets, chunks) = (product.sets(), product.layout.input_tiles());
    let chunk_warps = (WARPS / sets).clamp(1, chunks.div_ceil(splits));
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
    tile.slots = match arch.has_clusters() {
        true => one.tiles(),
        false => (MOST_SIGNS_APART / one.stage_bytes()).clamp(1, one.tiles()),
    };
    let too_large = |cut: &RbGemv| cut.shared_bytes() > most_shared(cut, arch);
    while tile.slots > 1 && too_large(&with(product, tile)) {
        tile.slots -= 1;
    }
    tile
}
