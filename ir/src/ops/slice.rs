//! A view of some columns.

use super::activation;
use crate::interp::{EvalContext, EvalError};
use crate::op;
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::{DType, Dim, Type};

op! {
    /// Columns start..start+len; a view, never a copy.
    Slice = "slice"("x") {
        /// First column.
        start: usize,
        /// Number of columns.
        len: usize,
    }
}

impl OpRules for Slice {
    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let (rows, d) = activation("x", operands[0])?;
        match self.start.checked_add(self.len) {
            Some(end) if end <= d && self.len > 0 => {
                Ok(Type::new(DType::F32, [rows, Dim::Fixed(self.len)]))
            }
            _ => Err(format!(
                "{} columns from {} are not within 0..{d}",
                self.len, self.start
            )),
        }
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let x = operands[0];
        let rows = x.floats().chunks(x.width().max(1));
        let data = rows.flat_map(|r| &r[self.start..][..self.len]).copied();
        Ok(Tensor::real(&[x.rows(), self.len], data.collect()))
    }
}
