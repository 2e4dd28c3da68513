//! How the rows of a matrix are shared out.
//!
//! The chunks depend on the shape alone and their results come back in order, so that sums over
//! them are the same bits whatever the number of threads.

use rayon::prelude::*;

/// Most chunks a matrix is cut into: bounds the partial column sums that are alive at once.
const MAX_CHUNKS: usize = 64;

/// Fewest rows a chunk has: keeps the partial column sums small against the rows they come from.
const MIN_ROWS: usize = 64;

/// Runs `f(first row, the chunk's rows)` on every chunk of the row-major matrix `w` in parallel;
/// results in row order.
pub(super) fn map_rows<T: Send>(
    w: &[f32],
    d_in: usize,
    f: impl Fn(usize, &[f32]) -> T + Sync,
) -> Vec<T> {
    let d_out = w.len() / d_in;
    let rows = d_out.div_ceil(MAX_CHUNKS).max(MIN_ROWS).min(d_out);
    w.par_chunks(rows * d_in)
        .enumerate()
        .map(|(c, block)| f(c * rows, block))
        .collect()
}
