//! How far a kernel may be from the interpreter, element by element.
//!
//! With unit roundoff u = 2⁻²⁴, a sum of n products in f32, in any order, is off by at most
//! about n·u·Σ|x||y| (Higham, *Accuracy and Stability of Numerical Algorithms*, §3.1), and
//! Σ|x||y| ≤ ‖x‖‖y‖. An integer table entry is off by at most half its block's scale. Element-wise
//! functions are bounded by what `kernels::math` states for them. The interpreter's own final
//! rounding to f32 adds u·|y|.

use rabitc_codegen::kernels::rb_tables::BLOCK_INPUTS;
use rabitc_ir::ops::residual_binary::{Activations, ResidualBinary};
use rabitc_ir::ops::rms_norm::normalize;
use rabitc_ir::{Data, Op, Tensor};

/// Unit roundoff of f32.
const U: f64 = 1.0 / (1u64 << 24) as f64;
/// Roundings of an element-wise function on top of those of its polynomial.
const FUNCTION: f64 = 32.0 * U;
/// Smaller differences are those of numbers that are not normal.
const TINY: f64 = 1e-30;

/// The bound for every element of `expected`, the interpreter's result of `op`.
pub fn bounds(op: &Op, operands: &[&Tensor], expected: &Tensor) -> Vec<f64> {
    let relative = |r: f64| -> Vec<f64> {
        let values = expected.floats().iter();
        values.map(|y| r * f64::from(y.abs()) + TINY).collect()
    };
    match op {
        Op::ResidualBinary(op) => residual_binary(op, operands, expected),
        Op::Linear(_) => products(operands[0], &rows_of(operands[1]), operands[1].width()),
        Op::LinearInt8(_) => {
            let scales = operands[2].floats().iter();
            let norms = int8_norms(operands[1]).into_iter().zip(scales);
            let norms: Vec<_> = norms.map(|(n, s)| n * f64::from(*s)).collect();
            products(operands[0], &norms, operands[1].width())
        }
        Op::Attention(op) => attention(op, operands, expected),
        Op::RmsNorm(op) => {
            // 1 + w may cancel: the error is relative to what is added up.
            let (mut y, w) = (magnitude(operands[0]), magnitude(operands[1]));
            if let Data::F32(y) = &mut y.data {
                for group in y.chunks_mut(w.width().max(1)) {
                    normalize(group, w.floats(), op.eps, op.unit_offset);
                }
            }
            let factor = (w.width() as f64 / 4.0 + 16.0) * U;
            let values = y.floats().iter();
            values.map(|y| factor * f64::from(*y) + TINY).collect()
        }
        Op::Gate(_) => gate(operands),
        Op::Silu(_) | Op::GeluTanh(_) => {
            let x = operands[0].floats().iter();
            x.map(|x| FUNCTION * f64::from(x.abs()) + TINY).collect()
        }
        // The error of the angle itself, common to both, cancels; cos and sin are f32 functions.
        Op::RopeTable(_) => vec![4.0 * U; expected.floats().len()],
        Op::Rope(_) => vec![8.0 * U * largest(operands[0]); expected.floats().len()],
        Op::Softcap(op) => vec![8.0 * FUNCTION * f64::from(op.cap); expected.floats().len()],
        Op::Add(_) | Op::AddBias(_) | Op::Mul(_) | Op::Scale(_) => relative(2.0 * U),
        Op::Embed(_) => relative(2.0 * U),
        // Copies.
        Op::Slice(_) | Op::SelectRows(_) | Op::Input(_) => relative(0.0),
        // No kernel of an artifact computes these: they are evaluated when it is written, or fused, or
        // stand in training graphs only.
        Op::BinaryMatmul(_) | rabitc_ir::compile_time_ops!() | rabitc_ir::training_ops!() => {
            relative(0.0)
        }
    }
}

/// |x|
fn magnitude(x: &Tensor) -> Tensor {
    let data = x.floats().iter().map(|x| x.abs()).collect();
    Tensor::f32(&x.shape, data)
}

fn norm(row: impl Iterator<Item = f64>) -> f64 {
    row.map(|x| x * x).sum::<f64>().sqrt()
}

fn largest(x: &Tensor) -> f64 {
    x.floats()
        .iter()
        .fold(0.0, |m, x| m.max(f64::from(x.abs())))
}

/// Norms of the rows of a float matrix.
fn rows_of(w: &Tensor) -> Vec<f64> {
    let rows = w.floats().chunks(w.width().max(1));
    rows.map(|r| norm(r.iter().map(|x| f64::from(*x))))
        .collect()
}

fn int8_norms(w: &Tensor) -> Vec<f64> {
    let rows = w.raw().chunks(w.width().max(1));
    rows.map(|r| norm(r.iter().map(|x| f64::from(*x as i8))))
        .collect()
}

