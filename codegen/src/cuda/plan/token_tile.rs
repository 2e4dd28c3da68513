//! The ways to cut a residual-binary product of several tokens that fit an architecture without clusters.
//!
//! The blocks fill the card once, one a multiprocessor: what several tokens take is arithmetic, and
//! two blocks on one multiprocessor would take twice as long while others idle. Row tiles are shared
//! out among the warps in sets whose tiles share what is read of the planes, and so may be the inputs.

use rabitc_rbx::SmArch;

use super::cost::SCHEDULERS;
use super::several_tokens::{blocks, of_most_tokens, row_tiles};
use crate::cuda::kernels::rb_tokens::{RbTokens, TokenTile};
use crate::cuda::kernels::several_tokens::SeveralTokens;

/// Warps of a block that compute: four or two a scheduler.
const WARPS: [usize; 2] = [16, 8];
/// Shares of a block's inputs at most.
const MOST_PARTS: usize = 3;
/// Row tiles that share planes at most: what registers hold.
const MOST_AT_ONCE: usize = 4;
/// Ways whose busiest scheduler has more than this many times its share are not tried.
const UNEVEN: f64 = 1.4;

/// Every way to cut `product` for as many of its tokens as fit `arch`; none if not even two do, and where
/// kernels of a chain overlap, which this one is not made for.
pub fn candidates(product: &RbTokens, arch: SmArch) -> Vec<RbTokens> {
    match arch.has_clusters() {
        true => Vec::new(),
        false => of_most_tokens(&product.of, |of| cuts(of, arch)),
    }
}

fn cuts(of: &SeveralTokens, arch: SmArch) -> Vec<RbTokens> {
    let row_tiles = row_tiles(of, blocks(arch, 1));
    let mut fitting = Vec::new();
    for warps in WARPS {
        for parts in 1..=MOST_PARTS.min(of.layout.input_tiles()) {
            for at_once in 1..=MOST_AT_ONCE {
                let tile = TokenTile {
                    row_tiles,
                    warps,
                    parts,
                    at_once,
                };
                let of = of.clone();
                fitting.push(RbTokens { of, tile });
            }
        }
    }
    fitting.retain(|p| p.shared_bytes() <= arch.shared_bytes());
    if fitting.iter().any(is_even) {
        fitting.retain(is_even);
    }
    fitting
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
