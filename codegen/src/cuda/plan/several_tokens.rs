//! What the ways to cut a product of several tokens have in common, with clusters and without.

use rabitc_rbx::SmArch;

use super::product::{Rounding, Task};
use crate::cuda::kernels::several_tokens::SeveralTokens;

/// The `cuts` of a product for as many of its tokens as fit, halved until some do; none if not even two do.
pub(super) fn of_most_tokens<C>(
    of: &SeveralTokens,
    cuts: impl Fn(&SeveralTokens) -> Vec<C>,
) -> Vec<C> {
    let mut of = of.clone();
    loop {
        let found = cuts(&of);
        if !found.is_empty() || of.tokens <= 2 {
            return found;
        }
        of.tokens /= 2;
    }
}

/// Blocks that run at once, one a multiprocessor. Of large clusters, fewer can be placed.
pub(super) fn blocks(arch: SmArch, splits: usize) -> usize {
    match (arch.has_clusters(), splits) {
        (true, 4..) => 120,
        (true, _) => 132,
        (false, _) => 108,
    }
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

/// What a product of several tokens computes.
pub(super) fn task(of: &SeveralTokens) -> Task {
    Task {
        layout: of.layout.clone(),
        tokens: of.tokens,
        rounding: Rounding::Planes(of.planes),
        x_stride: of.x_stride,
        norm: of.norm,
        gate: of.finish.gate(),
        residual: of.finish.residual(),
        columns: of.width(),
    }
}
