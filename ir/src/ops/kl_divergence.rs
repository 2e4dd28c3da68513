//! The divergence of a student's predictions from a teacher's, and its gradient.

use super::{alike, scalar};
use crate::gradient::{Backward, GradientError};
use crate::interp::{EvalContext, EvalError};
use crate::op::OpRules;
use crate::ops::heads::exponentials;
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::{DType, Type};
use crate::{no_gradient, op};

op! {
    /// Mean over the rows of KL(softmax(teacher) ‖ softmax(student)), in nats.
    KlDivergence = "kl_divergence"("teacher", "student") {}
}

op! {
    /// dloss · (softmax(student) − softmax(teacher)) / rows.
    KlDivergenceGrad = "kl_divergence_grad"("teacher", "student", "dloss") {}
}

/// The logarithms of the softmax of one row of logits, and the softmax itself.
pub(super) fn log_softmax<F: Real>(logits: &[F]) -> (Vec<f64>, Vec<f64>) {
    let logits: Vec<f64> = logits.iter().map(|x| x.wide()).collect();
    let (weights, total, largest) = exponentials(&logits);
    let norm = largest + total.ln();
    let logs = logits.iter().map(|x| x - norm).collect();
    (logs, weights.iter().map(|w| w / total).collect())
}

/// The rows of two matrices, in pairs.
fn pairs<'a, F: Real>(operands: &[&'a Tensor<F>]) -> impl Iterator<Item = (&'a [F], &'a [F])> {
    let rows = |i: usize| operands[i].floats().chunks(operands[i].width());
    rows(0).zip(rows(1))
}

impl OpRules for KlDivergence {
    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        alike(("teacher", operands[0]), ("student", operands[1]))?;
        Ok(Type::fixed(DType::F32, &[1]))
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let mut sum = 0.0;
        for (teacher, student) in pairs(operands) {
            let ((log_p, p), (log_q, _)) = (log_softmax(teacher), log_softmax(student));
            let logs = log_p.iter().zip(&log_q);
            // A weight of zero counts nothing, however far apart the logarithms.
            let terms = p.iter().zip(logs).filter(|(p, _)| **p > 0.0);
            sum += terms.map(|(p, (a, b))| p * (a - b)).sum::<f64>();
        }
        let mean = sum / operands[0].rows().max(1) as f64;
        Ok(Tensor::real(&[1], vec![F::round(mean)]))
    }

    fn gradient(&self, b: &mut Backward<'_>) -> Result<(), GradientError> {
        let operands = [b.operand(0), b.operand(1), b.dy()];
        b.give(1, KlDivergenceGrad {}, &operands)
    }
}

impl OpRules for KlDivergenceGrad {
    no_gradient!("second derivatives are not provided");

    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        scalar("dloss", operands[2])?;
        alike(("teacher", operands[0]), ("student", operands[1]))
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let factor = operands[2].floats()[0].wide() / operands[0].rows().max(1) as f64;
        let mut out = Vec::with_capacity(operands[1].floats().len());
        for (teacher, student) in pairs(operands) {
            let ((_, p), (_, q)) = (log_softmax(teacher), log_softmax(student));
            out.extend(q.iter().zip(&p).map(|(q, p)| F::round(factor * (q - p))));
        }
        Ok(Tensor::real(&operands[1].shape, out))
    }
}
