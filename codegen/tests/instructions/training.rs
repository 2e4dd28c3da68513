//! Kernels of training graphs of odd shapes: as in `kernels`, the interpreter's bits everywhere, and
//! no access outside of buffers that are as large as the operands.

mod attention;
mod maps;

use crate::common::{Subject, WIDTH};
use rabitc_codegen::kernels::train::adamw::{AdamW, CONSTANTS};
use rabitc_codegen::kernels::train::column_sums::{ColumnSums, SumPartials, Terms, block_count};
use rabitc_codegen::kernels::train::cross_entropy::{self, CrossEntropy};
use rabitc_codegen::kernels::train::effective_weight::{
    EffectiveScaleGrad, EffectiveWeight, Layer,
};
use rabitc_codegen::kernels::train::kl_divergence::{self, KlDivergence};
use rabitc_codegen::kernels::train::log_sum_exp::LogSumExp;
use rabitc_codegen::kernels::train::rms_norm_grad::RmsNormGrad;
use rabitc_codegen::kernels::train::scatter_add::ScatterAdd;
use rabitc_codegen::kernels::train::squared_error::{self, SquaredError};
use rabitc_codegen::kernels::train::sum_squares::SumSquares;
use rabitc_codegen::kernels::{Spec, Vectors};

/// A buffer of a kernel.
enum Buffer {
    /// Random f32 in −1..1.
    Floats(usize),
    /// Their magnitudes.
    Magnitudes(usize),
    /// Integers below 5.
    Indices(usize),
    /// Zeros that results replace.
    Result(usize),
}
use Buffer::{Floats, Indices, Magnitudes, Result};

/// f32 in −1..1 by Knuth's generator.
fn floats(seed: &mut u64, n: usize) -> Vec<u8> {
    let mut one = || {
        *seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((*seed >> 33) as i32 - (1 << 30)) as f32 / (1u32 << 30) as f32
    };
    (0..n).flat_map(|_| one().to_le_bytes()).collect()
}

/// Runs a kernel everywhere; every result must be something else than zeros.
#[track_caller]
fn agree(spec: &dyn Spec, buffers: &[Buffer], scalars: &[i64], items: usize) {
    let mut seed = spec.name().len() as u64;
    let before: Vec<Vec<u8>> = buffers
        .iter()
        .map(|buffer| match buffer {
            Floats(n) => floats(&mut seed, *n),
            Magnitudes(n) => {
                let signed = floats(&mut seed, *n).into_iter().enumerate();
                signed
                    .map(|(i, x)| if i % 4 == 3 { x & 0x7f } else { x })
                    .collect()
            }
            Indices(n) => (0..*n)
                .flat_map(|i| (i as i32 * 3 % 5).to_le_bytes())
                .collect(),
            Result(n) => vec![0; n * 4],
        })
        .collect();
    let subject = Subject::new(spec.build(Vectors::plain(WIDTH)));
    let after = subject.agree(&before, scalars, 0..items as i64);
    for (buffer, after) in buffers.iter().zip(after) {
        let computed = after.iter().any(|byte| *byte != 0);
        assert!(computed || !matches!(buffer, Result(_)), "{}", spec.name());
    }
}

#[test]
fn norms_and_sums() {
    let (rows, d, group) = (35, 3 * 43, 43);
    let norm = RmsNormGrad {
        d,
        group,
        x_stride: d + 2,
        dy_stride: d,
        eps: 1e-5,
        unit_offset: true,
    };
    let x = || Floats(rows * (d + 2) - 2);
    let buffers = [x(), Floats(group), Floats(rows * d), Result(rows * d)];
    agree(&norm, &buffers, &[], rows);
    let terms = Terms::Normalized {
        group,
        eps: 1e-5,
        dy_stride: d,
    };
    let blocks = block_count(rows);
    for (terms, width) in [(terms, group), (Terms::Rows, d)] {
        let sums = ColumnSums {
            terms,
            d,
            x_stride: d + 2,
        };
        let mut buffers = vec![x()];
        if width == group {
            buffers.push(Floats(rows * d));
        }
        buffers.push(Result(blocks * width));
        agree(&sums, &buffers, &[rows as i64], blocks);
    }
    let sums = SumPartials {
        d: 601,
        rows: 2,
        out_stride: 610,
    };
    let buffers = [Floats(3 * 2 * 601), Result(610 + 601)];
    agree(&sums, &buffers, &[3], sums.items());
    agree(
        &SumSquares,
        &[Floats(4096 + 77), Result(2)],
        &[4096 + 77],
        2,
    );
}

