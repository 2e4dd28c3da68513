//! Sums: over the rows of a matrix, and of whole tensors.

use super::activation;
use crate::gradient::{Backward, GradientError};
use crate::interp::{EvalContext, EvalError};
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::{DType, Type};
use crate::{no_gradient, op};

op! {
    /// The sum of all rows.
    SumRows = "sum_rows"("x") {}
}

op! {
    /// Σ_i factors[i] · parts[i] of f32 tensors of one shape, whatever it is.
    WeightedSum = "weighted_sum"("parts*") {
        /// One factor a part.
        factors: Vec<f32>,
    }
}

impl OpRules for SumRows {
    no_gradient!("second derivatives are not provided");

    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let (_, d) = activation("x", operands[0])?;
        Ok(Type::fixed(DType::F32, &[d]))
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let x = operands[0];
        let mut sums = vec![0.0; x.width()];
        for row in x.floats().chunks(x.width()) {
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += x.wide();
            }
        }
        let sums = sums.into_iter().map(F::round).collect();
        Ok(Tensor::real(&[x.width()], sums))
    }
}

impl OpRules for WeightedSum {
    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let first = operands.first().ok_or("there must be a part")?;
        if first.dtype != DType::F32 {
            return Err(format!("parts must be f32, found {first}"));
        }
        if let Some(other) = operands.iter().find(|ty| *ty != first) {
            return Err(format!("parts differ: {first} and {other}"));
        }
        super::same("number of factors", operands.len(), self.factors.len())?;
        match self.factors.iter().find(|f| !f.is_finite()) {
            Some(factor) => Err(format!("factor {factor} is not finite")),
            None => Ok((*first).clone()),
        }
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let mut sums = vec![0.0; operands[0].floats().len()];
        for (part, factor) in operands.iter().zip(&self.factors) {
            for (sum, x) in sums.iter_mut().zip(part.floats()) {
                *sum += f64::from(*factor) * x.wide();
            }
        }
        let sums = sums.into_iter().map(F::round).collect();
        Ok(Tensor::real(&operands[0].shape, sums))
    }

    fn gradient(&self, b: &mut Backward<'_>) -> Result<(), GradientError> {
        for (i, &factor) in self.factors.iter().enumerate() {
            let factors = vec![factor];
            match factor == 1.0 {
                true => b.pass(i, b.dy()),
                false => b.give(i, WeightedSum { factors }, &[b.dy()])?,
            }
        }
        Ok(())
    }
}
