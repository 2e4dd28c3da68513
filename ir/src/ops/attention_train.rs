//! Causal grouped-query attention over whole sequences, without a cache.
//!
//! The rows are sequences of `seq_len` tokens one after the other; row t is position
//! t mod seq_len of its sequence, and sees nothing of the others.

use super::attention_train_grad::AttentionTrainGrad;
use super::heads::{Heads, exponentials};
use crate::gradient::{Backward, GradientError};
use crate::interp::{EvalContext, EvalError};
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::{DType, Dim, Type};
use crate::{no_gradient, op};

op! {
    /// softmax(scale · q kᵀ) v over the tokens of the same sequence up to a row's own.
    AttentionTrain = "attention_train"("q", "k", "v") {
        /// Query heads.
        n_heads: usize,
        /// Key/value heads; query head i reads key/value head i / (n_heads / n_kv_heads).
        n_kv_heads: usize,
        /// Channels of one head.
        head_dim: usize,
        /// Factor on the scores.
        scale: f32,
        /// Positions a token sees, itself included; 0 for all.
        window: usize,
        /// Bound on the scores by softcap · tanh(score / softcap); 0 for none.
        softcap: f32,
        /// Tokens of one sequence; it divides the rows.
        seq_len: usize,
    }
}

op! {
    /// ln Σ exp(score) of every row and head of an [`AttentionTrain`], which its gradient needs.
    AttentionLse = "attention_lse"("q", "k") {
        /// Query heads.
        n_heads: usize,
        /// Key/value heads; query head i reads key/value head i / (n_heads / n_kv_heads).
        n_kv_heads: usize,
        /// Channels of one head.
        head_dim: usize,
        /// Factor on the scores.
        scale: f32,
        /// Positions a token sees, itself included; 0 for all.
        window: usize,
        /// Bound on the scores by softcap · tanh(score / softcap); 0 for none.
        softcap: f32,
        /// Tokens of one sequence; it divides the rows.
        seq_len: usize,
    }
}

/// The attributes of an attention op for training, taken apart.
macro_rules! heads {
    ($op:expr) => {
        $crate::ops::heads::Heads {
            n_heads: $op.n_heads,
            n_kv_heads: $op.n_kv_heads,
            head_dim: $op.head_dim,
            scale: $op.scale,
            window: $op.window,
            softcap: $op.softcap,
        }
    };
}
pub(crate) use heads;

/// Requires sequences of at least one token that fill the rows.
pub(crate) fn check_rows(seq_len: usize, rows: Dim) -> Result<(), String> {
    match (seq_len, rows) {
        (0, _) => Err("seq_len must be above 0".into()),
        (_, Dim::Fixed(n)) if n % seq_len != 0 => {
            Err(format!("{n} rows are not whole sequences of {seq_len}"))
        }
        _ => Ok(()),
    }
}

/// Scores of every row and head, with the first row that they are for.
pub(crate) fn all_scores<F: Real>(
    heads: &Heads,
    seq_len: usize,
    q: &Tensor<F>,
    k: &Tensor<F>,
    mut visit: impl FnMut(usize, usize, usize, Vec<f64>),
) -> Result<(), EvalError> {
    check_rows(seq_len, Dim::Fixed(q.rows())).map_err(EvalError::new)?;
    for (i, q) in q.floats().chunks(heads.head_dim).enumerate() {
        let (row, head) = (i / heads.n_heads, i % heads.n_heads);
        let position = row % seq_len;
        let first = row - position + heads.first(position);
        let scores = heads.scores(q, head, first..row + 1, k.floats());
        visit(row, head, first, scores);
    }
    Ok(())
}

impl OpRules for AttentionTrain {
    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let kv = [("k", operands[1]), ("v", operands[2])];
        let (rows, width, _) = heads!(self).check(operands[0], &kv)?;
        check_rows(self.seq_len, rows)?;
        Ok(Type::new(DType::F32, [rows, Dim::Fixed(width)]))
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let (heads, v) = (heads!(self), operands[2].floats());
        let mut out = Vec::with_capacity(operands[0].floats().len());
        all_scores(
            &heads,
            self.seq_len,
            operands[0],
            operands[1],
            |_, head, first, scores| {
                let (weights, total, _) = exponentials(&scores);
                let mut y = vec![0.0f64; heads.head_dim];
                for (m, w) in weights.iter().enumerate() {
                    for (y, v) in y.iter_mut().zip(&v[heads.at(first + m, head)..]) {
                        *y += w / total * v.wide();
                    }
                }
                out.extend(y.into_iter().map(F::round));
            },
        )?;
        Ok(Tensor::real(&operands[0].shape, out))
    }

    fn gradient(&self, b: &mut Backward<'_>) -> Result<(), GradientError> {
        let (q, k, v) = (b.operand(0), b.operand(1), b.operand(2));
        let lse = b.add("lse", AttentionLse::of(self), &[q, k])?;
        let operands = [q, k, v, b.result(), lse, b.dy()];
        let all = b.add("dqkv", AttentionTrainGrad::of(self), &operands)?;
        let (q, kv) = (
            self.n_heads * self.head_dim,
            self.n_kv_heads * self.head_dim,
        );
        for (i, (start, len)) in [(0, q), (q, kv), (q + kv, kv)].into_iter().enumerate() {
            b.give(i, super::slice::Slice { start, len }, &[all])?;
        }
        Ok(())
    }
}

impl AttentionLse {
    /// That of the same attention.
    fn of(op: &AttentionTrain) -> Self {
        AttentionLse {
            n_heads: op.n_heads,
            n_kv_heads: op.n_kv_heads,
            head_dim: op.head_dim,
            scale: op.scale,
            window: op.window,
            softcap: op.softcap,
            seq_len: op.seq_len,
        }
    }
}

impl OpRules for AttentionLse {
    no_gradient!("second derivatives are not provided");

    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let (rows, _, _) = heads!(self).check(operands[0], &[("k", operands[1])])?;
        check_rows(self.seq_len, rows)?;
        Ok(Type::new(DType::F32, [rows, Dim::Fixed(self.n_heads)]))
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let (q, k) = (operands[0], operands[1]);
        let mut out = Vec::with_capacity(q.rows() * self.n_heads);
        all_scores(&heads!(self), self.seq_len, q, k, |_, _, _, scores| {
            let (_, total, largest) = exponentials(&scores);
            out.push(F::round(largest + total.ln()));
        })?;
        Ok(Tensor::real(&[q.rows(), self.n_heads], out))
    }
}
