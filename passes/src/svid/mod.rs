//! The fit that turns a dense weight into residual-binary scales.
//!
//! With `R_0 = W`, path i has signs `B_i = sign(R_{i-1})`, `sign(0) = +1`, and leaves
//! `R_i = R_{i-1} - diag(g_i) B_i diag(h_i)`. The signs follow from the weight and the scales, so
//! only the scales are returned: whoever needs the signs derives them in the same order, in f32,
//! as `r - (g * h) * sign`, from the scales as rounded to f16. Every step of the fit does the
//! same, which is why the hierarchy holds exactly for what is returned.
//!
//! The fit reads the weight a few dozen times, row by row, and keeps no copy of it. It knows
//! nothing of graphs, names or files.

mod alternate;
mod chunk;
mod error;
mod power;
mod quadratic;
mod state;
#[cfg(test)]
mod tests;
mod tile;

use half::f16;
use rayon::prelude::*;

pub use error::FitError;
use state::State;

/// Most residual-binary paths a matrix can have.
pub const MAX_PATHS: usize = 8;

/// Largest weight, unless all are zero, below which no scale is a normal f16 number.
const MIN_MAX_ABS: f32 = 1.0 / (1u32 << 30) as f32;

/// How the scales are fitted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Path by path: `(g_i, h_i)` is the best rank-1 fit of `|R_{i-1}|`, its leading singular pair.
    Greedy,
    /// Greedy, then cycles in which every path is fitted again to what all others leave, with the
    /// signs derived afresh in each; the cycle with the smallest Frobenius error is kept.
    Iterative {
        /// Cycles.
        iters: u32,
    },
}

/// Scales of all paths, rounded to f16; never negative, always finite.
#[derive(Clone, Debug, PartialEq)]
pub struct Scales {
    /// Output scales `[paths, d_out]`, row-major.
    pub g: Vec<f16>,
    /// Input scales `[paths, d_in]`, row-major.
    pub h: Vec<f16>,
}

/// Fits the scales of `paths` residual-binary paths (1 to [`MAX_PATHS`]) to the row-major
/// `[d_out, d_in]` weight `w`.
///
/// The result does not depend on the number of threads. A row or column of zeros gets zero scales.
///
/// # Errors
/// If a dimension is zero or does not fit `w`, the number of paths is out of range, a weight is
/// not finite, or the scales do not fit f16.
pub fn fit_scales(
    w: &[f32],
    d_out: usize,
    d_in: usize,
    paths: usize,
    init: Init,
) -> Result<Scales, FitError> {
    if w.is_empty() || d_out.checked_mul(d_in) != Some(w.len()) {
        return Err(FitError::Shape {
            d_out,
            d_in,
            len: w.len(),
        });
    }
    let fit = match paths {
        1 => fit::<1>,
        2 => fit::<2>,
        3 => fit::<3>,
        4 => fit::<4>,
        5 => fit::<5>,
        6 => fit::<6>,
        7 => fit::<7>,
        8 => fit::<8>,
        _ => {
            return Err(FitError::Paths {
                paths,
                max: MAX_PATHS,
            });
        }
    };
    let max_abs = max_abs(w, d_in)?;
    if max_abs > 0.0 && max_abs < MIN_MAX_ABS {
        return Err(FitError::ScaleUnderflow { max_abs });
    }
    fit(w, d_in, max_abs, init)
}

/// [`fit_scales`] for a checked matrix and a number of paths known to the compiler.
fn fit<const K: usize>(
    w: &[f32],
    d_in: usize,
    max_abs: f32,
    init: Init,
) -> Result<Scales, FitError> {
    let start = greedy::<K>(w, d_in, max_abs)?;
    let best = match init {
        Init::Greedy => start,
        Init::Iterative { iters } => iterate(w, start, iters),
    };
    Ok(best.into_scales())
}

/// The greedy fit: each path from the residual of the rounded paths before it.
fn greedy<const K: usize>(w: &[f32], d_in: usize, max_abs: f32) -> Result<State<K>, FitError> {
    let mut state = State::zero(w.len() / d_in, d_in);
    for path in 0..K {
        let (u, v) = power::leading_pair(w, &state, path);
        let factor = state::balance(&u, &v, path, max_abs)?;
        state.set_path(path, &u, &v, factor);
    }
    Ok(state)
}

/// The best of `start` and the states `iters` cycles lead through.
fn iterate<const K: usize>(w: &[f32], start: State<K>, iters: u32) -> State<K> {
    let (mut best, mut least) = (start.clone(), f64::INFINITY);
    let mut state = start;
    for _ in 0..iters {
        let (error, next) = alternate::cycle(w, &state);
        if error < least {
            (best, least) = (state, error);
        }
        state = next;
    }
    if tile::error_of(w, &state) < least {
        state
    } else {
        best
    }
}

/// Largest magnitude in `w`, or the first weight that is not finite.
fn max_abs(w: &[f32], d_in: usize) -> Result<f32, FitError> {
    const BLOCK: usize = 1 << 16;
    let peaks: Vec<f32> = w
        .par_chunks(BLOCK)
        .map(|block| {
            block.iter().fold(0.0, |a: f32, &x| {
                if x.is_finite() {
                    a.max(x.abs())
                } else {
                    f32::INFINITY
                }
            })
        })
        .collect();
    if let Some(block) = peaks.iter().position(|peak| peak.is_infinite()) {
        let mut from = w.iter().enumerate().skip(block * BLOCK);
        if let Some((at, &value)) = from.find(|(_, x)| !x.is_finite()) {
            return Err(FitError::NonFinite {
                row: at / d_in,
                col: at % d_in,
                value,
            });
        }
    }
    Ok(peaks.into_iter().fold(0.0, f32::max))
}
