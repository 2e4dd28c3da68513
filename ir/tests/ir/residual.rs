//! Residual-binary layers: the derivation of signs, and the three forms that compute the same.

use proptest::prelude::*;
use rabitc_ir::ops::elementwise::Add;
use rabitc_ir::ops::gate::{Activation, Gate};
use rabitc_ir::ops::pack::{Concat, PackScales, PackSigns};
use rabitc_ir::ops::paths::{BinaryMatmul, Scale};
use rabitc_ir::ops::residual_binary::{Prologue, ResidualBinary};
use rabitc_ir::ops::residual_sign::{ResidualSign, derive_signs};
use rabitc_ir::ops::rms_norm::RmsNorm;
use rabitc_ir::{DType, Data, Tensor};

use crate::support::{Rng, assert_close, compute, rows};

/// The definition in matrices: whole residuals of f32, one path after the other.
fn signs_by_definition(w: &[f32], g: &[f32], h: &[f32], [k, d_out, d_in]: [usize; 3]) -> Tensor {
    let stride = d_in.div_ceil(8);
    let mut bits = vec![0u8; k * d_out * stride];
    let mut residual = w.to_vec();
    for path in 0..k {
        let signs: Vec<f32> = residual
            .iter()
            .map(|r| if *r < 0.0 { -1.0 } else { 1.0 })
            .collect();
        for row in 0..d_out {
            for column in 0..d_in {
                let at = row * d_in + column;
                let estimate = g[path * d_out + row] * h[path * d_in + column];
                residual[at] -= estimate * signs[at];
                if signs[at] > 0.0 {
                    bits[(path * d_out + row) * stride + column / 8] |= 1 << (column % 8);
                }
            }
        }
    }
    Tensor::bytes(DType::Bit, &[k, d_out, d_in], bits)
}

/// A float tensor of numbers that every float type holds.
fn values(rng: &mut Rng, dtype: DType, shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    Tensor {
        dtype,
        shape: shape.to_vec(),
        data: Data::F32((0..n).map(|_| rng.value()).collect()),
    }
}

/// One segment's weights: signs, g, h.
type Segment = [Tensor; 3];

fn segment(rng: &mut Rng, [k, d_out, d_in]: [usize; 3]) -> Segment {
    let signs = rng.signs([k, d_out, d_in]);
    [
        signs,
        values(rng, DType::F16, &[k, d_out]),
        values(rng, DType::BF16, &[k, d_in]),
    ]
}

/// The paths form: scale, product, scale, add.
fn unfused(x: &Tensor, [signs, g, h]: &Segment) -> Tensor {
    let k = signs.shape[0];
    let path = |i: usize| {
        let u = compute(Scale { row: i }, &[x.clone(), h.clone()]);
        let p = compute(BinaryMatmul { path: i }, &[u, signs.clone()]);
        compute(Scale { row: i }, &[p, g.clone()])
    };
    let add = |a, b| compute(Add {}, &[a, b]);
    (1..k).map(path).fold(path(0), add)
}

/// Operands of the packed form in the op's order, without x.
fn packed(segments: &[Segment], row_tiles: usize) -> Vec<Tensor> {
    let column = |i: usize| segments.iter().map(|s| s[i].clone()).collect::<Vec<_>>();
    vec![
        compute(PackSigns { row_tiles }, &column(0)),
        compute(PackScales { row_tiles }, &column(1)),
        compute(Concat {}, &column(2)),
    ]
}

/// The columns of `parts` beside each other.
fn beside(parts: &[Tensor]) -> Vec<f64> {
    let rows = parts[0].rows();
    let row = |r: usize| {
        parts
            .iter()
            .flat_map(move |p| &p.floats()[r * p.width()..][..p.width()])
    };
    (0..rows).flat_map(row).map(|v| f64::from(*v)).collect()
}

