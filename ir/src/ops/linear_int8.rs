//! The linear layer with int8 weights and one scale a row.

use super::{activation, same, vector};
use crate::interp::{EvalContext, EvalError};
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::{DType, Dim, Type};
use crate::{no_gradient, op};

op! {
    /// y_r = s_r Σ_j x_j q_rj with int8 weights q [d_out, d_in] and f32 scales s [d_out].
    LinearInt8 = "linear_int8"("x", "data", "scale") {}
}

impl OpRules for LinearInt8 {
    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let (rows, d) = activation("x", operands[0])?;
        let (d_out, d_in) = match (operands[1].dtype, operands[1].shape.as_slice()) {
            (DType::I8, [Dim::Fixed(o), Dim::Fixed(i)]) => (*o, *i),
            _ => {
                return Err(format!(
                    "data must be i8[d_out,d_in], found {}",
                    operands[1]
                ));
            }
        };
        same("width of x", d_in, d)?;
        same("length of scale", d_out, vector("scale", operands[2])?)?;
        Ok(Type::new(DType::F32, [rows, Dim::Fixed(d_out)]))
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let (x, q, scale) = (operands[0], operands[1], operands[2].floats());
        let d_in = q.width();
        let mut out = Vec::with_capacity(x.rows() * scale.len());
        for row in x.floats().chunks(d_in.max(1)) {
            for (q, s) in q.raw().chunks(d_in.max(1)).zip(scale) {
                let sum: f64 = q
                    .iter()
                    .zip(row)
                    .map(|(&q, x)| f64::from(q as i8) * x.wide())
                    .sum();
                out.push(F::round(sum * s.wide()));
            }
        }
        Ok(Tensor::real(&[x.rows(), scale.len()], out))
    }

    no_gradient!("its weight is stored in integers");
}
