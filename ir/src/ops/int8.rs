//! Rounding a dense weight to int8, evaluated when an artifact is written.

use super::matrix;
use crate::interp::{EvalContext, EvalError};
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::{Data, Tensor};
use crate::types::{DType, Type};
use crate::{no_gradient, op};

op! {
    /// W rounded to int8 with one symmetric scale a row: round(w / s_r).
    Int8Data = "int8_data"("weight") {}
}

op! {
    /// The scales of [`Int8Data`]: s_r = max_j |w_rj| / 127, and 1 for a row of zeros.
    Int8Scale = "int8_scale"("weight") {}
}

fn row_scale(row: &[f32]) -> f32 {
    let largest = row.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    if largest == 0.0 { 1.0 } else { largest / 127.0 }
}

impl OpRules for Int8Data {
    const COMPILE_TIME: bool = true;
    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let (d_out, d_in) = matrix("weight", operands[0])?;
        Ok(Type::fixed(DType::I8, &[d_out, d_in]))
    }
    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let w = operands[0];
        let mut out = Vec::with_capacity(w.floats().len());
        for row in F::to_f32s(w.floats()).chunks(w.width().max(1)) {
            let scale = row_scale(row);
            out.extend(
                row.iter()
                    .map(|x| (x / scale).round_ties_even() as i8 as u8),
            );
        }
        Ok(Tensor::of_bytes(DType::I8, &w.shape, out))
    }

    no_gradient!("it is evaluated when an artifact is written");
}

impl OpRules for Int8Scale {
    const COMPILE_TIME: bool = true;
    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let (d_out, _) = matrix("weight", operands[0])?;
        Ok(Type::fixed(DType::F32, &[d_out]))
    }
    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let w = operands[0];
        let rows = F::to_f32s(w.floats());
        let scales = rows.chunks(w.width().max(1)).map(row_scale).collect();
        Ok(Tensor {
            dtype: DType::F32,
            shape: vec![w.rows()],
            data: Data::F32(F::from_f32s(scales)),
        })
    }

    no_gradient!("it is evaluated when an artifact is written");
}