proptest! {
    #[test]
    fn signs_are_those_of_the_definition(
        (k, d_out, d_in) in (1..5usize, 1..6usize, 1..20usize),
        coarse in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut rng = Rng(seed);
        // Coarse numbers make residuals of exactly zero, fine ones all that rounding can do.
        let mut numbers = |n: usize| match coarse {
            true => (0..n).map(|_| rng.below(5) as f32 - 2.0).collect(),
            false => rng.floats(n),
        };
        let (w, g, h) = (numbers(d_out * d_in), numbers(k * d_out), numbers(k * d_in));
        let expected = signs_by_definition(&w, &g, &h, [k, d_out, d_in]);
        prop_assert_eq!(derive_signs(&w, &g, &h, [k, d_out, d_in]), expected.raw());
        let operands = [
            Tensor::f32(&[d_out, d_in], w),
            Tensor::f32(&[k, d_out], g),
            Tensor::f32(&[k, d_in], h),
        ];
        prop_assert_eq!(compute(ResidualSign {}, &operands), expected);
    }

    #[test]
    fn fused_is_the_sum_of_its_paths(
        (t, k, d_in) in (1..4usize, 1..5usize, 1..40usize),
        d_outs in proptest::collection::vec(1..20usize, 1..4),
        seed in any::<u64>(),
    ) {
        let mut rng = Rng(seed);
        let x = rng.tensor(&[t, d_in]);
        let segments: Vec<_> = d_outs.iter().map(|n| segment(&mut rng, [k, *n, d_in])).collect();
        let op = ResidualBinary { segments: d_outs, ..ResidualBinary::plain(k, 0) };
        let weights = segments.concat();
        let fused = compute(op, &[std::slice::from_ref(&x), &weights].concat());
        let parts: Vec<_> = segments.iter().map(|s| unfused(&x, s)).collect();
        assert_close(&fused, &beside(&parts), 1e-6);
    }

    #[test]
    fn packed_is_unpacked_bit_for_bit(
        (t, k, d_in) in (1..3usize, 1..5usize, 1..80usize),
        d_outs in proptest::collection::vec(1..70usize, 1..4),
        row_tiles in prop_oneof![Just(1usize), Just(2), Just(3), Just(4)],
        prologue in 0..Prologue::ALL.len(),
        residual in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut rng = Rng(seed);
        let segments: Vec<_> = d_outs.iter().map(|n| segment(&mut rng, [k, *n, d_in])).collect();
        let total = d_outs.iter().sum();
        let op = ResidualBinary {
            segments: d_outs,
            prologue: Prologue::ALL[prologue],
            eps: 1e-5,
            unit_offset: residual,
            residual,
            row_tiles,
            ..ResidualBinary::plain(k, 0)
        };
        let mut before = vec![rng.tensor(&[t, d_in])];
        match op.prologue {
            Prologue::None => {}
            Prologue::RmsNorm => before.push(rng.tensor(&[d_in])),
            Prologue::Gate => before.push(rng.tensor(&[t, d_in])),
        }
        let after: Vec<_> = residual.then(|| rng.tensor(&[t, total])).into_iter().collect();
        let plain = compute(op.clone(), &[&before[..], &segments.concat(), &after].concat());
        let op = ResidualBinary { packed: true, ..op };
        let weights = packed(&segments, row_tiles);
        prop_assert_eq!(compute(op, &[&before[..], &weights, &after].concat()), plain);
    }

    #[test]
    fn prologue_and_residual_are_the_ops_they_stand_for(
        (t, d_in, d_out) in (1..4usize, 1..30usize, 1..10usize),
        seed in any::<u64>(),
    ) {
        let mut rng = Rng(seed);
        let (x, up) = (rng.tensor(&[t, d_in]), rng.tensor(&[t, d_in]));
        let (norm, residual) = (rng.tensor(&[d_in]), rng.tensor(&[t, d_out]));
        let weights = segment(&mut rng, [2, d_out, d_in]);
        let plain = ResidualBinary::plain(2, d_out);
        let run = |op, before: &[Tensor], after: &[Tensor]| {
            compute(op, &[before, &weights[..], after].concat())
        };
        for unit_offset in [false, true] {
            let u = compute(RmsNorm { eps: 0.1, unit_offset }, &[x.clone(), norm.clone()]);
            let prologue = Prologue::RmsNorm;
            let op = ResidualBinary { prologue, eps: 0.1, unit_offset, ..plain.clone() };
            let fused = run(op, &[x.clone(), norm.clone()], &[]);
            prop_assert_eq!(fused, run(plain.clone(), &[u], &[]));
        }
        for &act in Activation::ALL {
            let u = compute(Gate { act }, &[x.clone(), up.clone()]);
            let op = ResidualBinary { prologue: Prologue::Gate, act, ..plain.clone() };
            let fused = run(op, &[x.clone(), up.clone()], &[]);
            prop_assert_eq!(fused, run(plain.clone(), &[u], &[]));
        }
        let op = ResidualBinary { residual: true, ..plain.clone() };
        let fused = run(op, std::slice::from_ref(&x), std::slice::from_ref(&residual));
        let sum = compute(Add {}, &[run(plain, &[x], &[]), residual]);
        prop_assert_eq!(fused, sum);
    }

    /// The effective weight Σ g_i B_i h_iᵀ approximates W, and its error is what R_k says.
    #[test]
    fn paths_compute_w_minus_the_last_residual(
        (k, d_out, d_in) in (1..5usize, 1..6usize, 1..12usize),
        seed in any::<u64>(),
    ) {
        let mut rng = Rng(seed);
        let w = rng.tensor(&[d_out, d_in]);
        let (g, h) = (rng.tensor(&[k, d_out]), rng.tensor(&[k, d_in]));
        let signs = compute(ResidualSign {}, &[w.clone(), g.clone(), h.clone()]);
        // The unit vectors as tokens read the effective weight's columns.
        let unit = (0..d_in * d_in).map(|i| f32::from(u8::from(i / d_in == i % d_in))).collect();
        let unit = Tensor::f32(&[d_in, d_in], unit);
        let operands = [unit, signs.clone(), g.clone(), h.clone()];
        let fused = compute(ResidualBinary::plain(k, d_out), &operands);
        for row in 0..d_out {
            for column in 0..d_in {
                let mut residual = f64::from(w.floats()[row * d_in + column]);
                for i in 0..k {
                    let sign = f64::from(signs.sign(i * d_out + row, column));
                    let (g, h) = (g.floats()[i * d_out + row], h.floats()[i * d_in + column]);
                    residual -= f64::from(g) * f64::from(h) * sign;
                }
                let found = f64::from(fused.floats()[column * d_out + row]);
                let expected = f64::from(w.floats()[row * d_in + column]) - residual;
                prop_assert!((found - expected).abs() < 1e-6);
            }
        }
    }
}

