//! Ops that work on each element by itself; items: rows × chunks of columns.

use super::shape::{address, for_chunks, for_columns};
use super::{Float, Spec, Vectors, math};
use crate::kir::{Builder, Kernel, Ty, Val};
use rabitc_ir::ops::gate::Activation;

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    /// a + b
    Add,
    /// a · b
    Mul,
    /// act(a) · b
    Gate(Activation),
    /// act(a)
    Act(Activation),
    /// cap · tanh(a / cap)
    Softcap(f32),
    /// a + bias, the same for every row
    AddBias(Float),
}

/// One function over rows of `d` columns.
pub struct Elementwise {
    /// What is computed.
    pub function: Function,
    /// Columns.
    pub d: usize,
    /// Elements a row of a.
    pub a_stride: usize,
    /// Elements a row of b, where there is one.
    pub b_stride: usize,
}

/// Applies an activation function.
pub fn activate(b: &mut Builder, act: Activation, x: Val) -> Val {
    match act {
        Activation::Silu => math::silu(b, x),
        Activation::GeluTanh => math::gelu_tanh(b, x),
    }
}

impl Spec for Elementwise {
    fn name(&self) -> String {
        let (d, a) = (self.d, self.a_stride);
        match self.function {
            Function::Add => format!("add_d{d}_a{a}_b{}", self.b_stride),
            Function::Mul => format!("mul_d{d}_a{a}_b{}", self.b_stride),
            Function::Gate(act) => format!("gate_{}_d{d}_a{a}_b{}", act.name(), self.b_stride),
            Function::Act(act) => format!("{}_d{d}_a{a}", act.name()),
            Function::Softcap(cap) => format!("softcap_{:08x}_d{d}_a{a}", cap.to_bits()),
            Function::AddBias(float) => format!("add_bias_{}_d{d}_a{a}", float.name()),
        }
    }

    fn build(&self, vectors: Vectors) -> Kernel {
        let mut b = Builder::new(&self.name(), vectors.bytes);
        let a = b.input("a");
        let second = match self.function {
            Function::Add | Function::Mul | Function::Gate(_) => Some(b.input("b")),
            Function::AddBias(_) => Some(b.input("bias")),
            _ => None,
        };
        let out = b.output("out");
        for_chunks(&mut b, self.d as i64, &mut |b, row, first, columns| {
            let a = address(b, a, row, self.a_stride as i64, first);
            let second = second.map(|s| match self.function {
                Function::AddBias(float) => b.at(s, first, float.bytes()),
                _ => address(b, s, row, self.b_stride as i64, first),
            });
            let out = address(b, out, row, self.d as i64, first);
            for_columns(b, columns, &mut |b, column, ty| {
                let at = b.at(a, column, 4);
                let x = b.load(ty, at, 0);
                let y = self.apply(b, x, second, column, ty);
                let at = b.at(out, column, 4);
                b.store(at, 0, y);
            });
        });
        b.finish()
    }
}

impl Elementwise {
    fn apply(&self, b: &mut Builder, x: Val, second: Option<Val>, column: Val, ty: Ty) -> Val {
        let other = |b: &mut Builder, float: Float| {
            let base = second.expect("two-operand functions have a second pointer");
            let at = b.at(base, column, float.bytes());
            b.load_as(ty, float.mem(), at, 0)
        };
        match self.function {
            Function::Act(act) => activate(b, act, x),
            Function::Softcap(cap) => math::softcap(b, x, cap),
            Function::Add => {
                let y = other(b, Float::F32);
                b.add(x, y)
            }
            Function::Mul => {
                let y = other(b, Float::F32);
                b.mul(x, y)
            }
            Function::AddBias(float) => {
                let y = other(b, float);
                b.add(x, y)
            }
            Function::Gate(act) => {
                let y = other(b, Float::F32);
                let x = activate(b, act, x);
                b.mul(x, y)
            }
        }
    }
}
