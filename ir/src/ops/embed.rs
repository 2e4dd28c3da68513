//! Token embedding.

use super::matrix;
use super::scatter_add::ScatterAdd;
use crate::gradient::{Backward, GradientError};
use crate::interp::{EvalContext, EvalError};
use crate::op;
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::{DType, Dim, Type};

op! {
    /// Rows of a table by token id, times a scale.
    Embed = "embed"("table", "ids") {
        /// Factor on every element (Gemma: √hidden_size; else 1).
        scale: f32,
    }
}

impl OpRules for Embed {
    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let (_, d) = matrix("table", operands[0])?;
        match (operands[1].dtype, operands[1].shape.as_slice()) {
            (DType::I32, [rows]) => Ok(Type::new(DType::F32, [*rows, Dim::Fixed(d)])),
            _ => Err(format!("ids must be i32[T], found {}", operands[1])),
        }
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let (table, ids) = (operands[0], operands[1].ints());
        let d = table.width();
        let mut out = Vec::with_capacity(ids.len() * d);
        for &id in ids {
            let row = usize::try_from(id).ok().filter(|r| *r < table.rows());
            let row = row.ok_or_else(|| {
                EvalError::new(format!("token id {id} is outside 0..{}", table.rows()))
            })?;
            out.extend(
                table.floats()[row * d..][..d]
                    .iter()
                    .map(|x| *x * F::from_f32(self.scale)),
            );
        }
        Ok(Tensor::real(&[ids.len(), d], out))
    }

    fn gradient(&self, b: &mut Backward<'_>) -> Result<(), GradientError> {
        let (ty, scale) = (b.gradient_type(0), self.scale);
        b.give(0, ScatterAdd { ty, scale }, &[b.dy(), b.operand(1)])
    }
}
