//! The squared distance of two matrices, and its gradient.

use super::{alike, scalar};
use crate::gradient::{Backward, GradientError};
use crate::interp::{EvalContext, EvalError};
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::{DType, Type};
use crate::{no_gradient, op, word_attr};

word_attr! {
    /// What the squared distance of a row, ‖x − t‖², is divided by before all are added. A
    /// divisor of 0 counts as 1.
    pub enum Normalize {
        /// The number of elements: the mean squared error.
        Elements = "elements",
        /// ‖t‖² of all rows: the error's share of the target's energy.
        Target = "target",
        /// The number of rows times ‖t‖² of the row: the mean share, which a few rows of great
        /// magnitude do not rule.
        Rows = "rows",
    }
}

op! {
    /// Σ_rows ‖x − target‖² / divisor, the divisor as `normalize` says.
    SquaredError = "squared_error"("x", "target") {
        /// What is divided by.
        normalize: Normalize,
    }
}

op! {
    /// 2 dloss (x − target) / divisor, the divisor as `normalize` says.
    SquaredErrorGrad = "squared_error_grad"("x", "target", "dloss") {
        /// What is divided by.
        normalize: Normalize,
    }
}

fn energy<F: Real>(row: &[F]) -> f64 {
    row.iter().map(|x| x.wide() * x.wide()).sum()
}

/// The divisor of every row.
fn divisors<F: Real>(normalize: Normalize, target: &Tensor<F>) -> Vec<f64> {
    let (t, rows) = (target.floats(), target.rows());
    let divisors = match normalize {
        Normalize::Elements => vec![t.len() as f64; rows],
        Normalize::Target => vec![energy(t); rows],
        Normalize::Rows => {
            let energies = t.chunks(target.width()).map(energy);
            energies.map(|e| e * rows as f64).collect()
        }
    };
    let not_zero = |d: f64| if d == 0.0 { 1.0 } else { d };
    divisors.into_iter().map(not_zero).collect()
}

impl OpRules for SquaredError {
    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        alike(("x", operands[0]), ("target", operands[1]))?;
        Ok(Type::fixed(DType::F32, &[1]))
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let (x, target) = (operands[0], operands[1]);
        let rows = x
            .floats()
            .chunks(x.width())
            .zip(target.floats().chunks(x.width()));
        let terms = rows
            .zip(divisors(self.normalize, target))
            .map(|((x, t), divisor)| {
                let squares = x.iter().zip(t).map(|(x, t)| (x.wide() - t.wide()).powi(2));
                squares.sum::<f64>() / divisor
            });
        Ok(Tensor::real(&[1], vec![F::round(terms.sum())]))
    }

    fn gradient(&self, b: &mut Backward<'_>) -> Result<(), GradientError> {
        let (normalize, operands) = (self.normalize, [b.operand(0), b.operand(1), b.dy()]);
        b.give(0, SquaredErrorGrad { normalize }, &operands)
    }
}

impl OpRules for SquaredErrorGrad {
    no_gradient!("second derivatives are not provided");

    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        scalar("dloss", operands[2])?;
        alike(("x", operands[0]), ("target", operands[1]))
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let (x, target, dloss) = (operands[0], operands[1], operands[2].floats()[0].wide());
        let mut out = Vec::with_capacity(x.floats().len());
        let rows = x
            .floats()
            .chunks(x.width())
            .zip(target.floats().chunks(x.width()));
        for ((x, t), divisor) in rows.zip(divisors(self.normalize, target)) {
            let pairs = x.iter().zip(t);
            out.extend(pairs.map(|(x, t)| F::round(2.0 * dloss * (x.wide() - t.wide()) / divisor)));
        }
        Ok(Tensor::real(&x.shape, out))
    }
}
