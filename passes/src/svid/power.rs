//! The leading singular pair of `|R|`, by power iteration.
//!
//! `|R|` has no negative entry, so neither has its leading pair (Perron and Frobenius), and a
//! start with every entry positive cannot be orthogonal to it. The residual is never stored: it
//! is derived again from the weights, row by row, in each sweep.

use super::chunk::map_rows;
use super::state::State;
use super::tile::{LANES, Lane, SEGMENT, accumulate, for_tiles, residual_abs, total};

/// Most sweeps over the matrix; only near-equal leading singular values take that many.
const MAX_SWEEPS: usize = 64;

/// Change of the right vector, relative to its length, below which it counts as found: well under
/// the rounding of f16.
const TOLERANCE: f64 = 1e-5;

/// Non-negative `(u, v)` with `u v^T` the best rank-1 approximation of the magnitude of what the
/// first `done` paths of `state` leave of `w`; both have length `sqrt(sigma)`.
///
/// All zeros if nothing is left. Not finite if the weights overflow f32 sums.
pub(super) fn leading_pair<const K: usize>(
    w: &[f32],
    state: &State<K>,
    done: usize,
) -> (Vec<f32>, Vec<f32>) {
    let d_in = state.d_in;
    let mut v = vec![(d_in as f32).sqrt().recip(); d_in];
    for sweep in 1..=MAX_SWEEPS {
        let (u, mut next) = multiply(w, state, done, &v);
        let (u_len, v_len) = (length(&u), length(&next));
        let sigma = v_len / u_len;
        if !(sigma > 0.0 && sigma.is_finite()) {
            let fill = if u_len == 0.0 { 0.0 } else { f32::NAN };
            return (vec![fill; u.len()], vec![fill; d_in]);
        }
        scale(&mut next, 1.0 / v_len);
        let moved = v
            .iter()
            .zip(&next)
            .map(|(&a, &b)| f64::from(a - b).powi(2))
            .sum::<f64>()
            .sqrt();
        v = next;
        if moved <= TOLERANCE || sweep == MAX_SWEEPS {
            let mut u = u;
            scale(&mut u, sigma.sqrt() / u_len);
            scale(&mut v, sigma.sqrt());
            return (u, v);
        }
    }
    unreachable!("the last sweep returns")
}

/// `u = |R| v` and `|R|^T u` in one pass over the rows.
fn multiply<const K: usize>(
    w: &[f32],
    state: &State<K>,
    done: usize,
    v: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let v = tiles_of(v);
    let parts = map_rows(w, state.d_in, |first, rows| {
        multiply_rows(rows, &state.g[first..], state, done, &v)
    });
    let mut sums = vec![0.0f64; v.len() * LANES];
    let mut u = Vec::with_capacity(state.g.len());
    for (part, columns) in parts {
        u.extend(part);
        for (sum, column) in sums.iter_mut().zip(columns.as_flattened()) {
            *sum += f64::from(*column);
        }
    }
    sums.truncate(state.d_in);
    (u, sums.into_iter().map(|x| x as f32).collect())
}

/// One chunk's share of [`multiply`]: its entries of `u` and its part of every column's sum.
fn multiply_rows<const K: usize>(
    rows: &[f32],
    g: &[[f32; K]],
    state: &State<K>,
    done: usize,
    v: &[Lane],
) -> (Vec<f32>, Vec<Lane>) {
    let mut columns = vec![[0.0; LANES]; v.len()];
    let mut magnitude = columns.clone();
    let u = rows.chunks_exact(state.d_in).zip(g).map(|(row, g)| {
        for_tiles(row, |t, w| {
            magnitude[t] = residual_abs(w, g, &state.h[t], done)
        });
        let u = dot(&magnitude, v) as f32;
        for (column, m) in columns.iter_mut().zip(&magnitude) {
            accumulate(column, m, &[u; LANES]);
        }
        u
    });
    let u = u.collect();
    (u, columns)
}

/// Inner product; long sums are in f64.
fn dot(a: &[Lane], b: &[Lane]) -> f64 {
    let mut sum = 0.0;
    for (a, b) in a.chunks(SEGMENT).zip(b.chunks(SEGMENT)) {
        let mut part = [0.0; LANES];
        a.iter()
            .zip(b)
            .for_each(|(a, b)| accumulate(&mut part, a, b));
        sum += total(&part);
    }
    sum
}

/// `v` cut into tiles, the last filled up with zeros.
fn tiles_of(v: &[f32]) -> Vec<Lane> {
    let mut tiles = Vec::with_capacity(v.len().div_ceil(LANES));
    for_tiles(v, |_, tile| tiles.push(tile));
    tiles
}

/// Euclidean length.
fn length(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// `x <- by * x`.
fn scale(x: &mut [f32], by: f64) {
    x.iter_mut().for_each(|x| *x = (f64::from(*x) * by) as f32);
}
