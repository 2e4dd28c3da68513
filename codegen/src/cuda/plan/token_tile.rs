//! How a residual-binary product of several tokens is cut, chosen without a GPU.
//!
//! The blocks should fill the card once, one a multiprocessor: what several tokens take is
//! arithmetic, and two blocks on one multiprocessor would take twice as long while others idle. Row
//! tiles are then shared out among the warps in sets whose tiles share what is read of the planes.

use rabitc_rbx::SmArch;

use crate::cuda::kernels::rb_tokens::{RbTokens, TokenTile};

/// Blocks of a cluster at most; larger clusters are not portable.
const MOST_SPLITS: usize = 8;
/// Blocks that cards with 132 multiprocessors run at once when clusters of 8 are placed, one a
/// multiprocessor: some groups of multiprocessors are smaller than two clusters.
const BLOCKS: usize = 120;
/// Warps of a block: two a scheduler.
const WARPS: usize = 8;
/// Schedulers of a multiprocessor.
const SCHEDULERS: usize = 4;
/// Cycles that a scheduler's matrix unit is busy with an instruction.
const INSTRUCTION: usize = 6;
/// Cycles to combine the counts of an instruction's rows with those of other planes.
const COMBINING: usize = 8;
/// Cycles a plane that a set costs beside.
const SET: usize = 20;
/// Row tiles that share planes at most: what registers hold.
const MOST_AT_ONCE: usize = 4;

/// Fills in tile and tokens of `product` so that it runs on `arch`; `None` if not even two tokens
/// fit.
pub fn choose(mut product: RbTokens, arch: SmArch) -> Option<RbTokens> {
    let chunks = product.layout.input_tiles();
    let mut splits = if arch.has_clusters() { MOST_SPLITS } else { 1 };
    while splits > chunks {
        splits /= 2;
    }
    let row_tiles = row_tiles(&product, (BLOCKS / splits).max(1));
    let (parts, wanted) = shares(&product, row_tiles, chunks.div_ceil(splits));
    product.tile = TokenTile {
        splits,
        row_tiles,
        warps: WARPS,
        parts,
        at_once: wanted,
        slots: 1,
    };
    while !fits(&mut product, arch) {
        match (product.tile.at_once, product.tokens) {
            (2.., _) => product.tile.at_once -= 1,
            (_, 4..) => {
                product.tokens /= 2;
                product.tile.at_once = wanted;
            }
            _ => return None,
        }
    }
    // All signs are under way at once, if there is room.
    while product.tile.slots < rounds(&product) {
        product.tile.slots += 1;
        if product.shared_bytes(arch) > arch.shared_bytes() {
            product.tile.slots -= 1;
            break;
        }
    }
    Some(product)
}

/// Whether a block finds shared memory, with signs in flight while others are counted.
fn fits(product: &mut RbTokens, arch: SmArch) -> bool {
    product.tile.slots = rounds(product).min(2);
    product.shared_bytes(arch) <= arch.shared_bytes()
}

/// Times that a warp takes an item.
fn rounds(product: &RbTokens) -> usize {
    let tile = &product.tile;
    (sets(product, tile.row_tiles, tile.at_once) * tile.parts).div_ceil(tile.warps)
}

/// Sets of `at_once` of a cluster's row tiles.
fn sets(product: &RbTokens, row_tiles: usize, at_once: usize) -> usize {
    match product.gated() {
        true => 2 * (row_tiles / 2).div_ceil(at_once),
        false => row_tiles.div_ceil(at_once),
    }
}

/// The shares of the inputs and the number of row tiles a set that take the least time: that of a
/// scheduler's sets.
fn shares(product: &RbTokens, row_tiles: usize, chunks: usize) -> (usize, usize) {
    let time = |&(parts, n): &(usize, usize)| {
        let items = parts * sets(product, row_tiles, n);
        let counting = INSTRUCTION * chunks.div_ceil(parts) * n;
        items.div_ceil(SCHEDULERS) * (counting + COMBINING * n + SET)
    };
    let most_parts = chunks.clamp(1, 2);
    let shares = (1..=most_parts).flat_map(|p| (1..=MOST_AT_ONCE).map(move |n| (p, n)));
    shares.min_by_key(time).unwrap_or((1, 1))
}

/// The fewest row tiles a cluster with which no more than `clusters` are needed.
fn row_tiles(product: &RbTokens, clusters: usize) -> usize {
    let layout = &product.layout;
    let (unit, segments) = match product.gated() {
        true => (2, vec![layout.row_tiles()]),
        false => {
            let segments = 0..layout.stored.segments.len();
            (1, segments.map(|s| layout.segment_tiles(s)).collect())
        }
    };
    let needed = |tiles: usize| segments.iter().map(|s| s.div_ceil(tiles)).sum::<usize>();
    let mut tiles = layout.row_tiles().div_ceil(clusters).next_multiple_of(unit);
    while tiles < layout.row_tiles() && needed(tiles) > clusters.max(segments.len()) {
        tiles += unit;
    }
    tiles
}
