//! How far a GPU kernel may be from the interpreter, element by element.
//!
//! GPU kernels round on the way: to f16 (scales, keys, values, attention weights; in products of many
//! tokens weights and activations too) and to 8 or 16 bits. Whole numbers are counted exactly. Worst
//! cases of sums of thousands of roundings are far from what happens, so bounds are probabilistic (as in
//! Higham & Mary, *A New Approach to Probabilistic Rounding Error Analysis*, 2019): roundings are taken
//! as independent and uniform within ±b each. Such a sum is sub-Gaussian with variance Σb²/3, whose root
//! is the *spread* of an element here: it exceeds λ spreads with probability 2·exp(−λ²/2) at most, and
//! λ = 8 leaves 2.5e-14. What roundings have in common (a row's factor, a norm) and what f32
//! sums lose is added as it is. A kernel that mixes up rows, inputs or positions is off by ‖terms‖,
//! hundreds of times the bound.
//!
//! Several graph nodes may be one kernel here. The spread of a node that no launch stores goes on into
//! the bound of the node that reads it.

use rabitc_ir::ops::gate::Activation;
use rabitc_ir::ops::residual_binary::{Prologue, ResidualBinary};
use rabitc_ir::{Op, Tensor};

/// Spreads of roundings that a bound allows.
const LAMBDA: f64 = 8.0;
/// Unit roundoff of f16.
const F16: f64 = 1.0 / (1u64 << 11) as f64;
/// The spread of one rounding within ±1: 1/√3.
const UNIFORM: f64 = 0.577_350_269_189_625_8;
/// Unit roundoff of f32.
const F32: f64 = 1.0 / (1u64 << 24) as f64;
/// f32 arithmetic with the fast exponential, square root and reciprocal of the device, relative to
/// what is added up.
const FAST: f64 = 2e-5;
/// Smaller differences are those of numbers that are not normal.
const TINY: f64 = 1e-30;

/// What kernels compute residual-binary products with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// Inputs as whole numbers of so many bits, each of several with a scale.
    Planes(usize),
    /// Weights and inputs in f16, sums in f32.
    Halves,
}

/// The bound for every element of `expected`, the interpreter's result of `op`; `spreads` are those of
/// the operands that were computed within the same kernel, in their order.
pub fn tolerance(
    op: &Op,
    operands: &[&Tensor],
    spreads: &[Option<&Vec<f64>>],
    expected: &Tensor,
    arithmetic: Arithmetic,
) -> Vec<f64> {
    match op {
        Op::ResidualBinary(op) => {
            let spread = residual_binary(op, operands, spreads, arithmetic);
            let common = common(op, operands, expected, arithmetic);
            let pairs = spread.iter().zip(common);
            pairs.map(|(s, c)| LAMBDA * s + c + TINY).collect()
        }
        Op::Linear(_) => products(operands[0], operands[1], None),
        Op::LinearInt8(_) => products(operands[0], operands[1], Some(operands[2].floats())),
        Op::Attention(_) => attention(operands[2], expected),
        // The head may have computed these; what they add up is of the size of the row.
        Op::RmsNorm(_) | Op::Add(_) => rows_rms(expected, FAST * 8.0),
        Op::Softcap(op) => vec![FAST * f64::from(op.cap); expected.floats().len()],
        Op::Silu(_) | Op::GeluTanh(_) | Op::Gate(_) | Op::Mul(_) => rows_rms(expected, FAST * 8.0),
        _ => rows_rms(expected, FAST),
    }
}

/// The spread of a node that is computed within the kernel of another; `None` for ops that round in
/// f32 only.
pub fn spread(
    op: &Op,
    operands: &[&Tensor],
    spreads: &[Option<&Vec<f64>>],
    arithmetic: Arithmetic,
) -> Option<Vec<f64>> {
    match op {
        Op::ResidualBinary(op) => Some(residual_binary(op, operands, spreads, arithmetic)),
        Op::Slice(op) => {
            let rows = spreads.first()?.as_ref()?.chunks(operands[0].width());
            Some(
                rows.flat_map(|r| &r[op.start..][..op.len])
                    .copied()
                    .collect(),
            )
        }
        _ => None,
    }
}

