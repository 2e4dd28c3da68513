//! The scales of one layer, fitted to its dense weight.

use rabitc_ir::Tensor;
use rabitc_passes::svid::{self, FitError, Init};

use super::importance::Factors;
use crate::cores::stored_scales;

/// The scales that a layer starts with.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerScales {
    /// Paths, output and input channels.
    pub shape: [usize; 3],
    /// Output scales `[k, d_out]`.
    pub g: Vec<f32>,
    /// Input scales `[k, d_in]`.
    pub h: Vec<f32>,
}

impl LayerScales {
    /// The output scales as a tensor.
    pub fn g(&self) -> Tensor {
        Tensor::f32(&[self.shape[0], self.shape[1]], self.g.clone())
    }

    /// The input scales as a tensor.
    pub fn h(&self) -> Tensor {
        Tensor::f32(&[self.shape[0], self.shape[2]], self.h.clone())
    }

    /// Takes the first `paths` paths away from `weight`, in the arithmetic that cores are derived
    /// in.
    pub fn leave(&self, weight: &mut [f32], paths: usize) {
        let [_, d_out, d_in] = self.shape;
        let (g, h) = (stored_scales(&self.g), stored_scales(&self.h));
        for (row, weight) in weight.chunks_mut(d_in).enumerate() {
            for path in 0..paths {
                let g = g[path * d_out + row];
                for (r, h) in weight.iter_mut().zip(&h[path * d_in..]) {
                    let step = g * h;
                    *r -= if *r >= 0.0 { step } else { -step };
                }
            }
        }
    }
}

/// Fits `shape[0]` paths to the `[d_out, d_in]` weight.
///
/// With `channels`, they are fitted to diag(s_out) W diag(s_in), and the scales are divided by
/// s_out and s_in again: the squared error counts most where channels matter most. Factors are
/// positive, so the signs are those of W.
///
/// # Errors
/// A weight that cannot be fitted, or scales that leave the range of f16 when they are mapped back.
pub(super) fn fit(
    weight: &[f32],
    shape: [usize; 3],
    init: Init,
    channels: Option<Factors<'_>>,
) -> Result<LayerScales, FitError> {
    let [paths, d_out, d_in] = shape;
    let Some(Factors { input, output }) = channels else {
        return scales(svid::fit_scales(weight, d_out, d_in, paths, init)?, shape);
    };
    let rows = weight.chunks(d_in).zip(output);
    let weighted: Vec<f32> = rows
        .flat_map(|(row, s_out)| row.iter().zip(input).map(move |(w, s_in)| s_out * w * s_in))
        .collect();
    let fitted = svid::fit_scales(&weighted, d_out, d_in, paths, init)?;
    let mut scales = scales(fitted, shape)?;
    for path in 0..paths {
        let (g, h) = scales.path_mut(path);
        g.iter_mut().zip(output).for_each(|(g, s)| *g /= s);
        h.iter_mut().zip(input).for_each(|(h, s)| *h /= s);
        balance(g, h);
        let fits = |x: &f32| *x <= half::f16::MAX.to_f32();
        if !g.iter().chain(&*h).all(fits) {
            let max_abs = weight.iter().fold(0.0, |m: f32, w| m.max(w.abs()));
            return Err(FitError::ScaleOverflow { path, max_abs });
        }
    }
    Ok(scales)
}

fn scales(fitted: svid::Scales, shape: [usize; 3]) -> Result<LayerScales, FitError> {
    let widen = |values: Vec<half::f16>| values.into_iter().map(|x| x.to_f32()).collect();
    let (g, h) = (widen(fitted.g), widen(fitted.h));
    Ok(LayerScales { shape, g, h })
}

impl LayerScales {
    fn path_mut(&mut self, path: usize) -> (&mut [f32], &mut [f32]) {
        let [_, d_out, d_in] = self.shape;
        let g = &mut self.g[path * d_out..][..d_out];
        (g, &mut self.h[path * d_in..][..d_in])
    }
}

