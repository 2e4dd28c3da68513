//! Ops against formulas written another way, on random operands.

use proptest::prelude::*;
use rabitc_ir::ops::elementwise::{gelu_tanh, silu};
use rabitc_ir::ops::int8::{Int8Data, Int8Scale};
use rabitc_ir::ops::linear::Linear;
use rabitc_ir::ops::linear_int8::LinearInt8;
use rabitc_ir::ops::rms_norm::RmsNorm;
use rabitc_ir::ops::rope::{Rope, RopeTable};

use crate::support::{Rng, assert_close, compute, ints};

/// Rounding of the result to f32, and of what little is done in f32 before.
const ROUNDING: f64 = 4e-7;

proptest! {
    #[test]
    fn linear_is_the_sum_of_products(
        [t, d_in, d_out] in [1..4usize, 1..40, 1..9],
        seed in any::<u64>(),
    ) {
        let mut rng = Rng(seed);
        let (x, w) = (rng.tensor(&[t, d_in]), rng.tensor(&[d_out, d_in]));
        let mut expected = vec![0.0; t * d_out];
        for i in 0..t {
            for j in 0..d_in {
                for o in 0..d_out {
                    let (x, w) = (x.floats()[i * d_in + j], w.floats()[o * d_in + j]);
                    expected[i * d_out + o] += f64::from(x) * f64::from(w);
                }
            }
        }
        assert_close(&compute(Linear {}, &[x, w]), &expected, ROUNDING);
    }

    #[test]
    fn int8_rounds_each_weight_by_at_most_half_a_step(
        [d_out, d_in] in [1..6usize, 1..30],
        seed in any::<u64>(),
    ) {
        let mut rng = Rng(seed);
        let w = rng.tensor(&[d_out, d_in]);
        let data = compute(Int8Data {}, std::slice::from_ref(&w));
        let scale = compute(Int8Scale {}, std::slice::from_ref(&w));
        for (row, s) in scale.floats().iter().enumerate() {
            let (w, q) = (&w.floats()[row * d_in..][..d_in], &data.raw()[row * d_in..][..d_in]);
            let largest = q.iter().map(|q| (*q as i8).unsigned_abs()).max().unwrap();
            prop_assert!(largest == 127 || w.iter().all(|x| *x == 0.0));
            for (w, q) in w.iter().zip(q) {
                let error = (w - s * f32::from(*q as i8)).abs();
                prop_assert!(error <= 0.5 * s * (1.0 + 1e-5), "{w} {q} {s}");
            }
        }
        let x = rng.tensor(&[2, d_in]);
        let mut rounded = data.raw().iter().enumerate();
        let rounded = rounded.by_ref().map(|(i, q)| scale.floats()[i / d_in] * f32::from(*q as i8));
        let rounded = rabitc_ir::Tensor::f32(&[d_out, d_in], rounded.collect());
        let dense = compute(Linear {}, &[x.clone(), rounded]);
        let expected: Vec<f64> = dense.floats().iter().map(|y| f64::from(*y)).collect();
        // Beside the result, every rounded weight above is off by half a unit in the last place.
        let int8 = compute(LinearInt8 {}, &[x, data, scale]);
        for (y, e) in int8.floats().iter().zip(expected) {
            prop_assert!((f64::from(*y) - e).abs() <= 1e-6 * d_in as f64);
        }
    }

    #[test]
    fn a_norm_makes_the_mean_square_one(
        [t, groups, size] in [1..4usize, 1..4, 1..20],
        seed in any::<u64>(),
    ) {
        let mut rng = Rng(seed);
        let d = groups * size;
        let (x, w) = (rng.tensor(&[t, d]), rng.tensor(&[size]));
        let eps = 1e-5;
        let run = |unit_offset| compute(RmsNorm { eps, unit_offset }, &[x.clone(), w.clone()]);
        let (plain, offset) = (run(false), run(true));
        for (g, x) in x.floats().chunks(size).enumerate() {
            let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / size as f64;
            // The unit offset adds the normalised x itself.
            let range = g * size..(g + 1) * size;
            let both = plain.floats()[range.clone()].iter().zip(&offset.floats()[range]);
            let unit: Vec<f64> = both.map(|(a, b)| f64::from(*b) - f64::from(*a)).collect();
            let square = unit.iter().map(|v| v * v).sum::<f64>() / size as f64;
            prop_assert!((square - mean / (mean + f64::from(eps))).abs() < 1e-5);
            for (u, x) in unit.iter().zip(x) {
                prop_assert!((u - f64::from(*x) / (mean + f64::from(eps)).sqrt()).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn rope_turns_complex_numbers(
        [half, heads, start] in [1..6usize, 1..4, 0..1000],
        seed in any::<u64>(),
    ) {
        let mut rng = Rng(seed);
        let positions: Vec<i32> = (0..3).map(|i| (start + i) as i32).collect();
        let x = rng.tensor(&[3, heads * 2 * half]);
        let inv_freq = rng.tensor(&[half]);
        let table = RopeTable { attention_factor: 1.0 };
        let table = compute(table, &[ints(&positions), inv_freq.clone()]);
        let turned = compute(Rope {}, &[x.clone(), table]);
        for (t, position) in positions.iter().enumerate() {
            for head in 0..heads {
                for i in 0..half {
                    // The angle is a product in f32, as in the reference implementations.
                    let angle = f64::from(*position as f32 * inv_freq.floats()[i]);
                    let at = (t * heads + head) * 2 * half + i;
                    let pair = |v: &[f32]| (f64::from(v[at]), f64::from(v[at + half]));
                    let ((re, im), found) = (pair(x.floats()), pair(turned.floats()));
                    let (sin, cos) = angle.sin_cos();
                    prop_assert!((found.0 - (re * cos - im * sin)).abs() < 1e-6);
                    prop_assert!((found.1 - (re * sin + im * cos)).abs() < 1e-6);
                }
            }
        }
    }

    /// q·k after rotation depends on the distance of the two tokens alone.
    #[test]
    fn rope_is_relative([p, q, shift] in [0..50i32, 0..50, 0..50], seed in any::<u64>()) {
        let mut rng = Rng(seed);
        let (a, b, inv_freq) = (rng.tensor(&[1, 8]), rng.tensor(&[1, 8]), rng.tensor(&[4]));
        let turn = |x: &rabitc_ir::Tensor, position| {
            let table = RopeTable { attention_factor: 1.0 };
            let table = compute(table, &[ints(&[position]), inv_freq.clone()]);
            compute(Rope {}, &[x.clone(), table])
        };
        let dot = |shift| {
            let (a, b) = (turn(&a, p + shift), turn(&b, q + shift));
            a.floats().iter().zip(b.floats()).map(|(x, y)| f64::from(x * y)).sum::<f64>()
        };
        prop_assert!((dot(0) - dot(shift)).abs() < 1e-4);
    }

    #[test]
    fn activation_functions_have_their_other_forms(x in -20.0f64..20.0) {
        let logistic = |z: f64| 0.5 * (1.0 + (z / 2.0).tanh());
        prop_assert!((silu(x) - x * logistic(x)).abs() < 1e-12);
        let z = (8.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
        prop_assert!((gelu_tanh(x) - x * logistic(z)).abs() < 1e-12);
        // Both are the identity far above zero and nothing far below.
        prop_assert!((silu(x) - silu(-x) - x).abs() < 1e-12);
        prop_assert!((gelu_tanh(x) - gelu_tanh(-x) - x).abs() < 1e-12);
    }
}
