//! One step of AdamW (Loshchilov and Hutter, arXiv 1711.05101), a chunk of elements an item.

use super::rows::block_of_rows;
use crate::kernels::shape::{broadcast, lane_numbers};
use crate::kernels::{Spec, Vectors};
use crate::kir::{Builder, Elem, Inst, Kernel, Ty, UnOp, Val};

/// Elements of an item; a multiple of every vector's lanes.
pub const CHUNK: usize = 4096;

/// What the numbers of [`AdamW`]'s operand `constants` are, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Constant {
    /// Factor on the gradient.
    GradientFactor,
    /// Decay of the first moment.
    Beta1,
    /// 1 minus that.
    OneMinusBeta1,
    /// Decay of the second moment.
    Beta2,
    /// 1 minus that.
    OneMinusBeta2,
    /// Learning rate over 1 − β₁ᵗ.
    Rate,
    /// 1 over √(1 − β₂ᵗ).
    RootCorrection,
    /// Added to the root of the second moment.
    Eps,
    /// 1 − learning rate · weight decay.
    Keep,
}

/// How many [`Constant`]s there are.
pub const CONSTANTS: usize = Constant::Keep as usize + 1;

/// `m = β₁ m + (1 − β₁) g; v = β₂ v + (1 − β₂) g²; w = keep · w − rate · m / (√v · correction + eps)`,
/// the gradient zeroed after that; items: chunks of [`CHUNK`] elements.
pub struct AdamW {
    /// Whether weights are rounded to bf16 values, up or down with the probability that keeps
    /// them right on average. What decides depends on the element's number and the argument `key`.
    pub stochastic_bf16: bool,
}

/// Base addresses.
struct Operands {
    weight: Val,
    gradient: Val,
    moment1: Val,
    moment2: Val,
    constants: Val,
    /// The number that rounding depends on and the numbers of the lanes.
    rounding: Option<(Val, Val)>,
}

impl Spec for AdamW {
    fn name(&self) -> String {
        match self.stochastic_bf16 {
            true => "adamw_bf16".into(),
            false => "adamw_f32".into(),
        }
    }

    fn build(&self, vectors: Vectors) -> Kernel {
        let mut b = Builder::new(&self.name(), vectors.bytes);
        let mut operands = Operands {
            weight: b.output("weight"),
            gradient: b.output("gradient"),
            moment1: b.output("moment1"),
            moment2: b.output("moment2"),
            constants: b.input("constants"),
            rounding: None,
        };
        let n = b.scalar("n");
        if self.stochastic_bf16 {
            let key = b.scalar("key");
            operands.rounding = Some((b.trunc(key), lane_numbers(&mut b)));
        }
        let (lanes, vector) = (b.lanes() as i64, b.vec(Elem::F32));
        let shift = lanes.trailing_zeros() as u8;
        let (begin, end) = b.range();
        b.for_range(begin, end, 1, |b, item| {
            let (first, last) = block_of_rows(b, item, CHUNK as i64, n);
            let length = b.sub(last, first);
            let whole = b.shr(length, shift);
            let whole = b.shl(whole, shift);
            let whole = b.add(first, whole);
            b.for_range(first, whole, lanes, |b, i| operands.step(b, i, vector));
            b.for_range(whole, last, 1, |b, i| operands.step(b, i, Ty::F32));
        });
        b.finish()
    }
}

impl Operands {
    fn constant(&self, b: &mut Builder, which: Constant, ty: Ty) -> Val {
        let x = b.load(Ty::F32, self.constants, which as i32 * 4);
        broadcast(b, x, ty)
    }

    /// Updates elements from `i` on.
    fn step(&self, b: &mut Builder, i: Val, ty: Ty) {
        let places = [self.weight, self.gradient, self.moment1, self.moment2];
        let places = places.map(|base| b.at(base, i, 4));
        let [w, g, m, v] = places.map(|at| b.load(ty, at, 0));
        let factor = self.constant(b, Constant::GradientFactor, ty);
        let g = b.mul(g, factor);
        let (kept, new) = (Constant::Beta1, Constant::OneMinusBeta1);
        let m = self.average(b, m, g, [kept, new]);
        let square = b.mul(g, g);
        let (kept, new) = (Constant::Beta2, Constant::OneMinusBeta2);
        let v = self.average(b, v, square, [kept, new]);
        let root = b.un(UnOp::Sqrt, v);
        let correction = self.constant(b, Constant::RootCorrection, ty);
        let eps = self.constant(b, Constant::Eps, ty);
        let denominator = b.fma(root, correction, eps);
        let rate = self.constant(b, Constant::Rate, ty);
        let step = b.mul(m, rate);
        let step = b.div(step, denominator);
        let keep = self.constant(b, Constant::Keep, ty);
        let w = b.mul(w, keep);
        let w = b.sub(w, step);
        let w = match self.rounding {
            Some((key, lanes)) => round(b, w, i, key, lanes),
            None => w,
        };
        let zero = b.float_of(ty, 0.0);
        for (at, value) in places.into_iter().zip([w, zero, m, v]) {
            b.store(at, 0, value);
        }
    }

    /// x · kept + new · y.
    fn average(&self, b: &mut Builder, x: Val, y: Val, [kept, new]: [Constant; 2]) -> Val {
        let ty = b.ty(x);
        let (kept, new) = (self.constant(b, kept, ty), self.constant(b, new, ty));
        let part = b.mul(y, new);
        b.fma(x, kept, part)
    }
}

/// Adds 16 random bits below those that bf16 has and cuts off there. The bits are a hash of the
/// element's number (two rounds of multiplication and shift).
fn round(b: &mut Builder, w: Val, i: Val, key: Val, lanes: Val) -> Val {
    let i = b.trunc(i);
    let (index, key) = match b.ty(w).lanes {
        1 => (i, key),
        _ => {
            let ints = b.vec(Elem::I32);
            let base = b.emit(ints, Inst::Splat(i));
            let numbers = b.load(ints, lanes, 0);
            (b.add(base, numbers), b.emit(ints, Inst::Splat(key)))
        }
    };
    let ty = b.ty(index);
    let mut x = b.xor(index, key);
    for (shift, factor) in [(16, 0x7feb_352d), (15, 0x846c_a68b)] {
        let high = b.shr(x, shift);
        x = b.xor(x, high);
        let factor = b.int_of(ty, factor);
        x = b.mul(x, factor);
    }
    let random = b.shr(x, 16);
    let bits = b.bitcast(w, Elem::I32);
    let sum = b.add(bits, random);
    let mask = b.int_of(ty, 0xffff_0000);
    let kept = b.and(sum, mask);
    b.bitcast(kept, Elem::F32)
}
