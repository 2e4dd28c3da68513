//! The ways to cut a residual-binary product of several tokens that fit an architecture without clusters.
//!
//! The blocks fill the card once, one a multiprocessor: what several tokens take is arithmetic, and
//! two blocks on one multiprocessor would take twice as long while others idle. Row tiles are shared
//! out among the warps in sets whose tiles share what is read of the planes, and so may be the inputs.

use rabitc_rbx::SmArch;

use crate::cuda::kernels::rb_tokens::{RbTokens, TokenTile};
use crate::cuda::kernels::several_tokens::SeveralTokens;

/// Warps of a block that compute: four or two a scheduler.
const WARPS: [usize; 2] = [16, 8];
/// Shares of a block's inputs at most.
const MOST_PARTS: usize = 3;
/// Row tiles that share planes at most: what registers hold.
const MOST_AT_ONCE: usize = 4;
/// Schedulers of a multiprocessor.
pub(super) const SCHEDULERS: usize = 4;
/// Ways whose busiest scheduler has more than this many times its share are not tried.
const UNEVEN: f64 = 1.4;
/// Every way to cut `product` for as many of its tokens as fit `arch`; none if not even two do.
pub fn candidates(product: &RbTokens, arch: SmArch) -> Vec<RbTokens> {
    let mut product = product.clone();
    loop {
        let cuts = cuts(&product, arch);
        if !cuts.is_empty() || product.of.tokens <= 2 {
            return cuts;
        }
        product.of.tokens /= 2;
    }
}

fn cuts(product: &RbTokens, arch: SmArch) -> Vec<RbTokens> {
    let chunks = product.of.layout.input_tiles();
    let row_tiles = row_tiles(&product.of, blocks(arch, 1));
    let mut all = Vec::new();
    for warps in WARPS {
        for parts in 1..=MOST_PARTS.min(chunks) {
            for at_once in 1..=MOST_AT_ONCE {
                let tile = TokenTile {
                    row_tiles,
                    warps,
                    parts,
                    at_once,
                };
                all.push(RbTokens {
                    tile,
                    ..product.clone()
                });
            }
        }
    }
    all.retain(|p| p.shared_bytes() <= arch.shared_bytes());
    let mut fitting = all;
    let even: Vec<RbTokens> = fitting.iter().filter(|p| is_even(p)).cloned().collect();
    if !even.is_empty() {
        fitting = even;
    }
    fitting
}

/// Blocks that run at once, one a multiprocessor. Of large clusters, fewer can be placed.
pub(super) fn blocks(arch: SmArch, splits: usize) -> usize {
    match (arch.has_clusters(), splits) {
        (true, 4..) => 120,
        (true, _) => 132,
        (false, _) => 108,
    }
}

/// Row tiles by inputs of the busiest scheduler.
pub(super) fn busiest(product: &RbTokens) -> usize {
    let items = product.tile_sets() * product.tile.parts;
    items.div_ceil(SCHEDULERS) * product.part_chunks() * product.tile.at_once
}

fn is_even(product: &RbTokens) -> bool {
    let share = (product.tile.row_tiles * product.of.layout.input_tiles()).div_ceil(SCHEDULERS);
    busiest(product) as f64 <= share as f64 * UNEVEN
}

/// The fewest row tiles a cluster with which no more than `clusters` are needed.
pub(super) fn row_tiles(product: &SeveralTokens, clusters: usize) -> usize {
    let layout = &product.layout;
    let unit = if product.gated() { 2 } else { 1 };
    let segments = product.segment_clusters(1).len();
    let needed = |tiles: usize| product.segment_clusters(tiles).iter().sum::<usize>();
    let mut tiles = layout.row_tiles().div_ceil(clusters).next_multiple_of(unit);
    while tiles < layout.row_tiles() && needed(tiles) > clusters.max(segments) {
        tiles += unit;
    }
    tiles
}
