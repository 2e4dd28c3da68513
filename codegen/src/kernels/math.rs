//! Functions that no CPU has an instruction for, inlined into kernels.

use crate::kir::{BinOp, Builder, CmpOp, Elem, Inst, UnOp, Val};

/// A constant of the type of `like`.
fn constant(b: &mut Builder, like: Val, x: f32) -> Val {
    let ty = b.ty(like);
    b.float_of(ty, x)
}

/// eˣ for f32, relative error below 2⁻²²; x is clamped to the range in which the result is a
/// normal number.
///
/// x = n ln 2 + r with |r| ≤ ½ ln 2 (Cody and Waite's two-part ln 2), then the degree-6 minimax
/// polynomial of the Cephes library's `expf`, then 2ⁿ by way of the exponent bits.
pub fn exp(b: &mut Builder, x: Val) -> Val {
    let (low, high) = (constant(b, x, -87.33), constant(b, x, 88.0));
    let x = b.max(x, low);
    let x = b.min(x, high);
    let log2e = constant(b, x, std::f32::consts::LOG2_E);
    let n = b.mul(x, log2e);
    let n = b.un(UnOp::Nearest, n);
    let (ln2_high, ln2_low) = (constant(b, x, -0.693_359_4), constant(b, x, 2.121_944_4e-4));
    let r = b.fma(n, ln2_high, x);
    let r = b.fma(n, ln2_low, r);
    let coefficients = [
        1.398_2e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ];
    let mut p = constant(b, x, 1.987_569_1e-4);
    for c in coefficients {
        let c = constant(b, x, c);
        p = b.fma(p, r, c);
    }
    let square = b.mul(r, r);
    let p = b.fma(p, square, r);
    let one = constant(b, x, 1.0);
    let p = b.add(p, one);
    let n = b.to_int(n);
    let bias = b.int_of(b.ty(n), 127);
    let exponent = b.add(n, bias);
    let exponent = b.shl(exponent, 23);
    let scale = b.bitcast(exponent, Elem::F32);
    b.mul(p, scale)
}

/// ln x for normal x above 0, error below 2⁻²² of the larger of 1 and |ln x|.
///
/// x = m 2ⁿ with √½ ≤ m < √2, then the polynomial of the Cephes library's `logf` in m − 1 and n ln 2
/// in two parts.
pub fn ln(b: &mut Builder, x: Val) -> Val {
    let bits = b.bitcast(x, Elem::I32);
    // The exponent steps where the fraction passes √½, whose bits these are.
    let root = b.int_of(b.ty(bits), 0x3f35_04f3);
    let from_root = b.sub(bits, root);
    let n = b.sar(from_root, 23);
    let shift = b.shl(n, 23);
    let m = b.sub(bits, shift);
    let m = b.bitcast(m, Elem::F32);
    let (n, one) = (b.to_float(n), constant(b, x, 1.0));
    let r = b.sub(m, one);
    let coefficients = [
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ];
    let mut p = constant(b, x, 7.037_683_6e-2);
    for c in coefficients {
        let c = constant(b, x, c);
        p = b.fma(p, r, c);
    }
    let square = b.mul(r, r);
    let cube = b.mul(square, r);
    let (ln2_low, half) = (constant(b, x, -2.121_944_4e-4), constant(b, x, -0.5));
    let tail = b.mul(n, ln2_low);
    let p = b.fma(p, cube, tail);
    let p = b.fma(square, half, p);
    let y = b.add(r, p);
    let ln2_high = constant(b, x, 0.693_359_4);
    b.fma(n, ln2_high, y)
}

/// x / (1 + e^−y): x times the logistic function of y.
fn times_sigmoid(b: &mut Builder, x: Val, y: Val) -> Val {
    let y = b.un(UnOp::Neg, y);
    let e = exp(b, y);
    let one = constant(b, x, 1.0);
    let denominator = b.add(e, one);
    b.div(x, denominator)
}

/// x · sigmoid(x)
pub fn silu(b: &mut Builder, x: Val) -> Val {
    times_sigmoid(b, x, x)
}

/// GELU, tanh form: ½ x (1 + tanh u) = x · sigmoid(2u), u = √(2/π) (x + 0.044715 x³).
pub fn gelu_tanh(b: &mut Builder, x: Val) -> Val {
    let scale = (8.0 / std::f64::consts::PI).sqrt();
    let square = b.mul(x, x);
    let cubic = constant(b, x, (scale * 0.044_715) as f32);
    let linear = constant(b, x, scale as f32);
    let factor = b.fma(square, cubic, linear);
    let y = b.mul(factor, x);
    times_sigmoid(b, x, y)
}

/// cap · tanh(x / cap) = cap · (1 − 2 / (e^{2x/cap} + 1)); absolute error below cap · 2⁻²¹.
pub fn softcap(b: &mut Builder, x: Val, cap: f32) -> Val {
    let factor = constant(b, x, 2.0 / cap);
    let y = b.mul(x, factor);
    let e = exp(b, y);
    let one = constant(b, x, 1.0);
    let denominator = b.add(e, one);
    let twice = constant(b, x, 2.0 * cap);
    let part = b.div(twice, denominator);
    let cap = constant(b, x, cap);
    b.sub(cap, part)
}

/// The lane-wise maximum of |x| and `largest`.
pub fn max_abs(b: &mut Builder, largest: Val, x: Val) -> Val {
    let x = b.un(UnOp::Abs, x);
    b.emit(b.ty(x), Inst::Bin(BinOp::Max, largest, x))
}

/// The smaller of two i64 scalars.
pub fn min_int(b: &mut Builder, x: Val, y: Val) -> Val {
    let less = b.cmp(CmpOp::Lt, x, y);
    b.select(less, x, y)
}

/// The larger of two i64 scalars.
pub fn max_int(b: &mut Builder, x: Val, y: Val) -> Val {
    let less = b.cmp(CmpOp::Lt, x, y);
    b.select(less, y, x)
}