#[test]
fn losses() {
    let (rows, d) = (3, 77);
    let lse = LogSumExp { d, x_stride: 80 };
    agree(&lse, &[Floats(2 * 80 + d), Result(rows)], &[], rows);
    let x = || Floats(rows * d);
    for (part, n) in [
        (kl_divergence::Part::Rows, rows),
        (kl_divergence::Part::Gradient, rows * d),
    ] {
        let kl = KlDivergence {
            part,
            d,
            teacher_stride: d,
            student_stride: d,
        };
        let mut buffers = vec![x(), x(), Floats(rows), Floats(rows)];
        buffers.extend((n > rows).then_some(Floats(1)));
        buffers.push(Result(n));
        agree(&kl, &buffers, &[], rows);
    }
    for (part, n) in [
        (cross_entropy::Part::Rows, rows),
        (cross_entropy::Part::Gradient, rows * d),
    ] {
        let entropy = CrossEntropy {
            part,
            d,
            x_stride: d,
        };
        let mut buffers = vec![x(), Indices(rows), Floats(rows)];
        buffers.extend((n > rows).then_some(Floats(1)));
        buffers.push(Result(n));
        agree(&entropy, &buffers, &[], rows);
    }
    for (part, n) in [
        (squared_error::Part::Rows, 2 * rows),
        (squared_error::Part::Gradient, rows * d),
    ] {
        let error = SquaredError {
            part,
            d,
            x_stride: d,
            target_stride: d,
        };
        let mut buffers = vec![x(), x()];
        buffers.extend((n > 2 * rows).then_some(Floats(rows)));
        buffers.push(Result(n));
        agree(&error, &buffers, &[], rows);
    }
}

#[test]
fn effective_weights() {
    for independent in [false, true] {
        let layer = Layer {
            paths: 3,
            d_out: 37,
            d_in: 45,
            independent,
        };
        let latents = if independent { 3 } else { 1 };
        let weight = || Floats(37 * 45);
        let mut buffers = vec![Floats(3 * 37), Floats(3 * 45)];
        buffers.extend((0..latents).map(|_| weight()));
        buffers.push(Result(37 * 45));
        agree(&EffectiveWeight { layer }, &buffers, &[], 37);
        buffers.pop();
        buffers.insert(0, weight());
        buffers.extend([Result(3 * (37 + 45)), Result(2 * 3 * 45)]);
        let grad = EffectiveScaleGrad { layer, frozen: 1 };
        agree(&grad, &buffers, &[], 2);
    }
}

#[test]
fn weights() {
    for zeroed in [None, Some(5)] {
        let scatter = ScatterAdd {
            d: 45,
            x_stride: 45,
            scale: 0.7,
            zeroed,
        };
        let buffers = [Floats(7 * 45), Indices(7), Result(5 * 45)];
        agree(&scatter, &buffers, &[7], scatter.items());
    }
    let n = 4096 + 77;
    for stochastic_bf16 in [false, true] {
        let mut scalars = vec![n as i64];
        scalars.extend(stochastic_bf16.then_some(0x1234_5678));
        let constants = Magnitudes(CONSTANTS);
        let buffers = [Floats(n), Floats(n), Floats(n), Magnitudes(n), constants];
        agree(&AdamW { stochastic_bf16 }, &buffers, &scalars, 2);
    }
}
