//! The gated activation of SwiGLU and GeGLU blocks (Shazeer, arXiv 2002.05202).

use super::elementwise::{gelu_tanh, infer_pair, silu};
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
}
