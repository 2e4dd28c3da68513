//! Causal grouped-query attention over the layer's key/value cache.

use super::linear::dot;
use super::{activation, not_negative, same};
use crate::interp::{EvalContext, EvalError};
use crate::op;
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::{DType, Dim, Type};

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
        let (rows, q) = activation("q", operands[0])?;
        not_negative("softcap", self.softcap)?;
        let heads = |n: usize| n.checked_mul(self.head_dim).ok_or("heads overflow");
        same("width of q", heads(self.n_heads)?, q)?;
        for (name, ty) in [("k", operands[1]), ("v", operands[2])] {
            let (r, d) = activation(name, ty)?;
            same(&format!("width of {name}"), heads(self.n_kv_heads)?, d)?;
            if r != rows {
                return Err(format!("q has {rows} rows, {name} has {r}"));
            }
        }
        if self.n_kv_heads == 0 || !self.n_heads.is_multiple_of(self.n_kv_heads) {
            let (q, kv) = (self.n_heads, self.n_kv_heads);
            return Err(format!(
                "{q} heads do not share {kv} key/value heads evenly"
            ));
        }
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
}

impl Attention {
    /// One query head at `position` over cached keys and values `[position, n_kv_heads·head_dim]`.
    fn head<F: Real>(&self, q: &[F], head: usize, position: usize, k: &[F], v: &[F]) -> Vec<F> {
        let kv_width = self.n_kv_heads * self.head_dim;
        let column = head / (self.n_heads / self.n_kv_heads) * self.head_dim;
        let first = match self.window {
            0 => 0,
            w => (position + 1).saturating_sub(w),
        };
        let row = |m: usize| m * kv_width + column;
        let cap = f64::from(self.softcap);
        let scores: Vec<f64> = (first..=position)
            .map(|m| dot(q, &k[row(m)..][..self.head_dim]) * f64::from(self.scale))
            .map(|s| if cap > 0.0 { cap * (s / cap).tanh() } else { s })
            .collect();
        let largest = scores.iter().fold(f64::NEG_INFINITY, |m, s| m.max(*s));
        let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut out = vec![0.0f64; self.head_dim];
        for (m, w) in (first..=position).zip(&weights) {
            for (o, v) in out.iter_mut().zip(&v[row(m)..][..self.head_dim]) {
                *o += w / total * v.wide();
            }
        }
        out.into_iter().map(F::round).collect()
    }
}