#[test]
fn the_sign_of_either_zero_is_plus() {
    let w = [
        0.0,
        -0.0,
        f32::MIN_POSITIVE,
        -f32::MIN_POSITIVE,
        1e-45,
        -1e-45,
    ];
    assert_eq!(derive_signs(&w, &[0.0], &[0.0; 6], [1, 1, 6]), [0b010111]);
}

#[test]
fn every_path_sees_what_the_paths_before_it_leave() {
    // W = 5 with estimates 4, 2, 2, 1: residuals 5, 1, −1, 1, signs + + − +.
    let signs = derive_signs(&[5.0], &[4.0, 2.0, 2.0, 1.0], &[1.0; 4], [4, 1, 1]);
    assert_eq!(signs, [1, 1, 0, 1]);
    // Negative scales turn the estimate round: −(−3) = +3 leaves 1 + 3, then 4 − 4.
    let signs = derive_signs(&[1.0], &[-3.0, 4.0, 1.0], &[1.0; 3], [3, 1, 1]);
    assert_eq!(signs, [1, 1, 1]);
}

#[test]
fn the_product_of_scales_is_rounded_before_it_is_subtracted() {
    // 1/3 · 3 rounds to 1, so nothing is left and the sign is +; unrounded, 1 − g·h < 0.
    let third = 0.333_333_34f32;
    assert!(f64::from(third) * 3.0 > 1.0);
    let signs = derive_signs(&[1.0], &[third, 1.0], &[3.0, 1.0], [2, 1, 1]);
    assert_eq!(signs, [1, 1]);
}

#[test]
fn segments_and_paths_stand_where_they_should() {
    // One input, every g another power of two: the result tells which signs met which scales.
    let signs = |bits: [u8; 4]| Tensor::bytes(DType::Bit, &[2, 2, 1], bits.to_vec());
    let one = [
        signs([1, 0, 1, 1]),
        rows(&[[1.0, 2.0], [4.0, 8.0]]),
        rows(&[[1.0], [16.0]]),
    ];
    let two = [
        signs([1, 1, 0, 0]),
        rows(&[[32.0, 64.0], [128.0, 256.0]]),
        rows(&[[1.0], [2.0]]),
    ];
    let x = rows(&[[1.0]]);
    let op = ResidualBinary {
        segments: vec![2, 2],
        row_tiles: 1,
        ..ResidualBinary::plain(2, 0)
    };
    let expected = rows(&[[1.0 + 64.0, -2.0 + 128.0, 32.0 - 256.0, 64.0 - 512.0]]);
    let segments = [one, two];
    let plain = [std::slice::from_ref(&x), &segments.concat()].concat();
    assert_eq!(compute(op.clone(), &plain), expected);
    let op = ResidualBinary { packed: true, ..op };
    let packed = [&[x], &packed(&segments, 1)[..]].concat();
    assert_eq!(compute(op, &packed), expected);
}
