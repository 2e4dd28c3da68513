//! A view of some columns, and its gradient.

use super::activation;
use crate::gradient::{Backward, GradientError};
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

op! {
    /// x in columns start..start+d of a matrix of `width` columns, zeros in the others.
    PadColumns = "pad_columns"("x") {
        /// First column.
        start: usize,
        /// Columns of the result.
        width: usize,
    }
}

impl OpRules for Slice {
    const CHEAP: bool = true;

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

    fn gradient(&self, b: &mut Backward<'_>) -> Result<(), GradientError> {
        let (start, width) = (self.start, b.ty(0).last().unwrap_or(0));
        b.give(0, PadColumns { start, width }, &[b.dy()])
    }
}

impl OpRules for PadColumns {
    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let (rows, d) = activation("x", operands[0])?;
        let (start, width) = (self.start, self.width);
        match start.checked_add(d) {
            Some(end) if end <= width => Ok(Type::new(DType::F32, [rows, Dim::Fixed(width)])),
            _ => Err(format!(
                "{d} columns from {start} are not within 0..{width}"
            )),
        }
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let x = operands[0];
        let mut out = vec![F::default(); x.rows() * self.width];
        let rows = x.floats().chunks(x.width()).zip(out.chunks_mut(self.width));
        for (x, y) in rows {
            y[self.start..][..x.len()].copy_from_slice(x);
        }
        Ok(Tensor::real(&[x.rows(), self.width], out))
    }

    fn gradient(&self, b: &mut Backward<'_>) -> Result<(), GradientError> {
        let (start, len) = (self.start, b.ty(0).last().unwrap_or(0));
        b.give(0, Slice { start, len }, &[b.dy()])
    }
}
