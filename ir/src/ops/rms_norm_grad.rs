//! Gradients of root-mean-square normalisation.
//!
//! With n channels in a group, r = 1 / √(mean(x²) + eps) and v = w, or 1 + w with a unit offset:
//! y = r x ⊙ v, so dx = r (v ⊙ dy − x r² mean(x ⊙ v ⊙ dy)) and dw = Σ r x ⊙ dy.

use super::{alike, not_negative, vector};
use crate::interp::{EvalContext, EvalError};
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::{DType, Type};
use crate::{no_gradient, op};

op! {
    /// The gradient of `rms_norm` with respect to x.
    RmsNormGrad = "rms_norm_grad"("x", "weight", "dy") {
        /// Added to the mean square.
        eps: f32,
        /// Whether the norm multiplies by 1 + w instead of w.
        unit_offset: bool,
    }
}

op! {
    /// The gradient of `rms_norm` with respect to its weight.
    RmsNormWeightGrad = "rms_norm_weight_grad"("x", "dy") {
        /// Added to the mean square.
        eps: f32,
        /// Channels of a group: the length of the weight.
        group: usize,
    }
}

fn check(x: &Type, dy: &Type, eps: f32, group: usize) -> Result<Type, String> {
    let ty = alike(("x", x), ("dy", dy))?;
    not_negative("eps", eps)?;
    match ty.last().and_then(|d| d.checked_rem(group)) {
        Some(0) => Ok(ty),
        _ => Err(format!(
            "the channels of {ty} are not whole groups of {group}"
        )),
    }
}

/// 1 / √(mean(x²) + eps).
fn inverse_rms<F: Real>(x: &[F], eps: f32) -> f64 {
    let square: f64 = x.iter().map(|x| x.wide() * x.wide()).sum();
    1.0 / (square / x.len() as f64 + f64::from(eps)).sqrt()
}

impl OpRules for RmsNormGrad {
    no_gradient!("second derivatives are not provided");

    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let group = vector("weight", operands[1])?;
        check(operands[0], operands[2], self.eps, group)
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let (x, weight, dy) = (operands[0], operands[1].floats(), operands[2]);
        let offset = if self.unit_offset { 1.0 } else { 0.0 };
        let mut out = Vec::with_capacity(x.floats().len());
        let groups = x.floats().chunks(weight.len());
        for (x, dy) in groups.zip(dy.floats().chunks(weight.len())) {
            let scale = inverse_rms(x, self.eps);
            let pulls = weight
                .iter()
                .zip(dy)
                .map(|(w, dy)| (offset + w.wide()) * dy.wide());
            let mean = x
                .iter()
                .zip(pulls.clone())
                .map(|(x, p)| x.wide() * p)
                .sum::<f64>();
            let shrink = mean / x.len() as f64 * scale * scale;
            let rows = x.iter().zip(pulls);
            out.extend(rows.map(|(x, p)| F::round(scale * (p - x.wide() * shrink))));
        }
        Ok(Tensor::real(&x.shape, out))
    }
}

impl OpRules for RmsNormWeightGrad {
    no_gradient!("second derivatives are not provided");

    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        check(operands[0], operands[1], self.eps, self.group)?;
        Ok(Type::fixed(DType::F32, &[self.group]))
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let mut sums = vec![0.0; self.group];
        let groups = operands[0].floats().chunks(self.group);
        for (x, dy) in groups.zip(operands[1].floats().chunks(self.group)) {
            let scale = inverse_rms(x, self.eps);
            for (sum, (x, dy)) in sums.iter_mut().zip(x.iter().zip(dy)) {
                *sum += scale * x.wide() * dy.wide();
            }
        }
        let sums = sums.into_iter().map(F::round).collect();
        Ok(Tensor::real(&[self.group], sums))
    }
}
