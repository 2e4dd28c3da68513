//! Root-mean-square normalisation (Zhang & Sennrich, arXiv 1910.07467).

use super::rms_norm_grad::{RmsNormGrad, RmsNormWeightGrad};
use super::{activation, not_negative, vector};
use crate::gradient::{Backward, GradientError};
use crate::interp::{EvalContext, EvalError};
use crate::op;
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::{DType, Dim, Type};

op! {
    /// x / √(mean(x²) + eps) ⊙ w over each group of len(w) consecutive channels.
    RmsNorm = "rms_norm"("x", "weight") {
        /// Added to the mean square.
        eps: f32,
        /// Multiply by 1 + w instead of w (Gemma).
        unit_offset: bool,
    }
}

/// Normalises one group of channels in place.
pub fn normalize<F: Real>(x: &mut [F], weight: &[F], eps: f32, unit_offset: bool) {
    let square: f64 = x.iter().map(|v| v.wide() * v.wide()).sum();
    let inverse = 1.0 / (square / x.len() as f64 + f64::from(eps)).sqrt();
    let offset = if unit_offset { 1.0 } else { 0.0 };
    for (v, w) in x.iter_mut().zip(weight) {
        *v = F::round(v.wide() * inverse * (offset + w.wide()));
    }
}

impl OpRules for RmsNorm {
    const CHEAP: bool = true;

    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let (rows, d) = activation("x", operands[0])?;
        let group = vector("weight", operands[1])?;
        not_negative("eps", self.eps)?;
        if d % group != 0 {
            return Err(format!("{d} channels are not whole groups of {group}"));
        }
        Ok(Type::new(DType::F32, [rows, Dim::Fixed(d)]))
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let weight = operands[1].floats();
        let mut out = operands[0].clone();
        if let crate::tensor::Data::F32(x) = &mut out.data {
            for group in x.chunks_mut(weight.len()) {
                normalize(group, weight, self.eps, self.unit_offset);
            }
        }
        Ok(out)
    }

    fn gradient(&self, b: &mut Backward<'_>) -> Result<(), GradientError> {
        let (eps, unit_offset) = (self.eps, self.unit_offset);
        let (x, weight, dy) = (b.operand(0), b.operand(1), b.dy());
        b.give(0, RmsNormGrad { eps, unit_offset }, &[x, weight, dy])?;
        let group = b.ty(1).last().unwrap_or(0);
        b.give(1, RmsNormWeightGrad { eps, group }, &[x, dy])
    }
}
