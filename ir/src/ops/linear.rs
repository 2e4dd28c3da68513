//! The dense linear layer.

use super::{activation, matrix, same};
use crate::interp::{EvalContext, EvalError};
use crate::op;
use crate::op::OpRules;
use crate::tensor::Tensor;
use crate::types::{DType, Dim, Type};

op! {
    /// y = x Wᵀ with a dense weight W [d_out, d_in].
    Linear = "linear"("x", "weight") {}
}

/// Dot product accumulated in f64.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&x, &y)| f64::from(x) * f64::from(y))
        .sum()
}

impl OpRules for Linear {
    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let (rows, d) = activation("x", operands[0])?;
        let (d_out, d_in) = matrix("weight", operands[1])?;
        same("width of x", d_in, d)?;
        Ok(Type::new(DType::F32, [rows, Dim::Fixed(d_out)]))
    }

    fn eval(&self, _: &mut EvalContext<'_>, operands: &[&Tensor]) -> Result<Tensor, EvalError> {
        let (x, w) = (operands[0], operands[1]);
        let (d_in, d_out) = (w.width(), w.rows());
        let mut out = Vec::with_capacity(x.rows() * d_out);
        for row in x.floats().chunks(d_in.max(1)) {
            out.extend(w.floats().chunks(d_in.max(1)).map(|w| dot(row, w) as f32));
        }
        Ok(Tensor::f32(&[x.rows(), d_out], out))
    }
}
