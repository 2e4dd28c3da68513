//! The dense linear layer.

use super::matmul::{Matmul, MatmulTn};
use super::{activation, matrix, same};
use crate::gradient::{Backward, GradientError};
use crate::interp::{EvalContext, EvalError};
use crate::op;
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::{DType, Dim, Type};

op! {
    /// y = x Wᵀ with a dense weight W [d_out, d_in].
    Linear = "linear"("x", "weight") {}
}

/// Dot product accumulated in f64.
pub(crate) fn dot<F: Real>(a: &[F], b: &[F]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x.wide() * y.wide()).sum()
}

impl OpRules for Linear {
    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let (rows, d) = activation("x", operands[0])?;
        let (d_out, d_in) = matrix("weight", operands[1])?;
        same("width of x", d_in, d)?;
        Ok(Type::new(DType::F32, [rows, Dim::Fixed(d_out)]))
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let (x, w) = (operands[0], operands[1]);
        let (d_in, d_out) = (w.width(), w.rows());
        let mut out = Vec::with_capacity(x.rows() * d_out);
        for row in x.floats().chunks(d_in.max(1)) {
            out.extend(
                w.floats()
                    .chunks(d_in.max(1))
                    .map(|w| F::round(dot(row, w))),
            );
        }
        Ok(Tensor::real(&[x.rows(), d_out], out))
    }

    fn gradient(&self, b: &mut Backward<'_>) -> Result<(), GradientError> {
        b.give(0, Matmul {}, &[b.dy(), b.operand(1)])?;
        b.give(1, MatmulTn {}, &[b.dy(), b.operand(0)])
    }
}