/// Gives g and h of one path about the same largest value. The factor is a power of two, so the
/// products do not change.
fn balance(g: &mut [f32], h: &mut [f32]) {
    let largest = |x: &[f32]| x.iter().fold(0.0, |m: f32, x| m.max(*x));
    let (g_max, h_max) = (largest(g), largest(h));
    if g_max > 0.0 && h_max > 0.0 {
        let factor = ((h_max / g_max).log2() / 2.0).round().exp2();
        g.iter_mut().for_each(|x| *x *= factor);
        h.iter_mut().for_each(|x| *x /= factor);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rabitc_ir::ops::effective_weight::Derive;

    use super::*;
    use crate::cores::LayerValues;

    fn error(weight: &[f32], scales: &LayerScales, factors: Factors<'_>) -> f64 {
        let [g, h] = [&scales.g, &scales.h].map(|x| stored_scales(x));
        let values = LayerValues::new(Derive::Residual, g, h, &[weight], scales.shape[0]);
        let d_in = scales.shape[2];
        let effective = values.effective();
        let terms = weight.iter().zip(effective).enumerate().map(|(i, (w, e))| {
            let factor = factors.output[i / d_in] * factors.input[i % d_in];
            f64::from((w - e) * factor).powi(2)
        });
        terms.sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Factors of 1 change nothing but how g and h share a power of two.
        #[test]
        fn equal_importance_changes_nothing(
            weight in prop::collection::vec(-1.0f32..1.0, 6 * 10),
            paths in 1usize..4,
        ) {
            let shape = [paths, 6, 10];
            let init = Init::Iterative { iters: 4 };
            let plain = fit(&weight, shape, init, None).unwrap();
            let factors = Factors { input: &[1.0; 10], output: &[1.0; 6] };
            let weighted = fit(&weight, shape, init, Some(factors)).unwrap();
            for path in 0..paths {
                for (row, column) in [(0, 0), (5, 9), (3, 4)] {
                    let product = |s: &LayerScales| s.g[path * 6 + row] * s.h[path * 10 + column];
                    prop_assert_eq!(product(&plain), product(&weighted));
                }
            }
        }

        /// What the paths before it left is what each core is the sign of.
        #[test]
        fn what_is_left_has_the_signs_of_the_next_core(
            weight in prop::collection::vec(-1.0f32..1.0, 5 * 9),
        ) {
            let scales = fit(&weight, [3, 5, 9], Init::Greedy, None).unwrap();
            let [g, h] = [&scales.g, &scales.h].map(|x| stored_scales(x));
            let residual =
                LayerValues::new(Derive::Residual, g.clone(), h.clone(), &[&weight], 3);
            let left: Vec<Vec<f32>> = (0..3).map(|path| {
                let mut left = weight.clone();
                scales.leave(&mut left, path);
                left
            }).collect();
            let left: Vec<&[f32]> = left.iter().map(Vec::as_slice).collect();
            let independent = LayerValues::new(Derive::Independent, g, h, &left, 3);
            prop_assert_eq!(residual, independent);
        }
    }

    /// A fit that knows what matters is better where it matters.
    #[test]
    fn importance_lowers_the_error_that_it_weighs() {
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let weight: Vec<f32> = (0..24 * 32).map(|_| random()).collect();
        let input: Vec<f32> = (0..32).map(|i| 0.2 + (i % 5) as f32).collect();
        let output: Vec<f32> = (0..24).map(|i| 0.1 + (i % 7) as f32).collect();
        let factors = || Factors {
            input: &input,
            output: &output,
        };
        let init = Init::Iterative { iters: 20 };
        let plain = fit(&weight, [2, 24, 32], init, None).unwrap();
        let weighted = fit(&weight, [2, 24, 32], init, Some(factors())).unwrap();
        let [plain, weighted] = [plain, weighted].map(|s| error(&weight, &s, factors()));
        assert!(weighted < plain, "{weighted} against {plain}");
    }
}
