//! The ways to cut a residual-binary product of several tokens among groups of warps.
//!
//! The blocks fill the card once, one a multiprocessor: every cluster makes planes of all its inputs
//! for itself. What differs is how much of a multiprocessor's shared memory a block takes for signs
//! under way: with half of it, the next kernel's blocks find room beside these and begin to fetch.

use rabitc_rbx::SmArch;

use super::cost::RESERVED;
use super::several_tokens::{blocks, of_most_tokens, row_tiles};
use crate::cuda::kernels::rb_tokens_wgmma::{GroupTile, RbTokensWgmma};
use crate::cuda::kernels::several_tokens::SeveralTokens;

/// Blocks of a cluster; larger clusters are not portable, and smaller ones make more planes.
const SPLITS: [usize; 3] = [8, 4, 2];
/// Groups of a block at least; fewer do not keep the matrix units busy.
const FEWEST_GROUPS: usize = 2;
/// Row tiles that a warp has under way at most.
const MOST_SLOTS: usize = 8;
/// So many are tried one by one.
const FEW_SLOTS: usize = 3;

/// Every way to cut `product` for as many of its tokens as fit `arch`; none if not even two do, and
/// where there are no clusters.
pub fn candidates(product: &RbTokensWgmma, arch: SmArch) -> Vec<RbTokensWgmma> {
    match arch.has_clusters() {
        true => of_most_tokens(&product.of, |of| cuts(of, arch)),
        false => Vec::new(),
    }
}

fn cuts(of: &SeveralTokens, arch: SmArch) -> Vec<RbTokensWgmma> {
    let chunks = of.layout.input_tiles();
    let mut all_splits: Vec<_> = SPLITS.into_iter().filter(|s| *s <= chunks).collect();
    if all_splits.is_empty() {
        all_splits.push(1);
    }
    let mut all = Vec::new();
    for splits in all_splits {
        let row_tiles = row_tiles(of, blocks(arch, splits) / splits);
        let tile = GroupTile {
            splits,
            row_tiles,
            ..GroupTile::UNCUT
        };
        let of = of.clone();
        let product = RbTokensWgmma { of, tile };
        for groups in FEWEST_GROUPS..=product.most_groups() {
            let tile = GroupTile { groups, ..tile };
            let of = product.of.clone();
            all.extend(with_slots(&RbTokensWgmma { of, tile }, arch));
        }
    }
    all
}

/// With so many signs under way: a few, as many as a block has room for, and as many as half of a
/// multiprocessor has room for.
fn with_slots(product: &RbTokensWgmma, arch: SmArch) -> Vec<RbTokensWgmma> {
    let rounds = product.rounds();
    let whole = arch.shared_bytes();
    let half = (whole + RESERVED) / 2 - RESERVED;
    let with = |slots: usize| {
        let tile = GroupTile {
            slots,
            ..product.tile
        };
        RbTokensWgmma {
            tile,
            ..product.clone()
        }
    };
    let fits = |bytes: usize| {
        let mut slots = (1..=rounds.min(MOST_SLOTS)).rev();
        slots.find(|slots| with(*slots).shared_bytes() <= bytes)
    };
    let Some(most) = fits(whole) else {
        return Vec::new();
    };
    let mut slots: Vec<usize> = (1..=most.min(FEW_SLOTS)).collect();
    slots.push(most);
    slots.extend(fits(half));
    slots.sort_unstable();
    slots.dedup();
    slots.into_iter().map(with).collect()
}
