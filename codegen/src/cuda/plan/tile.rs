//! How a residual-binary product of a few tokens is cut, chosen without a GPU.
//!
//! Each block should read about the same number of bytes, and the blocks should fill the card once:
//! a second wave would wait for the first. More splits mean less quantisation a block, since a block
//! quantises only its share of the inputs. What a warp has in flight is bounded so that the next
//! kernel's block fits into the shared memory beside this one's.

use rabitc_rbx::SmArch;

use crate::cuda::kernels::rb_product::{Finish, RbProduct, Tile};
use crate::cuda::layout::TILE_BYTES;

/// Blocks of a cluster at most; larger clusters are not portable.
const MOST_SPLITS: usize = 8;
/// Blocks that large cards run at once when clusters of 8 are placed, one a multiprocessor.
const BLOCKS: usize = 128;
/// Bytes of signs that a block may have in flight.
const IN_FLIGHT: usize = 96 << 10;
/// Bytes of shared memory that leave room for a second block.
const BESIDE: usize = 112 << 10;
/// Warps of a block at most.
const MOST_WARPS: usize = 16;

/// Fills in tile and tokens of `product` so that it runs on `arch`; `None` if nothing fits.
pub fn choose(mut product: RbProduct, arch: SmArch) -> Option<RbProduct> {
    let chunks = product.layout.input_tiles();
    let mut splits = if arch.has_clusters() { MOST_SPLITS } else { 1 };
    while splits > chunks {
        splits /= 2;
    }
    let unit = if matches!(product.finish, Finish::Gate(_)) {
        2
    } else {
        1
    };
    let row_tiles = row_tiles(&product, unit, (BLOCKS / splits).max(1));
    let slot = chunks.div_ceil(splits) * product.layout.stored.paths * TILE_BYTES;
    // An even number, so that a warp's row tiles are all of one segment where two are paired.
    let mut warps = row_tiles.next_power_of_two().clamp(4, MOST_WARPS);
    while warps > 2 && warps * slot > IN_FLIGHT {
        warps /= 2;
    }
    let slots = row_tiles
        .div_ceil(warps)
        .min((IN_FLIGHT / (warps * slot)).max(1));
    product.tile = Tile {
        splits,
        row_tiles,
        warps,
        slots,
    };
    // The block of the next kernel needs room beside this one.
    while product.tile.slots > 1 && product.shared_bytes(arch) > BESIDE {
        product.tile.slots -= 1;
    }
    while product.shared_bytes(arch) > arch.shared_bytes() {
        if product.tokens == 1 {
            return None;
        }
        product.tokens /= 2;
    }
    Some(product)
}

/// The fewest row tiles a cluster with which no more than `clusters` are needed.
fn row_tiles(product: &RbProduct, unit: usize, clusters: usize) -> usize {
    let layout = &product.layout;
    let segments: Vec<usize> = match unit {
        2 => vec![layout.row_tiles()],
        _ => (0..layout.stored.segments.len())
            .map(|s| layout.segment_tiles(s))
            .collect(),
    };
    let mut tiles = layout.row_tiles().div_ceil(clusters).next_multiple_of(unit);
    while tiles < layout.row_tiles()
        && segments.iter().map(|s| s.div_ceil(tiles)).sum::<usize>() > clusters.max(segments.len())
    {
        tiles += unit;
    }
    tiles
}
