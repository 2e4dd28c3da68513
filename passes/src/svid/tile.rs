//! The arithmetic on one tile of a row: fixed-width arrays that the compiler turns into vectors.
//!
//! The width is part of the result: sums are taken lane by lane, so changing [`LANES`] changes
//! rounding. The residuals are not a matter of rounding: the product of two f16 values is exact in
//! f32, so every order of `r - (g * h) * sign`, contracted or not, gives the same bits.

use super::state::State;

/// Columns in a tile.
pub(super) const LANES: usize = 8;

/// Tiles whose sums are kept in f32 before they are added to an f64 total.
pub(super) const SEGMENT: usize = 64;

/// One tile of a row.
pub(super) type Lane = [f32; LANES];

/// The residual after all `K` paths, and each path's `sign * h`.
///
/// Follows `r <- r - (g * h) * sign(r)` path by path; a zero of either sign counts as positive.
#[inline(always)]
pub(super) fn residual_in<const K: usize>(
    w: Lane,
    g: &[f32; K],
    h: &[Lane; K],
) -> (Lane, [Lane; K]) {
    let (mut r, mut signed) = (w, *h);
    for (&g, h) in g.iter().zip(&mut signed) {
        for l in 0..LANES {
            let v = if r[l] >= 0.0 { h[l] } else { -h[l] };
            r[l] -= g * v;
            h[l] = v;
        }
    }
    (r, signed)
}

/// The residual after all `K` paths, and each path's `sign * g`.
#[inline(always)]
pub(super) fn residual_out<const K: usize>(
    w: Lane,
    g: &[f32; K],
    h: &[Lane; K],
) -> (Lane, [Lane; K]) {
    let (mut r, mut signed) = (w, [[0.0; LANES]; K]);
    for i in 0..K {
        for l in 0..LANES {
            let v = if r[l] >= 0.0 { g[i] } else { -g[i] };
            r[l] -= v * h[i][l];
            signed[i][l] = v;
        }
    }
    (r, signed)
}

/// Magnitude of the residual after the first `done` paths.
#[inline(always)]
pub(super) fn residual_abs<const K: usize>(
    w: Lane,
    g: &[f32; K],
    h: &[Lane; K],
    done: usize,
) -> Lane {
    let mut r = w;
    for (&g, h) in g.iter().zip(h).take(done) {
        for l in 0..LANES {
            let p = g * h[l];
            r[l] -= if r[l] >= 0.0 { p } else { -p };
        }
    }
    r.map(f32::abs)
}

/// `acc += a * b`, lane by lane.
#[inline(always)]
pub(super) fn accumulate(acc: &mut Lane, a: &Lane, b: &Lane) {
    for l in 0..LANES {
        acc[l] += a[l] * b[l];
    }
}

/// Sum over the lanes, in f64.
#[inline(always)]
pub(super) fn total(lane: &Lane) -> f64 {
    lane.iter().map(|&x| f64::from(x)).sum()
}

/// Calls `f(tile index, tile)` for every tile of `row`; the last one is filled up with zeros.
#[inline(always)]
pub(super) fn for_tiles(row: &[f32], mut f: impl FnMut(usize, Lane)) {
    let (tiles, rest) = row.as_chunks::<LANES>();
    for (t, tile) in tiles.iter().enumerate() {
        f(t, *tile);
    }
    if !rest.is_empty() {
        let mut tile = [0.0; LANES];
        tile[..rest.len()].copy_from_slice(rest);
        f(tiles.len(), tile);
    }
}

/// Squared Frobenius norm of what one row leaves after all paths.
pub(super) fn row_error<const K: usize>(row: &[f32], g: &[f32; K], h: &[[Lane; K]]) -> f64 {
    let mut error = 0.0;
    for (row, h) in row.chunks(SEGMENT * LANES).zip(h.chunks(SEGMENT)) {
        let mut sum = [0.0; LANES];
        for_tiles(row, |t, w| {
            let (r, _) = residual_in(w, g, &h[t]);
            accumulate(&mut sum, &r, &r);
        });
        error += total(&sum);
    }
    error
}

/// Squared Frobenius norm of `W` less its approximation by `state`.
pub(super) fn error_of<const K: usize>(w: &[f32], state: &State<K>) -> f64 {
    super::chunk::map_rows(w, state.d_in, |first, rows| {
        let g = &state.g[first..];
        rows.chunks_exact(state.d_in)
            .zip(g)
            .map(|(row, g)| row_error(row, g, &state.h))
            .sum::<f64>()
    })
    .iter()
    .sum()
}
