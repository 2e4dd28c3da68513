//! The scales while they are being fitted: always values that f16 holds exactly.
//!
//! Keeping them rounded at every step means that each error measured is the error of scales that
//! could be written out as they stand.

use half::f16;

use super::tile::{LANES, Lane};
use super::{FitError, Scales};

/// Binary exponents between which scales are placed if their dynamic range allows: normal f16
/// numbers, with room above for later cycles to move them.
const BOTTOM: i32 = -14;
const TOP: i32 = 14;

/// Scales of `K` paths, arranged for sweeps over rows.
#[derive(Clone)]
pub(super) struct State<const K: usize> {
    /// Columns of the matrix; `h` is padded with zeros to whole tiles.
    pub(super) d_in: usize,
    /// Output scales, by row.
    pub(super) g: Vec<[f32; K]>,
    /// Input scales, by tile of columns.
    pub(super) h: Vec<[Lane; K]>,
}

impl<const K: usize> State<K> {
    /// All scales zero.
    pub(super) fn zero(d_out: usize, d_in: usize) -> Self {
        let tiles = d_in.div_ceil(LANES);
        Self {
            d_in,
            g: vec![[0.0; K]; d_out],
            h: vec![[[0.0; LANES]; K]; tiles],
        }
    }

    /// Puts the pair `(u, v)` in as path `i`, rounded to f16.
    pub(super) fn set_path(&mut self, i: usize, u: &[f32], v: &[f32], by: f32) {
        for (g, &u) in self.g.iter_mut().zip(u) {
            g[i] = round_f16(u * by);
        }
        for (h, v) in self.h.iter_mut().zip(v.chunks(LANES)) {
            for (h, &v) in h[i].iter_mut().zip(v) {
                *h = round_f16(v / by);
            }
        }
    }

    /// The scales as they are handed out.
    pub(super) fn into_scales(self) -> Scales {
        let g = (0..K)
            .flat_map(|i| self.g.iter().map(move |g| f16::from_f32(g[i])))
            .collect();
        let h = (0..K)
            .flat_map(|i| self.h.iter().flat_map(move |h| h[i]).take(self.d_in))
            .map(f16::from_f32)
            .collect();
        Scales { g, h }
    }
}

/// Nearest f16 value, held at the largest finite one.
pub(super) fn round_f16(x: f32) -> f32 {
    f16::from_f32(x.min(f16::MAX.to_f32())).to_f32()
}

/// The factor `c` that makes `(c * g, h / c)` fit f16, for non-negative `g` and `h`.
///
/// Both get about the same largest value, unless moving them apart keeps all of both among the
/// normal numbers. The largest `h / c` is a power of two, so that a matrix with one magnitude per
/// row keeps it to the last bit of `g`.
///
/// # Errors
/// [`FitError::ScaleOverflow`] where even the best split is too large for f16, and
/// [`FitError::ScaleUnderflow`] where the first path is too small for it: later paths only correct
/// it and may vanish.
pub(super) fn balance(g: &[f32], h: &[f32], path: usize, max_abs: f32) -> Result<f32, FitError> {
    let (g_max, h_max) = (largest(g), largest(h));
    if g_max == 0.0 || h_max == 0.0 {
        return Ok(1.0);
    }
    let (g_hi, h_hi) = (exponent(g_max), exponent(h_max));
    let (g_lo, h_lo) = (exponent(smallest(g)), exponent(smallest(h)));
    let least = (g_hi + h_hi + 1 - TOP).max(h_hi - h_lo + 1 + BOTTOM);
    let most = (g_lo + h_hi - BOTTOM).min(TOP);
    let even = (g_hi + h_hi + 1).div_euclid(2);
    let h_exponent = if least <= most {
        even.clamp(least, most)
    } else {
        even
    };
    let h_peak = 2f32.powi(h_exponent.clamp(-64, 64));
    let factor = h_max / h_peak;
    let g_peak = g_max * factor;
    if g_peak.max(h_peak) > f16::MAX.to_f32() {
        return Err(FitError::ScaleOverflow { path, max_abs });
    }
    if path == 0 && g_peak.min(h_peak) < f16::MIN_POSITIVE.to_f32() {
        return Err(FitError::ScaleUnderflow { max_abs });
    }
    Ok(factor)
}

/// Largest value; infinite if any value is not a number.
fn largest(x: &[f32]) -> f32 {
    x.iter().fold(
        0.0,
        |a: f32, &v| if v.is_nan() { f32::INFINITY } else { a.max(v) },
    )
}

/// Smallest value above zero.
fn smallest(x: &[f32]) -> f32 {
    x.iter()
        .filter(|&&v| v > 0.0)
        .fold(f32::INFINITY, |a, &v| a.min(v))
}

/// Exponent `e` of a positive `x` in `[2^e, 2^(e+1))`.
fn exponent(x: f32) -> i32 {
    // Only the order of magnitude matters, so all subnormal numbers may share one exponent.
    (x.to_bits() >> 23) as i32 - 127
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_evenly_with_a_power_of_two_on_top() {
        let c = balance(&[3e4, 1.0], &[1e-3, 3e-3], 0, 1.0).unwrap();
        assert!([4.0, 8.0, 16.0].contains(&(3e-3 / c)), "{}", 3e-3 / c);
    }

    #[test]
    fn moves_apart_to_keep_small_values_normal() {
        let c = balance(&[1.0, 2e-7], &[1.0, 0.5], 0, 1.0).unwrap();
        assert!(
            2e-7 * c >= f16::MIN_POSITIVE.to_f32() && c <= 32768.0,
            "{c}"
        );
        let c = balance(&[1.0, 0.5], &[1.0, 2e-7], 0, 1.0).unwrap();
        assert!(
            2e-7 / c >= f16::MIN_POSITIVE.to_f32() && 1.0 / c <= 32768.0,
            "{c}"
        );
        // No split saves both, so neither end is sacrificed to the other.
        assert_eq!(balance(&[1.0, 1e-30], &[1.0], 0, 1.0), Ok(1.0));
    }

    #[test]
    fn only_the_first_path_must_not_vanish() {
        let vanish = |path| balance(&[1e-6], &[1e-6], path, 1e-12);
        assert_eq!(vanish(0), Err(FitError::ScaleUnderflow { max_abs: 1e-12 }));
        assert!(vanish(1).is_ok());
        assert_eq!(balance(&[0.0], &[0.0], 0, 0.0), Ok(1.0));
    }

    #[test]
    fn too_large_is_an_error_for_any_path() {
        for scale in [[1e6], [f32::NAN], [f32::INFINITY]] {
            let error = FitError::ScaleOverflow {
                path: 1,
                max_abs: 1e12,
            };
            assert_eq!(balance(&scale, &[1e6], 1, 1e12), Err(error));
        }
    }
}
