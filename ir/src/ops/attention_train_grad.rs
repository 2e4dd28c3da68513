//! The gradient of attention over whole sequences.
//!
//! With S the scores before scaling and capping, P = softmax, D = rowsum(dy ⊙ y) and
//! dS = P ⊙ (dy vᵀ − D) times the score's slope: dq = dS k, dk = dSᵀ q, dv = Pᵀ dy. P comes from
//! the logarithms of its sums (Dao, arXiv 2307.08691), so that no matrix of scores is kept.

use super::attention_train::{AttentionTrain, all_scores, check_rows, heads};
use super::linear::dot;
use crate::interp::{EvalContext, EvalError};
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::{DType, Dim, Type};
use crate::{no_gradient, op};

op! {
    /// dq, dk and dv of an [`AttentionTrain`] side by side.
    AttentionTrainGrad = "attention_train_grad"("q", "k", "v", "y", "lse", "dy") {
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

impl AttentionTrainGrad {
    /// That of `op`.
    pub(crate) fn of(op: &AttentionTrain) -> Self {
        AttentionTrainGrad {
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

/// out += factor · x.
fn add<F: Real>(out: &mut [f64], factor: f64, x: &[F]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out += factor * x.wide();
    }
}

impl OpRules for AttentionTrainGrad {
    no_gradient!("second derivatives are not provided");

    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let kv = [("k", operands[1]), ("v", operands[2])];
        let (rows, q, kv) = heads!(self).check(operands[0], &kv)?;
        check_rows(self.seq_len, rows)?;
        for (name, ty) in [("y", operands[3]), ("dy", operands[5])] {
            super::alike(("q", operands[0]), (name, ty))?;
        }
        let lse = Type::new(DType::F32, [rows, Dim::Fixed(self.n_heads)]);
        if *operands[4] != lse {
            return Err(format!("lse must be {lse}, found {}", operands[4]));
        }
        let width = kv.checked_mul(2).and_then(|kv| kv.checked_add(q));
        let width = width.ok_or("the width overflows")?;
        Ok(Type::new(DType::F32, [rows, Dim::Fixed(width)]))
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let (heads, d) = (heads!(self), self.head_dim);
        let [q, k, v, y, lse, dy] = [0, 1, 2, 3, 4, 5].map(|i| operands[i].floats());
        let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
        all_scores(
            &heads,
            self.seq_len,
            operands[0],
            operands[1],
            |row, head, first, scores| {
                let i = row * self.n_heads + head;
                let at = i * d..(i + 1) * d;
                let mean = dot(&dy[at.clone()], &y[at.clone()]);
                for (m, score) in scores.into_iter().enumerate() {
                    let kv = heads.at(first + m, head)..heads.at(first + m, head) + d;
                    let p = (score - lse[i].wide()).exp();
                    let pull =
                        p * (dot(&dy[at.clone()], &v[kv.clone()]) - mean) * heads.slope(score);
                    add(&mut dq[at.clone()], pull, &k[kv.clone()]);
                    add(&mut dk[kv.clone()], pull, &q[at.clone()]);
                    add(&mut dv[kv], p, &dy[at.clone()]);
                }
            },
        )?;
        let widths = [
            operands[0].width(),
            operands[1].width(),
            operands[1].width(),
        ];
        let mut out = Vec::with_capacity(dq.len() + dk.len() + dv.len());
        for row in 0..operands[0].rows() {
            for (part, width) in [&dq, &dk, &dv].into_iter().zip(widths) {
                out.extend(part[row * width..][..width].iter().map(|x| F::round(*x)));
            }
        }
        Ok(Tensor::real(
            &[operands[0].rows(), widths.iter().sum()],
            out,
        ))
    }
}
