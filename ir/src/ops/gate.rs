//! The gated activation of SwiGLU and GeGLU blocks (Shazeer, arXiv 2002.05202).

use super::elementwise::{gelu_tanh, gelu_tanh_derivative, infer_pair, silu, silu_derivative};
use super::elementwise_grad::GateGrad;
use crate::gradient::{Backward, GradientError};
use crate::interp::{EvalContext, EvalError};
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::Type;
use crate::{op, word_attr};

word_attr! {
    /// An activation function.
    pub enum Activation {
        /// x · sigmoid(x)
        Silu = "silu",
        /// GELU, tanh form
        GeluTanh = "gelu_tanh",
    }
}

impl Activation {
    /// The function, in f64.
    pub fn apply(self, x: f64) -> f64 {
        match self {
            Activation::Silu => silu(x),
            Activation::GeluTanh => gelu_tanh(x),
        }
    }

    /// Its derivative, in f64.
    pub fn derivative(self, x: f64) -> f64 {
        match self {
            Activation::Silu => silu_derivative(x),
            Activation::GeluTanh => gelu_tanh_derivative(x),
        }
    }
}

op! {
    /// act(gate) ⊙ up.
    Gate = "gate"("gate", "up") {
        /// The activation on `gate`.
        act: Activation,
    }
}

/// act(gate) ⊙ up over slices.
pub fn gated<F: Real>(act: Activation, gate: &[F], up: &[F]) -> Vec<F> {
    let pairs = gate.iter().zip(up);
    pairs
        .map(|(g, u)| F::round(act.apply(g.wide()) * u.wide()))
        .collect()
}

impl OpRules for Gate {
    const CHEAP: bool = true;

    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        infer_pair(operands)
    }
    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let data = gated(self.act, operands[0].floats(), operands[1].floats());
        Ok(Tensor::real(&operands[0].shape, data))
    }

    fn gradient(&self, b: &mut Backward<'_>) -> Result<(), GradientError> {
        let (act, dy) = (self.act, b.dy());
        let (gate, up) = (b.operand(0), b.operand(1));
        b.give(0, GateGrad { act }, &[gate, up, dy])?;
        b.give(1, Gate { act }, &[gate, dy])
    }
}
