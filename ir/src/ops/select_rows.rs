//! Picks the rows whose logits are asked for.

use super::activation;
use super::scatter_add::ScatterAdd;
use crate::gradient::{Backward, GradientError};
use crate::interp::{EvalContext, EvalError};
use crate::op;
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::{DType, Dim, Type};

op! {
    /// Rows of x by index.
    SelectRows = "select_rows"("x", "rows") {}
}

impl OpRules for SelectRows {
    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let (_, d) = activation("x", operands[0])?;
        match (operands[1].dtype, operands[1].shape.as_slice()) {
            (DType::I32, [rows]) => Ok(Type::new(DType::F32, [*rows, Dim::Fixed(d)])),
            _ => Err(format!("rows must be i32[R], found {}", operands[1])),
        }
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let (x, rows) = (operands[0], operands[1].ints());
        let d = x.width();
        let mut out = Vec::with_capacity(rows.len() * d);
        for &row in rows {
            let index = usize::try_from(row).ok().filter(|r| *r < x.rows());
            let index = index
                .ok_or_else(|| EvalError::new(format!("row {row} is outside 0..{}", x.rows())))?;
            out.extend_from_slice(&x.floats()[index * d..][..d]);
        }
        Ok(Tensor::real(&[rows.len(), d], out))
    }

    fn gradient(&self, b: &mut Backward<'_>) -> Result<(), GradientError> {
        let (ty, scale) = (b.gradient_type(0), 1.0);
        b.give(0, ScatterAdd { ty, scale }, &[b.dy(), b.operand(1)])
    }
}