/// factor times (|y| + the row's root mean square).
fn rows_rms(y: &Tensor, factor: f64) -> Vec<f64> {
    let width = y.width().max(1);
    let rows = y.floats().chunks(width);
    rows.flat_map(|row| {
        let rms = norm(row.iter().map(|v| f64::from(*v))) / (width as f64).sqrt();
        row.iter()
            .map(move |v| factor * (f64::from(v.abs()) + rms) + TINY)
    })
    .collect()
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

/// Keys, values and weights are rounded to f16, and queries where there are several tokens. A value
/// and its weight are off by as much as that; what a key or query loses changes a score of the size of
/// one by as much, and the weights that the scores compete for with it.
fn attention(values: &Tensor, expected: &Tensor) -> Vec<f64> {
    let values = values.floats().iter();
    let largest = values.fold(0.0, |m: f64, v| m.max(f64::from(v.abs())));
    let roundings = 1.5;
    vec![LAMBDA * roundings * F16 * largest + TINY; expected.floats().len()]
}

/// f32 sums of d_in products. A partial sum is at most ‖x‖‖w‖, and each of the n additions rounds it
/// once; matrix units cut digits off in one of sixteen. Norms ahead of the head are part of the kernel.
fn products(x: &Tensor, w: &Tensor, scale: Option<&[f32]>) -> Vec<f64> {
    let d_in = w.width().max(1);
    let rows: Vec<f64> = match scale {
        None => norms_of(w.floats(), d_in),
        Some(scale) => {
            let rows = w.raw().chunks(d_in).zip(scale);
            rows.map(|(r, s)| norm(r.iter().map(|v| f64::from(*v as i8))) * f64::from(*s))
                .collect()
        }
    };
    let n = d_in as f64;
    let factor = (LAMBDA * UNIFORM * n.sqrt() + n / 16.0 + 16.0) * F32;
    let tokens = norms_of(x.floats(), d_in).into_iter();
    tokens
        .flat_map(|t| rows.iter().map(move |r| factor * t * r + TINY))
        .collect()
}

fn norms_of(values: &[f32], width: usize) -> Vec<f64> {
    let rows = values.chunks(width);
    rows.map(|r| norm(r.iter().map(|v| f64::from(*v))))
        .collect()
}

/// √Σ_p (g_p · spread of path p)², for every token and row.
fn residual_binary(
    op: &ResidualBinary,
    operands: &[&Tensor],
    spreads: &[Option<&Vec<f64>>],
    arithmetic: Arithmetic,
) -> Vec<f64> {
    let u = op.input(operands);
    let weights = op.plain_weights(operands);
    let d_in = u.width().max(1);
    let before = gate_spread(op, operands, spreads);
    let mut out = Vec::new();
    for (token, u) in u.floats().chunks(d_in).enumerate() {
        let before = before.as_ref().map(|s| &s[token * d_in..][..d_in]);
        for ((signs, g, h), d_out) in weights.iter().zip(&op.segments) {
            let paths = signs.shape[0];
            let path = |p: usize| path_spread(u, &h[p * d_in..][..d_in], before, arithmetic, paths);
            let spreads: Vec<f64> = (0..paths).map(path).collect();
            for row in 0..*d_out {
                let terms = spreads.iter().enumerate();
                out.push(norm(terms.map(|(p, s)| f64::from(g[p * d_out + row]) * s)));
            }
        }
    }
    out
}

/// The spread of Σ ±h_i u_i. h is rounded to f16 when a model is loaded. Whole numbers are off by half
/// a scale at most, which is no more than the largest input's; halves round u, and the effective
/// weight once a path.
fn path_spread(
    u: &[f32],
    h: &[f32],
    before: Option<&[f64]>,
    arithmetic: Arithmetic,
    paths: usize,
) -> f64 {
    let terms = || u.iter().zip(h).map(|(u, h)| f64::from(u * h));
    let size = norm(terms());
    let own = match arithmetic {
        Arithmetic::Planes(bits) => {
            let largest = terms().fold(0.0, |m: f64, v| m.max(v.abs()));
            let half = 0.5 * largest / (2.0f64.powi(bits as i32 - 1) - 1.0);
            UNIFORM * (F16 * size).hypot(half * (u.len() as f64).sqrt())
        }
        Arithmetic::Halves => UNIFORM * F16 * size * (2.0 + paths as f64).sqrt(),
    };
    let inputs = before.map_or(0.0, |s| {
        norm(s.iter().zip(h).map(|(s, h)| s * f64::from(*h)))
    });
    own.hypot(inputs)
}

/// The spread of gated inputs whose halves are not stored: |d act(a)/da · b| · spread(a) and
/// |act(a)| · spread(b).
fn gate_spread(
    op: &ResidualBinary,
    operands: &[&Tensor],
    spreads: &[Option<&Vec<f64>>],
) -> Option<Vec<f64>> {
    let (gate, up) = match (op.prologue, spreads) {
        (Prologue::Gate, [Some(gate), Some(up), ..]) => (gate, up),
        _ => return None,
    };
    // No larger than that of x·Φ(x) or x·σ(x) gets.
    let slope = match op.act {
        Activation::Silu => 1.1,
        Activation::GeluTanh => 1.13,
    };
    let pairs = operands[0].floats().iter().zip(operands[1].floats());
    let spreads = gate.iter().zip(up.iter());
    let each = pairs.zip(spreads).map(|((a, b), (gate, up))| {
        // |act(a)| ≤ |a|
        (slope * f64::from(b.abs()) * gate).hypot(f64::from(a.abs()) * up)
    });
    Some(each.collect())
}

/// What roundings of a row have in common: in f16, the factor of every path but the largest; and what
/// f32 arithmetic loses of the sums, the norm's factor and the residual.
fn common(
    op: &ResidualBinary,
    operands: &[&Tensor],
    expected: &Tensor,
    arithmetic: Arithmetic,
) -> Vec<f64> {
    let u = op.input(operands);
    let weights = op.plain_weights(operands);
    let d_in = u.width().max(1);
    let residual = op.roles().residual.map(|i| operands[i].floats());
    let mut out = Vec::with_capacity(expected.floats().len());
    for u in u.floats().chunks(d_in) {
        for ((signs, g, h), d_out) in weights.iter().zip(&op.segments) {
            let paths = signs.shape[0];
            let norms: Vec<f64> = (0..paths)
                .map(|p| norm(u.iter().zip(&h[p * d_in..]).map(|(u, h)| f64::from(u * h))))
                .collect();
            for row in 0..*d_out {
                let sizes = (0..paths).map(|p| f64::from(g[p * d_out + row].abs()) * norms[p]);
                let (sum, largest) = sizes.fold((0.0, 0.0f64), |(s, m), v| (s + v, m.max(v)));
                let sums = match arithmetic {
                    Arithmetic::Planes(_) => 16.0,
                    Arithmetic::Halves => d_in as f64 / 8.0 + 16.0,
                };
                // A sum of terms of both signs is seldom more than four times their norm.
                let factors = match arithmetic {
                    Arithmetic::Planes(_) => 0.0,
                    Arithmetic::Halves => 4.0 * F16 * (sum - largest).max(0.0),
                };
                let y = f64::from(expected.floats()[out.len()].abs());
                let r = residual.map_or(0.0, |r| f64::from(r[out.len()].abs()));
                out.push(factors + sums * F32 * sum + 16.0 * F32 * (y + r));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;
    use rand::{Rng, SeedableRng};

    const N: usize = 1024;

    fn halved(x: f32) -> f64 {
        f64::from(f16::from_f32(x).to_f32())
    }

    /// Σ ±h_i u_i as kernels of an arithmetic compute it, and exactly.
    fn sums(u: &[f32], h: &[f32], signs: &[f64], arithmetic: Arithmetic) -> (f64, f64) {
        let exact = |i: usize| f64::from(u[i]) * f64::from(h[i]);
        let largest = (0..N).fold(0.0, |m: f64, i| {
            m.max((f64::from(u[i]) * halved(h[i])).abs())
        });
        let term = |i: usize| match arithmetic {
            Arithmetic::Planes(bits) => {
                let unit = largest / (2.0f64.powi(bits as i32 - 1) - 1.0);
                (f64::from(u[i]) * halved(h[i]) / unit).round() * unit
            }
            Arithmetic::Halves => halved(u[i]) * halved(h[i]),
        };
        let sum = |term: &dyn Fn(usize) -> f64| (0..N).map(|i| signs[i] * term(i)).sum();
        (sum(&term), sum(&exact))
    }

    /// Roundings stay within the bound, and use a good part of it; a row with another's signs is far out.
    #[test]
    fn bounds_hold_and_mean_something() {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(5);
        let mut draw = |low: f32| {
            (0..N)
                .map(|_| random.random_range(low..1.0))
                .collect::<Vec<f32>>()
        };
        let (u, h) = (draw(-1.0), draw(0.1));
        let rows: Vec<Vec<f64>> = (0..200)
            .map(|_| draw(-1.0).iter().map(|v| f64::from(v.signum())).collect())
            .collect();
        for arithmetic in [
            Arithmetic::Planes(16),
            Arithmetic::Planes(8),
            Arithmetic::Halves,
        ] {
            let bound = LAMBDA * path_spread(&u, &h, None, arithmetic, 1);
            let errors = rows.iter().map(|signs| {
                let (found, exact) = sums(&u, &h, signs, arithmetic);
                (found - exact).abs() / bound
            });
            let worst = errors.fold(0.0, f64::max);
            assert!((0.05..1.0).contains(&worst), "{arithmetic:?}: {worst}");
            let mixed = rows.windows(2).map(|pair| {
                let (found, _) = sums(&u, &h, &pair[1], arithmetic);
                let (_, exact) = sums(&u, &h, &pair[0], arithmetic);
                (found - exact).abs() / bound
            });
            let far = mixed.filter(|r| *r > 1.0).count();
            assert!(far > rows.len() * 3 / 4, "{arithmetic:?}: {far}");
        }
    }
}
