//! Adding rows into a matrix by index: the gradient of a row gather.

use super::activation;
use crate::interp::{EvalContext, EvalError};
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::{DType, Type};
use crate::{no_gradient, op};

op! {
    /// A matrix of zeros to whose row index[i] row i of x, times a scale, has been added.
    ScatterAdd = "scatter_add"("x", "index") {
        /// The result's type, f32; as many rows as there are tokens if its first dimension is T.
        ty: Type,
        /// Factor on every element.
        scale: f32,
    }
}

impl OpRules for ScatterAdd {
    no_gradient!("second derivatives are not provided");

    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let (rows, d) = activation("x", operands[0])?;
        if *operands[1] != Type::new(DType::I32, [rows]) {
            return Err(format!("index must be i32[{rows}], found {}", operands[1]));
        }
        let (_, width) = activation("the result", &self.ty)?;
        super::same("width of the result", d, width)?;
        match self.ty.storage_bytes() {
            None if self.ty.shape[0].fixed().is_some() => Err("the size overflows".into()),
            _ => Ok(self.ty.clone()),
        }
    }

    fn eval<F: Real>(
        &self,
        ctx: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let (x, index) = (operands[0], operands[1].ints());
        let (d, rows) = (x.width(), ctx.size(self.ty.shape[0])?);
        let mut sums = vec![0.0; rows * d];
        for (x, &row) in x.floats().chunks(d).zip(index) {
            let at = usize::try_from(row).ok().filter(|r| *r < rows);
            let at = at.ok_or_else(|| EvalError::new(format!("row {row} is outside 0..{rows}")))?;
            for (sum, x) in sums[at * d..][..d].iter_mut().zip(x) {
                *sum += x.wide() * f64::from(self.scale);
            }
        }
        let sums = sums.into_iter().map(F::round).collect();
        Ok(Tensor::real(&[rows, d], sums))
    }
}
