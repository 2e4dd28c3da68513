//! Causal grouped-query attention over the layer's key/value cache.

use super::heads::{Heads, exponentials};
use crate::interp::{EvalContext, EvalError};
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::{DType, Dim, Type};
use crate::{no_gradient, op};

op! {
    /// Appends k and v to the layer's cache, then softmax(scale · q kᵀ) v over what is visible.
    ///
    /// A token at position p sees positions q with q ≤ p, and with p − q < window if window > 0.
    Attention = "attention"("q", "k", "v", "positions") {
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
        /// Which cache.
        layer: usize,
    }
}

impl OpRules for Attention {
    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let kv = [("k", operands[1]), ("v", operands[2])];
        let (rows, q, _) = self.heads().check(operands[0], &kv)?;
        if *operands[3] != Type::new(DType::I32, [rows]) {
            return Err(format!(
                "positions must be i32[{rows}], found {}",
                operands[3]
            ));
        }
        Ok(Type::new(DType::F32, [rows, Dim::Fixed(q)]))
    }

    fn eval<F: Real>(
        &self,
        ctx: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let positions = operands[3].ints();
        let cache = ctx.cache(self.layer);
        let kv_width = self.n_kv_heads * self.head_dim;
        let start = cache.k.len() / kv_width.max(1);
        for (i, &p) in positions.iter().enumerate() {
            if usize::try_from(p) != Ok(start + i) {
                return Err(EvalError::new(format!(
                    "position {p} does not follow the {} cached ones",
                    start + i
                )));
            }
        }
        cache.k.extend_from_slice(operands[1].floats());
        cache.v.extend_from_slice(operands[2].floats());
        let mut out = Vec::with_capacity(operands[0].floats().len());
        for (t, q) in operands[0].floats().chunks(operands[0].width()).enumerate() {
            for (head, q) in q.chunks(self.head_dim).enumerate() {
                out.extend(self.head(q, head, start + t, &cache.k, &cache.v));
            }
        }
        Ok(Tensor::real(&operands[0].shape, out))
    }

    no_gradient!("it reads a cache; attention_train is the form for training");
}

impl Attention {
    fn heads(&self) -> Heads {
        Heads {
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
            scale: self.scale,
            window: self.window,
            softcap: self.softcap,
        }
    }

    /// One query head at `position` over cached keys and values `[position, n_kv_heads·head_dim]`.
    fn head<F: Real>(&self, q: &[F], head: usize, position: usize, k: &[F], v: &[F]) -> Vec<F> {
        let heads = self.heads();
        let first = heads.first(position);
        let (weights, total, _) = exponentials(&heads.scores(q, head, first..position + 1, k));
        let mut out = vec![0.0f64; self.head_dim];
        for (m, w) in weights.iter().enumerate() {
            for (o, v) in out.iter_mut().zip(&v[heads.at(first + m, head)..]) {
                *o += w / total * v.wide();
            }
        }
        out.into_iter().map(F::round).collect()
    }
}
