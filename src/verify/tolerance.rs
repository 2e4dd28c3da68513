//! How far a GPU kernel may be from the interpreter, element by element.
//!
//! GPU kernels round to f16 on the way (scales of inputs, keys, values, attention weights, weights
//! and activations of many tokens) and to 8 or 16 bits; roundings of n independent inputs add up
//! like √n. The unit of a bound is therefore the root of the sum of the squared terms of an
//! element, and the factor is what f16 leaves (2⁻¹² each, several roundings) with room for the
//! largest of many elements. A kernel that mixes up rows, inputs or positions is off by the unit
//! itself. Several graph nodes may be one kernel here; the roundings of all of them count.

use rabitc_ir::ops::residual_binary::{Prologue, ResidualBinary};
use rabitc_ir::{Op, Tensor};

/// Roundings to f16 of independent terms.
const F16: f64 = 3e-3;
/// The same after a gate, whose inputs are off already.
const GATED: f64 = 8e-3;
/// One 8-bit rounding relative to the largest of a block.
const BYTE: f64 = 6e-2;
/// f32 arithmetic with the fast exponential and reciprocal of the device.
const FAST: f64 = 2e-5;
/// Smaller differences are those of numbers that are not normal.
const TINY: f64 = 1e-30;

/// The bound for every element of `expected`, the interpreter's result of `op`; `planes` is the
/// number of bits of the activations of residual-binary products.
pub fn tolerance(op: &Op, operands: &[&Tensor], expected: &Tensor, planes: usize) -> Vec<f64> {
    let rms_of_rows = |factor: f64| rows_rms(expected, factor);
    match op {
        Op::ResidualBinary(op) => residual_binary(op, operands, expected, planes),
        Op::Linear(_) => products(operands[0], operands[1], None),
        Op::LinearInt8(_) => products(operands[0], operands[1], Some(operands[2].floats())),
        Op::Attention(_) => {
            let largest = largest(operands[2]);
            vec![2.0 * F16 * largest + TINY; expected.floats().len()]
        }
        // The head may have computed these; what they add up is of the size of the row.
        Op::RmsNorm(_) | Op::Add(_) => rms_of_rows(FAST * 8.0),
        Op::Softcap(op) => vec![FAST * f64::from(op.cap); expected.floats().len()],
        Op::Silu(_) | Op::GeluTanh(_) | Op::Gate(_) | Op::Mul(_) => rms_of_rows(FAST * 8.0),
        _ => rms_of_rows(FAST),
    }
}

/// factor times (|y| + the row's root mean square).
fn rows_rms(y: &Tensor, factor: f64) -> Vec<f64> {
    let width = y.width().max(1);
    let rows = y.floats().chunks(width);
    rows.flat_map(|row| {
        let rms = (row.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / width as f64).sqrt();
        row.iter()
            .map(move |v| factor * (f64::from(v.abs()) + rms) + TINY)
    })
    .collect()
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

fn largest(x: &Tensor) -> f64 {
    x.floats()
        .iter()
        .fold(0.0, |m, v| m.max(f64::from(v.abs())))
}

/// f32 sums of d_in products; norms ahead of the head are part of them.
fn products(x: &Tensor, w: &Tensor, scale: Option<&[f32]>) -> Vec<f64> {
    let d_in = w.width().max(1);
    let rows: Vec<f64> = match scale {
        None => w
            .floats()
            .chunks(d_in)
            .map(|r| norm(r.iter().map(|v| f64::from(*v))))
            .collect(),
        Some(scale) => {
            let rows = w.raw().chunks(d_in).zip(scale);
            rows.map(|(r, s)| norm(r.iter().map(|v| f64::from(*v as i8))) * f64::from(*s))
                .collect()
        }
    };
    let tokens = x
        .floats()
        .chunks(d_in)
        .map(|t| norm(t.iter().map(|v| f64::from(*v))));
    tokens
        .flat_map(|t| rows.iter().map(move |r| FAST * t * r + TINY))
        .collect()
}

/// Σ_i |g_i| ‖h_i ⊙ u‖ times a factor; one rounding of a block is relative to its largest element,
/// which counts with 8 bits.
fn residual_binary(
    op: &ResidualBinary,
    operands: &[&Tensor],
    expected: &Tensor,
    planes: usize,
) -> Vec<f64> {
    let u = op.input(operands);
    let weights = op.plain_weights(operands);
    let d_in = u.width().max(1);
    let mut factor = if op.prologue == Prologue::Gate {
        GATED
    } else {
        F16
    };
    if planes < 16 {
        factor = BYTE;
    }
    let mut out = Vec::with_capacity(expected.floats().len());
    for u in u.floats().chunks(d_in) {
        for ((signs, g, h), d_out) in weights.iter().zip(&op.segments) {
            let paths = signs.shape[0];
            let norms: Vec<f64> = (0..paths)
                .map(|p| {
                    let pairs = u.iter().zip(&h[p * d_in..][..d_in]);
                    let terms: Vec<f64> = pairs.map(|(u, h)| f64::from(u * h)).collect();
                    let most = terms.iter().fold(0.0f64, |m, v| m.max(v.abs()));
                    // Outliers make the other inputs of their block coarse.
                    let coarse = most * (d_in as f64).sqrt() * 0.3 * 2.0f64.powi(1 - planes as i32);
                    factor * norm(terms.into_iter()) + 6.0 * coarse
                })
                .collect();
            for row in 0..*d_out {
                let terms = norms
                    .iter()
                    .enumerate()
                    .map(|(p, n)| f64::from(g[p * d_out + row].abs()) * n);
                out.push(terms.sum::<f64>() + TINY);
            }
        }
    }
    let residual = op.roles().residual.map(|i| operands[i].floats());
    for (bound, r) in out.iter_mut().zip(residual.unwrap_or_default()) {
        *bound += 1e-6 * f64::from(r.abs());
    }
    let values = expected.floats().iter();
    out.iter()
        .zip(values)
        .map(|(b, y)| b + 1e-6 * f64::from(y.abs()))
        .collect()
}
