//! One cycle of the iterative fit: all output scales, then all input scales.
//!
//! With the signs held, the fit of path i to `(W - sum of the other paths) * B_i` is linear in
//! `g_i` for given `h_i` and the other way round. A row's output scales therefore solve a K x K
//! least-squares problem that involves no other row, and a column's input scales one that involves
//! no other column. A cycle solves both for all paths at once, deriving the signs again before
//! each, in a single sweep over the matrix. It rests exactly where the path-by-path rank-1 fits do.

use rayon::prelude::*;

use super::chunk::map_rows;
use super::quadratic::{Quadratic, minimise};
use super::state::{State, round_f16};
use super::tile::{LANES, Lane, SEGMENT, accumulate, for_tiles, residual_in, residual_out, total};

/// Rows whose part of a column segment's sums is added while the segment is in cache.
const GROUP: usize = 16;

/// What a chunk of rows adds to the columns' least-squares problems.
struct Part<const K: usize> {
    /// The chunk's new output scales.
    g: Vec<[f32; K]>,
    /// Squared error of its rows before the cycle.
    error: f64,
    /// By tile: sum over rows of `sign * g * residual`.
    slope: Vec<[Lane; K]>,
    /// By tile and pair of paths: sum over rows of the products of the two `sign * g`.
    cross: Vec<Lane>,
}

/// Squared Frobenius error of `state`, and the state one cycle later.
pub(super) fn cycle<const K: usize>(w: &[f32], state: &State<K>) -> (f64, State<K>) {
    let norms = input_norms(state);
    let parts = map_rows(w, state.d_in, |first, rows| {
        part(rows, &state.g[first..], state, &norms)
    });
    let error = parts.iter().map(|part| part.error).sum();
    let g: Vec<[f32; K]> = parts
        .iter()
        .flat_map(|part| part.g.iter().copied())
        .collect();
    let norms = output_norms(&g);
    let h = (0..state.h.len())
        .into_par_iter()
        .map(|t| refit_columns(&state.h[t], &norms, &parts, t))
        .collect();
    (
        error,
        State {
            d_in: state.d_in,
            g,
            h,
        },
    )
}

/// Squared length of each path's input scales.
fn input_norms<const K: usize>(state: &State<K>) -> [f64; K] {
    let mut sums = [0.0; K];
    for tile in &state.h {
        for (sum, h) in sums.iter_mut().zip(tile) {
            *sum += h.iter().map(|&h| f64::from(h).powi(2)).sum::<f64>();
        }
    }
    sums
}

/// Squared length of each path's output scales.
fn output_norms<const K: usize>(g: &[[f32; K]]) -> [f64; K] {
    let mut sums = [0.0; K];
    for row in g {
        for (sum, &g) in sums.iter_mut().zip(row) {
            *sum += f64::from(g).powi(2);
        }
    }
    sums
}

/// New output scales for a chunk of rows, and what those rows ask of the input scales.
fn part<const K: usize>(
    rows: &[f32],
    g: &[[f32; K]],
    state: &State<K>,
    norms: &[f64; K],
) -> Part<K> {
    let (d_in, h) = (state.d_in, &state.h);
    let pairs = K * (K - 1) / 2;
    let mut part = Part {
        g: Vec::with_capacity(rows.len() / d_in),
        error: 0.0,
        slope: vec![[[0.0; LANES]; K]; h.len()],
        cross: vec![[0.0; LANES]; h.len() * pairs],
    };
    for (rows, g) in rows.chunks(GROUP * d_in).zip(g.chunks(GROUP)) {
        let done = part.g.len();
        for (row, g) in rows.chunks_exact(d_in).zip(g) {
            let (error, g) = refit_row(row, g, h, norms);
            part.error += error;
            part.g.push(g);
        }
        for s in 0..h.len().div_ceil(SEGMENT) {
            let tiles = s * SEGMENT..h.len().min((s + 1) * SEGMENT);
            let slope = &mut part.slope[tiles.clone()];
            let cross = &mut part.cross[tiles.start * pairs..tiles.end * pairs];
            let columns = tiles.start * LANES..d_in.min(tiles.end * LANES);
            for (row, g) in rows.chunks_exact(d_in).zip(&part.g[done..]) {
                add_row(&row[columns.clone()], g, &h[tiles.clone()], slope, cross);
            }
        }
    }
    part
}

/// A row's squared error under its present output scales, and its best output scales.
fn refit_row<const K: usize>(
    row: &[f32],
    g: &[f32; K],
    h: &[[Lane; K]],
    norms: &[f64; K],
) -> (f64, [f32; K]) {
    let mut problem = Quadratic::new(norms);
    let mut error = 0.0;
    for (row, h) in row.chunks(SEGMENT * LANES).zip(h.chunks(SEGMENT)) {
        let mut square = [0.0; LANES];
        let mut slope = [[0.0; LANES]; K];
        let mut cross = [[[0.0; LANES]; K]; K];
        for_tiles(row, |t, w| {
            let (r, u) = residual_in(w, g, &h[t]);
            accumulate(&mut square, &r, &r);
            for i in 0..K {
                accumulate(&mut slope[i], &u[i], &r);
                for j in 0..i {
                    accumulate(&mut cross[i][j], &u[i], &u[j]);
                }
            }
        });
        error += total(&square);
        for (i, (slope, cross)) in slope.iter().zip(&cross).enumerate() {
            problem.slope[i] += total(slope);
            for (j, cross) in cross.iter().enumerate().take(i) {
                problem.add_cross(i, j, total(cross));
            }
        }
    }
    (error, minimise(problem, g).map(round_f16))
}

/// Adds one row of a column segment to that segment's sums.
fn add_row<const K: usize>(
    row: &[f32],
    g: &[f32; K],
    h: &[[Lane; K]],
    slope: &mut [[Lane; K]],
    cross: &mut [Lane],
) {
    let pairs = K * (K - 1) / 2;
    for_tiles(row, |t, w| {
        let (r, v) = residual_out(w, g, &h[t]);
        let (slope, cross) = (&mut slope[t], &mut cross[t * pairs..(t + 1) * pairs]);
        for i in 0..K {
            accumulate(&mut slope[i], &v[i], &r);
            for j in 0..i {
                accumulate(&mut cross[pair(i, j)], &v[i], &v[j]);
            }
        }
    });
}

/// Place of the pair `(i, j)`, `j < i`, among all pairs.
#[inline(always)]
const fn pair(i: usize, j: usize) -> usize {
    i * (i - 1) / 2 + j
}

/// New input scales of tile `t`. Padding has no residual, so its scales stay zero.
fn refit_columns<const K: usize>(
    h: &[Lane; K],
    norms: &[f64; K],
    parts: &[Part<K>],
    t: usize,
) -> [Lane; K] {
    let pairs = K * (K - 1) / 2;
    let mut next = [[0.0; LANES]; K];
    for l in 0..LANES {
        let mut problem = Quadratic::new(norms);
        for part in parts {
            for i in 0..K {
                problem.slope[i] += f64::from(part.slope[t][i][l]);
                for j in 0..i {
                    problem.add_cross(i, j, f64::from(part.cross[t * pairs + pair(i, j)][l]));
                }
            }
        }
        let solved = minimise(problem, &h.map(|h| h[l]));
        for (next, h) in next.iter_mut().zip(solved) {
            next[l] = round_f16(h);
        }
    }
    next
}
