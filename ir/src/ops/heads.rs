//! Causal grouped-query attention of one head: what the forms with and without a cache share.

use std::ops::Range;

use super::linear::dot;
use super::{activation, not_negative, same};
use crate::real::Real;
use crate::types::{Dim, Type};

/// The attributes that attention ops share; [`Attention`](super::attention::Attention) says what
/// each means.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub scale: f32,
    pub window: usize,
    pub softcap: f32,
}

impl Heads {
    /// Checks the attributes and the types of q and of what has n_kv_heads heads; gives the rows
    /// and the widths of both.
    pub fn check(&self, q: &Type, kv: &[(&str, &Type)]) -> Result<(Dim, usize, usize), String> {
        let (rows, width) = activation("q", q)?;
        not_negative("softcap", self.softcap)?;
        let heads = |n: usize| n.checked_mul(self.head_dim).ok_or("heads overflow");
        same("width of q", heads(self.n_heads)?, width)?;
        let kv_width = heads(self.n_kv_heads)?;
        for (name, ty) in kv {
            let (r, d) = activation(name, ty)?;
            same(&format!("width of {name}"), kv_width, d)?;
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
        Ok((rows, width, kv_width))
    }

    /// The first position that a token at `position` sees.
    pub fn first(&self, position: usize) -> usize {
        match self.window {
            0 => 0,
            w => (position + 1).saturating_sub(w),
        }
    }

    /// Where the key and value of `row` begin that query head `head` reads.
    pub fn at(&self, row: usize, head: usize) -> usize {
        let kv_head = head / (self.n_heads / self.n_kv_heads);
        (row * self.n_kv_heads + kv_head) * self.head_dim
    }

    /// The scores of one query head over `rows` of the keys, scaled and capped.
    pub fn scores<F: Real>(&self, q: &[F], head: usize, rows: Range<usize>, k: &[F]) -> Vec<f64> {
        let cap = f64::from(self.softcap);
        let rows = rows.map(|m| &k[self.at(m, head)..][..self.head_dim]);
        rows.map(|k| dot(q, k) * f64::from(self.scale))
            .map(|s| if cap > 0.0 { cap * (s / cap).tanh() } else { s })
            .collect()
    }

    /// The derivative of a score with respect to q·k, from the score itself.
    pub fn slope(&self, score: f64) -> f64 {
        let cap = f64::from(self.softcap);
        let capped = if cap > 0.0 {
            (score / cap).powi(2)
        } else {
            0.0
        };
        f64::from(self.scale) * (1.0 - capped)
    }
}

/// exp(s − max) of every score, their sum, and the maximum.
pub(crate) fn exponentials(scores: &[f64]) -> (Vec<f64>, f64, f64) {
    let largest = scores.iter().fold(f64::NEG_INFINITY, |m, s| m.max(*s));
    let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
    let total = weights.iter().sum();
    (weights, total, largest)
}
