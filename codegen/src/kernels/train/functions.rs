//! Functions of single elements that only training needs: derivatives, and rounding to 16 bits.

use rabitc_ir::DType;
use rabitc_ir::ops::gate::Activation;

use crate::kernels::math::{exp, ln, softcap};
use crate::kir::{Builder, CmpOp, Elem, UnOp, Val};

fn constant(b: &mut Builder, like: Val, x: f32) -> Val {
    let ty = b.ty(like);
    b.float_of(ty, x)
}

/// `y`, or x where x is NaN: what clamps x loses it, and a loss that should be NaN would not be.
pub fn keep_nan(b: &mut Builder, x: Val, y: Val) -> Val {
    let number = b.cmp(CmpOp::Eq, x, x);
    b.select(number, y, x)
}

/// eˣ, NaN for NaN.
pub fn exp_or_nan(b: &mut Builder, x: Val) -> Val {
    let y = exp(b, x);
    keep_nan(b, x, y)
}

/// ln x for x above 0, NaN for NaN.
pub fn ln_or_nan(b: &mut Builder, x: Val) -> Val {
    let y = ln(b, x);
    keep_nan(b, x, y)
}

/// cap · tanh(x / cap), NaN for NaN.
pub fn softcap_or_nan(b: &mut Builder, x: Val, cap: f32) -> Val {
    let y = softcap(b, x, cap);
    keep_nan(b, x, y)
}

/// s = 1 / (1 + e^−y), the logistic function of y, and 1 − s.
fn sigmoid(b: &mut Builder, y: Val) -> (Val, Val) {
    let minus = b.un(UnOp::Neg, y);
    let e = exp(b, minus);
    let one = constant(b, y, 1.0);
    let denominator = b.add(e, one);
    let s = b.div(one, denominator);
    (s, b.mul(e, s))
}

/// act′(x).
pub fn activation_slope(b: &mut Builder, act: Activation, x: Val) -> Val {
    match act {
        Activation::Silu => silu_slope(b, x),
        Activation::GeluTanh => gelu_tanh_slope(b, x),
    }
}

/// σ (1 + x (1 − σ)) with σ = sigmoid(x).
fn silu_slope(b: &mut Builder, x: Val) -> Val {
    let (s, rest) = sigmoid(b, x);
    let one = constant(b, x, 1.0);
    let factor = b.fma(x, rest, one);
    b.mul(s, factor)
}

/// s + x s (1 − s) y′ with s = sigmoid(y) and y = √(8/π) (x + 0.044715 x³), since GELU's tanh form is
/// x · sigmoid(y).
fn gelu_tanh_slope(b: &mut Builder, x: Val) -> Val {
    let scale = (8.0 / std::f64::consts::PI).sqrt();
    let square = b.mul(x, x);
    let linear = constant(b, x, scale as f32);
    let cubic = constant(b, x, (scale * 0.044_715) as f32);
    let factor = b.fma(square, cubic, linear);
    let y = b.mul(factor, x);
    let (s, rest) = sigmoid(b, y);
    let cubic = constant(b, x, (scale * 3.0 * 0.044_715) as f32);
    let slope = b.fma(square, cubic, linear);
    let change = b.mul(s, rest);
    let change = b.mul(change, slope);
    b.fma(x, change, s)
}

/// 1 − tanh²(x / cap) = 4 s (1 − s) with s = sigmoid(2x / cap).
pub fn softcap_slope(b: &mut Builder, x: Val, cap: f32) -> Val {
    let factor = constant(b, x, 2.0 / cap);
    let y = b.mul(x, factor);
    let (s, rest) = sigmoid(b, y);
    let four = constant(b, x, 4.0);
    let product = b.mul(s, rest);
    b.mul(product, four)
}

/// x rounded to the nearest value of a 16-bit float type, ties to even.
pub fn round(b: &mut Builder, x: Val, to: DType) -> Val {
    let rounded = match to {
        DType::F16 => round_f16(b, x),
        DType::BF16 => round_bits(b, x, 16),
        _ => return x,
    };
    // Rounding of bits may carry NaN into the sign.
    keep_nan(b, x, rounded)
}

/// x without its last `drop` bits of fraction, rounded.
fn round_bits(b: &mut Builder, x: Val, drop: u8) -> Val {
    let bits = b.bitcast(x, Elem::I32);
    let ty = b.ty(bits);
    let one = b.int_of(ty, 1);
    let odd = b.shr(bits, drop);
    let odd = b.and(odd, one);
    let half = b.int_of(ty, (1 << (drop - 1)) - 1);
    let sum = b.add(bits, half);
    let sum = b.add(sum, odd);
    let mask = b.int_of(ty, -(1 << drop));
    let kept = b.and(sum, mask);
    b.bitcast(kept, Elem::F32)
}

/// binary16 has 10 bits of fraction from 2⁻¹⁴ to 65504, and below that multiples of 2⁻²⁴, which
/// adding ½ to the magnitude rounds to.
fn round_f16(b: &mut Builder, x: Val) -> Val {
    let magnitude = b.un(UnOp::Abs, x);
    let half = constant(b, x, 0.5);
    let small = b.add(magnitude, half);
    let small = b.sub(small, half);
    let normal = round_bits(b, magnitude, 13);
    let (over, infinite) = (constant(b, x, 65536.0), constant(b, x, f32::INFINITY));
    let is_over = b.cmp(CmpOp::Le, over, normal);
    let normal = b.select(is_over, infinite, normal);
    let least = constant(b, x, 6.103_515_6e-5);
    let is_small = b.cmp(CmpOp::Lt, magnitude, least);
    let rounded = b.select(is_small, small, normal);
    let minus_zero = constant(b, x, -0.0);
    let sign = b.bitcast(minus_zero, Elem::I32);
    b.select(sign, x, rounded)
}
