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
/// Groups of a block.
const GROUPS: [usize; 2] = [2, 3];
/// Shares of a block's inputs at most.
const MOST_PARTS: usize = 2;
/// Row tiles that a warp has under way at most.
const MOST_SLOTS: usize = 8;
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
        if !cuts.is_empty() || product.tokens <= 2 {
            return cuts;
        }
        product.tokens /= 2;
    }
}

fn cuts(product: &RbTokensWgmma, arch: SmArch) -> Vec<RbTokensWgmma> {
    let chunks = product.layout.input_tiles();
    let most = SPLITS.into_iter().find(|s| *s <= chunks).unwrap_or(1);
    let all_splits = SPLITS.into_iter().filter(|s| *s <= chunks);
    let all_splits = all_splits.chain((most == 1).then_some(1));
    let mut all = Vec::new();
    for splits in all_splits {
        let clusters = (blocks(arch, splits) / splits).max(1);
        let row_tiles = row_tiles(&product.layout, product.gated(), clusters);
        for groups in GROUPS {
            for parts in 1..=MOST_PARTS.min(chunks.div_ceil(splits)) {
                let tile = GroupTile {
                    splits,
                    row_tiles,
                    groups,
                    parts,
                    slots: 1,
                };
                let product = RbTokensWgmma {
                    tile,
                    ..product.clone()
                };
                all.extend(with_slots(&product, arch));
            }
        }
    }
    all
}

/// With as many signs under way as a block has room for, and as half of a multiprocessor has.
fn with_slots(product: &RbTokensWgmma, arch: SmArch) -> Vec<RbTokensWgmma> {
    let rounds = product.rounds();
    let whole = arch.shared_bytes();
    let half = (whole + RESERVED) / 2 - RESERVED;
    let most = |bytes: usize| {
        let slots = (1..=rounds.min(MOST_SLOTS)).rev();
        let mut cuts = slots.map(|slots| {
            let tile = GroupTile {
                slots,
                ..product.tile
            };
            RbTokensWgmma {
                tile,
                ..product.clone()
            }
        });
        cuts.find(|p| p.shared_bytes() <= bytes)
    };
    let (all, beside) = (most(whole), most(half));
    match all == beside {
        true => all.into_iter().collect(),
        false => all.into_iter().chain(beside).collect(),
    }
}
