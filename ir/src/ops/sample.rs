//! Drawing classes from the distributions that logits stand for.

use super::activation;
use super::kl_divergence::log_softmax;
use crate::interp::{EvalContext, EvalError};
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::{Data, Tensor};
use crate::types::{DType, Type};
use crate::{no_gradient, op};

op! {
    /// The first class c of each row with p_0 + … + p_c > (draw + ½) / 2³¹, p = softmax(logits).
    ///
    /// Where draws are uniform, c has the distribution p. A row whose draw is negative has −1.
    Sample = "sample"("logits", "draws") {}
}

/// The class that a draw picks for a row of logits. Where rounding leaves none, the last one that
/// has a probability.
pub fn class<F: Real>(logits: &[F], draw: i32) -> i32 {
    if draw < 0 {
        return -1;
    }
    let u = (f64::from(draw) + 0.5) / f64::from(1u32 << 31);
    let (mut sum, mut last) = (0.0, 0);
    for (class, p) in (0..).zip(log_softmax(logits).1) {
        sum += p;
        if sum > u {
            return class;
        }
        if p > 0.0 {
            last = class;
        }
    }
    last
}

impl OpRules for Sample {
    no_gradient!("a class that is drawn has no derivative");

    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let (rows, _) = activation("logits", operands[0])?;
        let of_rows = Type::new(DType::I32, [rows]);
        match *operands[1] == of_rows {
            true => Ok(of_rows),
            false => Err(format!("draws must be i32[{rows}], found {}", operands[1])),
        }
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let rows = operands[0].floats().chunks(operands[0].width());
        let classes = rows.zip(operands[1].ints());
        let classes: Vec<i32> = classes.map(|(row, draw)| class(row, *draw)).collect();
        Ok(Tensor {
            dtype: DType::I32,
            shape: vec![classes.len()],
            data: Data::I32(classes),
        })
    }
}
