//! Ops that work on each element by itself.

use super::elementwise_grad::{ActivationGrad, SoftcapGrad};
use super::gate::Activation;
use super::sums::SumRows;
use super::{activation, not_negative, same, vector};
use crate::gradient::{Backward, GradientError};
use crate::interp::{EvalContext, EvalError};
use crate::op;
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::Type;

op! {
    /// x + b, the same bias for every row.
    AddBias = "add_bias"("x", "bias") {}
}
op! {
    /// a + b.
    Add = "add"("a", "b") {}
}
op! {
    /// a ⊙ b.
    Mul = "mul"("a", "b") {}
}
op! {
    /// x · sigmoid(x).
    Silu = "silu"("x") {}
}
op! {
    /// GELU in its tanh form (Hendrycks & Gimpel, arXiv 1606.08415).
    GeluTanh = "gelu_tanh"("x") {}
}
op! {
    /// cap · tanh(x / cap).
    Softcap = "softcap"("x") {
        /// The bound on the result's magnitude; positive.
        cap: f32,
    }
}

/// x · sigmoid(x).
pub fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// ½ x (1 + tanh(√(2/π) (x + 0.044715 x³))).
pub fn gelu_tanh(x: f64) -> f64 {
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
    0.5 * x * (1.0 + inner.tanh())
}

/// The derivative of [`silu`]: σ (1 + x (1 − σ)) with σ = sigmoid(x).
pub fn silu_derivative(x: f64) -> f64 {
    let sigmoid = 1.0 / (1.0 + (-x).exp());
    sigmoid * (1.0 + x * (1.0 - sigmoid))
}

/// The derivative of [`gelu_tanh`]: ½ (1 + t) + ½ x (1 − t²) u′ with t = tanh(u) and
/// u = √(2/π) (x + 0.044715 x³).
pub fn gelu_tanh_derivative(x: f64) -> f64 {
    let factor = (2.0 / std::f64::consts::PI).sqrt();
    let t = (factor * (x + 0.044_715 * x * x * x)).tanh();
    let slope = factor * (1.0 + 3.0 * 0.044_715 * x * x);
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope
}

pub(super) fn map<F: Real>(x: &Tensor<F>, f: impl Fn(f64) -> f64) -> Tensor<F> {
    let data = x.floats().iter().map(|v| F::round(f(v.wide()))).collect();
    Tensor::real(&x.shape, data)
}

pub(super) fn zip<F: Real>(a: &Tensor<F>, b: &Tensor<F>, f: impl Fn(F, F) -> F) -> Tensor<F> {
    let pairs = a.floats().iter().zip(b.floats());
    Tensor::real(&a.shape, pairs.map(|(&a, &b)| f(a, b)).collect())
}

pub(crate) fn infer_pair(operands: &[&Type]) -> Result<Type, String> {
    activation("a", operands[0])?;
    if operands[0] != operands[1] {
        let (a, b) = (operands[0], operands[1]);
        return Err(format!("operands differ: {a} and {b}"));
    }
    Ok(operands[0].clone())
}

/// Requires a cap above 0.
pub(super) fn not_zero(cap: f32) -> Result<(), String> {
    not_negative("cap", cap)?;
    match cap == 0.0 {
        true => Err("cap must be above 0".into()),
        false => Ok(()),
    }
}

impl OpRules for AddBias {
    const CHEAP: bool = true;

    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let (_, d) = activation("x", operands[0])?;
        same("length of bias", d, vector("bias", operands[1])?)?;
        Ok(operands[0].clone())
    }
    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let bias = operands[1].floats().iter().cycle();
        let sums = operands[0].floats().iter().zip(bias).map(|(&x, &b)| x + b);
        Ok(Tensor::real(&operands[0].shape, sums.collect()))
    }

    fn gradient(&self, b: &mut Backward<'_>) -> Result<(), GradientError> {
        b.pass(0, b.dy());
        b.give(1, SumRows {}, &[b.dy()])
    }
}

macro_rules! elementwise {
    ($($op:ident($infer:expr, cheap = $cheap:literal, $self:ident, $operands:ident, $b:ident) = $eval:expr, $gradient:expr;)*) => {$(
        impl OpRules for $op {
            const CHEAP: bool = $cheap;
            fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
                $infer(operands)
            }
            fn eval<F: Real>(&$self, _: &mut EvalContext<'_, F>, $operands: &[&Tensor<F>]) -> Result<Tensor<F>, EvalError> {
                Ok($eval)
            }
            fn gradient(&self, $b: &mut Backward<'_>) -> Result<(), GradientError> {
                $gradient
            }
        }
    )*};
}

fn infer_one(operands: &[&Type]) -> Result<Type, String> {
    activation("x", operands[0])?;
    Ok(operands[0].clone())
}

// A residual stream is a chain of sums: computing one again would take all that went into it.
elementwise! {
    Add(infer_pair, cheap = false, self, o, b) = zip(o[0], o[1], |a, b| a + b), {
        b.pass(0, b.dy());
        b.pass(1, b.dy());
        Ok(())
    };
    Mul(infer_pair, cheap = true, self, o, b) = zip(o[0], o[1], |a, b| a * b), {
        b.give(0, Mul {}, &[b.dy(), b.operand(1)])?;
        b.give(1, Mul {}, &[b.dy(), b.operand(0)])
    };
    Silu(infer_one, cheap = true, self, o, b) = map(o[0], silu), {
        let act = Activation::Silu;
        b.give(0, ActivationGrad { act }, &[b.operand(0), b.dy()])
    };
    GeluTanh(infer_one, cheap = true, self, o, b) = map(o[0], gelu_tanh), {
        let act = Activation::GeluTanh;
        b.give(0, ActivationGrad { act }, &[b.operand(0), b.dy()])
    };
}

impl OpRules for Softcap {
    const CHEAP: bool = true;

    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        not_zero(self.cap)?;
        infer_one(operands)
    }
    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let cap = f64::from(self.cap);
        Ok(map(operands[0], |x| cap * (x / cap).tanh()))
    }

    fn gradient(&self, b: &mut Backward<'_>) -> Result<(), GradientError> {
        b.give(0, SoftcapGrad { cap: self.cap }, &[b.operand(0), b.dy()])
    }
}
