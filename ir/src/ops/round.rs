//! Rounding within a training graph.

use crate::gradient::{Backward, GradientError};
use crate::interp::{EvalContext, EvalError};
use crate::op;
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::{DType, Type};

op! {
    /// x rounded to another float type and widened again; the gradient passes as it is.
    ///
    /// What is trained in f32 and stored in 16 bits goes through here, so that the forward pass
    /// computes with the values that are stored. Rounding has a derivative of 0 almost everywhere:
    /// the gradient is a straight-through estimate.
    Round = "round"("x") {
        /// The type whose values the result has: f32, f16 or bf16.
        to: DType,
    }
}

impl OpRules for Round {
    const CHEAP: bool = true;

    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        if !self.to.is_float() || !operands[0].dtype.is_float() {
            return Err(format!("rounds {} to {}", operands[0], self.to));
        }
        Ok(Type::new(DType::F32, operands[0].shape.clone()))
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let round = |x: &F| match self.to {
            DType::F16 => F::from_f32(half::f16::from_f32(x.narrow()).to_f32()),
            DType::BF16 => F::from_f32(half::bf16::from_f32(x.narrow()).to_f32()),
            _ => *x,
        };
        let data = operands[0].floats().iter().map(round).collect();
        Ok(Tensor::real(&operands[0].shape, data))
    }

    fn gradient(&self, b: &mut Backward<'_>) -> Result<(), GradientError> {
        b.pass(0, b.dy());
        Ok(())
    }
}
