//! A residual-binary layer taken apart: what the frontend emits and the fuse pass gathers.

use super::{activation, same};
use crate::interp::{EvalContext, EvalError};
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::{DType, Dim, Type};
use crate::{no_gradient, op};

op! {
    /// x ⊙ s[row], one factor a channel.
    Scale = "scale"("x", "scales") {
        /// Which row of the scales [k, d], i.e. which path.
        row: usize,
    }
}

op! {
    /// y = x Bᵀ with a matrix of signs B[path] of [d_out, d_in].
    BinaryMatmul = "binary_matmul"("x", "signs") {
        /// Which path of the signs [k, d_out, d_in].
        path: usize,
    }
}

impl OpRules for Scale {
    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let (_, d) = activation("x", operands[0])?;
        let (paths, channels) = super::matrix("scales", operands[1])?;
        same("channels of scales", d, channels)?;
        if self.row >= paths {
            return Err(format!("row {} of scales with {paths} rows", self.row));
        }
        Ok(operands[0].clone())
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let (x, d) = (operands[0], operands[0].width());
        let factors = operands[1].floats()[self.row * d..][..d].iter().cycle();
        let data = x.floats().iter().zip(factors).map(|(&x, &s)| x * s);
        Ok(Tensor::real(&x.shape, data.collect()))
    }

    no_gradient!("effective_weight is the form of a residual-binary layer for training");
}

impl OpRules for BinaryMatmul {
    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let (rows, d) = activation("x", operands[0])?;
        let (paths, d_out, d_in) = signs(operands[1])?;
        same("width of x", d_in, d)?;
        if self.path >= paths {
            return Err(format!("path {} of {paths}", self.path));
        }
        Ok(Type::new(DType::F32, [rows, Dim::Fixed(d_out)]))
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let (x, b) = (operands[0], operands[1]);
        let d_out = b.shape[1];
        let mut out = Vec::with_capacity(x.rows() * d_out);
        for x in x.floats().chunks(x.width().max(1)) {
            for row in 0..d_out {
                let row = self.path * d_out + row;
                let terms = x.iter().enumerate();
                let sum: f64 = terms
                    .map(|(j, x)| x.wide() * f64::from(b.sign(row, j)))
                    .sum();
                out.push(F::round(sum));
            }
        }
        Ok(Tensor::real(&[x.rows(), d_out], out))
    }

    no_gradient!("effective_weight is the form of a residual-binary layer for training");
}

/// Requires `bit[k,d_out,d_in]`, not empty, and gives `(k, d_out, d_in)`.
pub(crate) fn signs(ty: &Type) -> Result<(usize, usize, usize), String> {
    match (ty.dtype, ty.fixed_shape().as_deref()) {
        (DType::Bit, Some(&[k, o, i])) if k > 0 && o > 0 && i > 0 => Ok((k, o, i)),
        _ => Err(format!("signs must be bit[k,d_out,d_in], found {ty}")),
    }
}
