//! Ops that work on each element by itself.

use super::{activation, not_negative, same, vector};
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

fn map<F: Real>(x: &Tensor<F>, f: impl Fn(f64) -> f64) -> Tensor<F> {
    let data = x.floats().iter().map(|v| F::round(f(v.wide()))).collect();
    Tensor::real(&x.shape, data)
}

fn zip<F: Real>(a: &Tensor<F>, b: &Tensor<F>, f: impl Fn(F, F) -> F) -> Tensor<F> {
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

impl OpRules for AddBias {
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
}

macro_rules! elementwise {
    ($($op:ident($infer:expr, $self:ident, $operands:ident) = $eval:expr;)*) => {$(
        impl OpRules for $op {
            fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
                $infer(operands)
            }
            fn eval<F: Real>(&$self, _: &mut EvalContext<'_, F>, $operands: &[&Tensor<F>]) -> Result<Tensor<F>, EvalError> {
                Ok($eval)
            }
        }
    )*};
}

fn infer_one(operands: &[&Type]) -> Result<Type, String> {
    activation("x", operands[0])?;
    Ok(operands[0].clone())
}

elementwise! {
    Add(infer_pair, self, o) = zip(o[0], o[1], |a, b| a + b);
    Mul(infer_pair, self, o) = zip(o[0], o[1], |a, b| a * b);
    Silu(infer_one, self, o) = map(o[0], silu);
    GeluTanh(infer_one, self, o) = map(o[0], gelu_tanh);
}

impl OpRules for Softcap {
    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        not_negative("cap", self.cap)?;
        if self.cap == 0.0 {
            return Err("cap must be above 0".into());
        }
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
}
