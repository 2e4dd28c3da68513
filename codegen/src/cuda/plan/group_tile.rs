//! The ways to cut a residual-binary product of several tokens among groups of warps.
//!
//! The blocks fill the card once, one a multiprocessor: every cluster makes planes of all its inputs
//! for itself. What differs is how much of a multiprocessor's shared memory a block takes for signs
//! under way: with half of it, the next kernel's blocks find room beside these and begin to fetch.

use rabitc_rbx::SmArch;

use super::token_tile::{blocks, row_tiles};
use crate::cuda::kernels::rb_tokens_wgmma::{GroupTile, RbTokensWgmma};

/// Blocks of a cluster; larger clusters are not portable, and smaller ones make more planes.
const SPLITS: [usize; 3] = [8, 4, 2];
/// Groups of a block at least; fewer do not keep the matrix units busy.
const FEWEST_GROUPS: usize = 2;
/// Row tiles that a warp has under way at most.
const MOST_SLOTS: usize = 8;
/// So many are tried one by one.
const FEW_SLOTS: usize = 3;
/// Bytes that the system takes of every block's shared memory.
const RESERVED: usize = 1 << 10;

/// Every way to cut `product` for as many of its tokens as fit `arch`; none if not even two do.
pub fn candidates(product: &RbTokensWgmma, arch: SmArch) -> Vec<RbTokensWgmma> {
    if !arch.has_clusters() {
        return Vec::new();
    }
    let mut product = product.clone();
    loop {
        let cuts = cuts(&product, arch);
        if !cuts.is_empty() || product.of.tokens <= 2 {
            return cuts;
        }
        product.of.tokens /= 2;
    }
}

fn cuts(product: &RbTokensWgmma, arch: SmArch) -> Vec<RbTokensWgmma> {
    let chunks = product.of.layout.input_tiles();
    let most = SPLITS.into_iter().find(|s| *s <= chunks).unwrap_or(1);
    let all_splits = SPLITS.into_iter().filter(|s| *s <= chunks);
    let all_splits = all_splits.chain((most == 1).then_some(1));
    let mut all = Vec::new();
    for splits in all_splits {
        let clusters = (blocks(arch, splits) / splits).max(1);
        let row_tiles = row_tiles(&product.of, clusters);
        for groups in FEWEST_GROUPS..=product.most_groups() {
            let tile = GroupTile {
                splits,
                row_tiles,
                groups,
                slots: 1,
            };
            let product = RbTokensWgmma {
                tile,
                ..product.clone()
            };
            all.extend(with_slots(&product, arch));
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
