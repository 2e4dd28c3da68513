//! Rotary position embedding (Su et al., arXiv 2104.09864), half-rotation form.

use super::{activation, same, vector};
use crate::gradient::{Backward, GradientError};
use crate::interp::{EvalContext, EvalError};
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::{DType, Dim, Type};
use crate::{no_gradient, op};

op! {
    /// cos (first half) and sin (second half) of position · inv_freq, for every token.
    RopeTable = "rope_table"("positions", "inv_freq") {
        /// Factor on cos and sin (YaRN; else 1).
        attention_factor: f32,
    }
}

op! {
    /// Rotates the pairs (i, i + head_dim/2) of every head by the angles of a [`RopeTable`].
    Rope = "rope"("x", "table") {}
}

op! {
    /// The gradient of [`Rope`] with respect to x: the rotation the other way, by −θ.
    RopeGrad = "rope_grad"("dy", "table") {}
}

impl OpRules for RopeTable {
    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let half = vector("inv_freq", operands[1])?;
        match (operands[0].dtype, operands[0].shape.as_slice()) {
            (DType::I32, [rows]) => {
                let head_dim = half.checked_mul(2).ok_or("head_dim overflows")?;
                Ok(Type::new(DType::F32, [*rows, Dim::Fixed(head_dim)]))
            }
            _ => Err(format!("positions must be i32[T], found {}", operands[0])),
        }
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let (positions, inv_freq) = (operands[0].ints(), F::to_f32s(operands[1].floats()));
        let mut out = Vec::with_capacity(positions.len() * inv_freq.len() * 2);
        for &p in positions {
            let angles = inv_freq.iter().map(|f| p as f32 * f);
            out.extend(angles.clone().map(|a| a.cos() * self.attention_factor));
            out.extend(angles.map(|a| a.sin() * self.attention_factor));
        }
        let shape = [positions.len(), inv_freq.len() * 2];
        Ok(Tensor::real(&shape, F::from_f32s(out)))
    }

    no_gradient!("positions are integers and frequencies are not trained");
}

fn infer_rotation(name: &str, operands: &[&Type]) -> Result<Type, String> {
    let (rows, d) = activation(name, operands[0])?;
    let (table_rows, head_dim) = activation("table", operands[1])?;
    if rows != table_rows {
        return Err(format!("{name} has {rows} rows, the table {table_rows}"));
    }
    if head_dim % 2 != 0 {
        return Err(format!("head_dim is {head_dim}, it must be even"));
    }
    same("channels left over from whole heads", 0, d % head_dim)?;
    Ok(operands[0].clone())
}

/// Rotates by the angles of the table times `direction`, 1 or −1.
fn rotate<F: Real>(operands: &[&Tensor<F>], direction: F) -> Tensor<F> {
    let (x, table) = (operands[0], operands[1]);
    let (head_dim, half) = (table.width(), table.width() / 2);
    let mut out = vec![F::default(); x.floats().len()];
    for t in 0..x.rows() {
        let (cos, sin) = table.floats()[t * head_dim..][..head_dim].split_at(half);
        let row = t * x.width()..(t + 1) * x.width();
        let heads = x.floats()[row.clone()].chunks(head_dim);
        for (x, y) in heads.zip(out[row].chunks_mut(head_dim)) {
            for i in 0..half {
                let sin = sin[i] * direction;
                y[i] = x[i] * cos[i] - x[i + half] * sin;
                y[i + half] = x[i + half] * cos[i] + x[i] * sin;
            }
        }
    }
    Tensor::real(&x.shape, out)
}

impl OpRules for Rope {
    const CHEAP: bool = true;

    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        infer_rotation("x", operands)
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        Ok(rotate(operands, F::from_f32(1.0)))
    }

    fn gradient(&self, b: &mut Backward<'_>) -> Result<(), GradientError> {
        b.give(0, RopeGrad {}, &[b.dy(), b.operand(1)])
    }
}

impl OpRules for RopeGrad {
    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        infer_rotation("dy", operands)
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        Ok(rotate(operands, F::from_f32(-1.0)))
    }

    fn gradient(&self, b: &mut Backward<'_>) -> Result<(), GradientError> {
        b.give(0, Rope {}, &[b.dy(), b.operand(1)])
    }
}