/// n·u·‖x‖‖w‖ for every token and row. Kernels sum in four lanes or more.
fn products(x: &Tensor, norms: &[f64], n: usize) -> Vec<f64> {
    let factor = (n as f64 / 4.0 + 16.0) * U;
    let tokens = rows_of(x).into_iter();
    tokens
        .flat_map(|x| norms.iter().map(move |w| factor * x * w + TINY))
        .collect()
}

fn gate(operands: &[&Tensor]) -> Vec<f64> {
    let pairs = operands[0].floats().iter().zip(operands[1].floats());
    pairs
        .map(|(g, u)| FUNCTION * f64::from((g * u).abs()) + TINY)
        .collect()
}

/// Scores are off by head_dim·u·‖q‖‖k‖·scale, which changes a softmax weight by that relative
/// amount; weights and their weighted sum of values add their own roundings.
fn attention(op: &rabitc_ir::ops::attention::Attention, o: &[&Tensor], y: &Tensor) -> Vec<f64> {
    let norms = |x: &Tensor| {
        let heads = x.floats().chunks(op.head_dim);
        heads
            .map(|h| norm(h.iter().map(|x| f64::from(*x))))
            .fold(0.0, f64::max)
    };
    let score = norms(o[0]) * norms(o[1]) * f64::from(op.scale);
    let cap = if op.softcap > 0.0 {
        8.0 * FUNCTION * f64::from(op.softcap)
    } else {
        0.0
    };
    let weight = 2.0 * ((op.head_dim as f64 + 8.0) * U * score + cap) + 256.0 * U;
    vec![weight * largest(o[2]) + TINY; y.floats().len()]
}

/// g times the error of the sums: half a scale for every integer table entry, and the rounding of
/// the sums and of the prologue.
fn residual_binary(op: &ResidualBinary, operands: &[&Tensor], expected: &Tensor) -> Vec<f64> {
    let u = op.input(operands);
    // What the prologue adds up before anything cancels.
    let roles = op.roles();
    let mut magnitudes: Vec<Tensor> = vec![magnitude(operands[0])];
    magnitudes.extend(roles.prologue.map(|i| magnitude(operands[i])));
    let magnitudes = op.input(&magnitudes.iter().collect::<Vec<_>>());
    let weights = op.plain_weights(operands);
    let d_in = u.width();
    // The norm's own sum, and the table's four-term sums and long sum.
    let rounding = (d_in as f64 / 2.0 + 64.0) * U;
    let mut out = Vec::with_capacity(expected.floats().len());
    let tokens = u.floats().chunks(d_in.max(1));
    for (u, m) in tokens.zip(magnitudes.floats().chunks(d_in.max(1))) {
        for ((signs, g, h), d_out) in weights.iter().zip(&op.segments) {
            let paths = signs.shape[0];
            let sums: Vec<f64> = (0..paths)
                .map(|p| path_bound(op.activations, u, m, &h[p * d_in..][..d_in], rounding))
                .collect();
            for row in 0..*d_out {
                let paths = sums.iter().enumerate();
                let terms = paths.map(|(p, s)| f64::from(g[p * d_out + row].abs()) * s);
                out.push(terms.sum::<f64>() + TINY);
            }
        }
    }
    let residual = roles.residual.map(|i| operands[i].floats());
    for (bound, r) in out.iter_mut().zip(residual.unwrap_or_default()) {
        *bound += 2.0 * U * f64::from(r.abs());
    }
    let values = expected.floats().iter();
    out.iter()
        .zip(values)
        .map(|(b, y)| b + 2.0 * U * f64::from(y.abs()))
        .collect()
}

/// The error of Σ ±h_j u_j for one path; `m` bounds |u| before cancellation.
fn path_bound(activations: Activations, u: &[f32], m: &[f32], h: &[f32], rounding: f64) -> f64 {
    let scaled = |u: &[f32]| -> Vec<f64> {
        let pairs = u.iter().zip(h);
        pairs.map(|(u, h)| f64::from((u * h).abs())).collect()
    };
    let tables: f64 = match activations {
        Activations::F32 | Activations::Unset => 0.0,
        Activations::Int8 => table_bound(&scaled(u), 127.0),
        Activations::Int16 => table_bound(&scaled(u), 32767.0),
    };
    tables + rounding * scaled(m).iter().sum::<f64>()
}

/// Half the scale of a block of 256 inputs for each of its tables of 4 inputs, padding included;
/// the block's largest sum becomes `largest`.
fn table_bound(u: &[f64], largest: f64) -> f64 {
    let block = |block: &[f64]| {
        let sums = block.chunks(4).map(|g| g.iter().sum::<f64>());
        let scale = sums.fold(0.0, f64::max) / largest;
        0.5 * (1.0 + 1e-4) * scale * block.len().next_multiple_of(32) as f64 / 4.0
    };
    u.chunks(BLOCK_INPUTS).map(block).sum()
}
