//! The loss of language modelling, and its gradient.

use super::kl_divergence::log_softmax;
use super::{activation, scalar};
use crate::gradient::{Backward, GradientError};
use crate::interp::{EvalContext, EvalError};
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::{DType, Type};
use crate::{no_gradient, op};

op! {
    /// Mean of −ln softmax(logits)[label] over the rows whose label is not negative, in nats.
    CrossEntropy = "cross_entropy"("logits", "labels") {}
}

op! {
    /// dloss · (softmax(logits) − onehot(label)) / rows that count, 0 in rows that do not.
    CrossEntropyGrad = "cross_entropy_grad"("logits", "labels", "dloss") {}
}

fn check(logits: &Type, labels: &Type) -> Result<(), String> {
    let (rows, _) = activation("logits", logits)?;
    match *labels == Type::new(DType::I32, [rows]) {
        true => Ok(()),
        false => Err(format!("labels must be i32[{rows}], found {labels}")),
    }
}

/// The label of every row, none for those that do not count, and how many do.
fn labels<F: Real>(operands: &[&Tensor<F>]) -> Result<(Vec<Option<usize>>, f64), EvalError> {
    let classes = operands[0].width();
    let label = |&label: &i32| match usize::try_from(label) {
        Err(_) => Ok(None),
        Ok(label) if label < classes => Ok(Some(label)),
        Ok(label) => Err(EvalError::new(format!(
            "label {label} is not below {classes}"
        ))),
    };
    let labels = operands[1].ints().iter().map(label);
    let labels = labels.collect::<Result<Vec<_>, _>>()?;
    let count = labels.iter().flatten().count().max(1);
    Ok((labels, count as f64))
}

impl OpRules for CrossEntropy {
    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        check(operands[0], operands[1])?;
        Ok(Type::fixed(DType::F32, &[1]))
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let (labels, count) = labels(operands)?;
        let rows = operands[0].floats().chunks(operands[0].width()).zip(labels);
        let terms = rows.filter_map(|(row, label)| Some(-log_softmax(row).0[label?]));
        Ok(Tensor::real(
            &[1],
            vec![F::round(terms.sum::<f64>() / count)],
        ))
    }

    fn gradient(&self, b: &mut Backward<'_>) -> Result<(), GradientError> {
        let operands = [b.operand(0), b.operand(1), b.dy()];
        b.give(0, CrossEntropyGrad {}, &operands)
    }
}

impl OpRules for CrossEntropyGrad {
    no_gradient!("second derivatives are not provided");

    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        check(operands[0], operands[1])?;
        scalar("dloss", operands[2])?;
        Ok(operands[0].clone())
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let (labels, count) = labels(operands)?;
        let factor = operands[2].floats()[0].wide() / count;
        let mut out = Vec::with_capacity(operands[0].floats().len());
        for (row, label) in operands[0].floats().chunks(operands[0].width()).zip(labels) {
            let (_, mut p) = log_softmax(row);
            match label {
                Some(label) => p[label] -= 1.0,
                None => p.fill(0.0),
            }
            out.extend(p.into_iter().map(|p| F::round(factor * p)));
        }
        Ok(Tensor::real(&operands[0].shape, out))
    }
}
