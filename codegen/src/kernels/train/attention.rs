//! Causal grouped-query attention over whole sequences; one query head of one row a work item.
//!
//! Scores are taken a block of rows at a time with a running maximum and sum (Milakov and
//! Gimelshein, arXiv 1805.02867).

pub use super::attention_rows::Heads;
use super::attention_rows::{
    BLOCK, LOWEST, Rows, accumulate, dots, for_blocks, for_lanes, store_scaled,
};
use super::functions::{exp_or_nan, ln_or_nan};
use super::rows::clear;
use crate::kernels::math::exp;
use crate::kernels::shape::{address, lane_numbers, split_item};
use crate::kernels::{Spec, Vectors};
use crate::kir::{Builder, Elem, Kernel, Ty, Val, Var};

/// The most channels of a head: two sums of them lie on a kernel's stack.
pub const MOST_CHANNELS: usize = 4096;

/// softmax(scale · q kᵀ) v, `[rows, n_heads · head_dim]`, and ln Σ exp(score), `[rows, n_heads]`;
/// items: rows × heads.
pub struct AttentionTrain {
    /// Shape and scores.
    pub heads: Heads,
    /// Whether the weighted sums of values are computed; v and out are parameters then.
    pub values: bool,
    /// Whether the logarithms are computed; lse is a parameter then.
    pub lse: bool,
}

/// Addresses of one work item and scratch.
struct Head {
    q: Val,
    keys: Rows,
    values: Option<Rows>,
    weights: Val,
    sums: Val,
    lane_numbers: Val,
}

/// The running maximum and sum.
struct Running {
    largest: Var,
    total: Var,
}

impl Spec for AttentionTrain {
    fn name(&self) -> String {
        let values = if self.values { "" } else { "_no_values" };
        let lse = if self.lse { "_lse" } else { "" };
        format!("attention_train{values}{lse}_{}", self.heads.name())
    }

    fn build(&self, vectors: Vectors) -> Kernel {
        let mut b = Builder::new(&self.name(), vectors.bytes);
        let (q, k) = (b.input("q"), b.input("k"));
        let v = self.values.then(|| b.input("v"));
        let out = self.values.then(|| b.output("out"));
        let lse = self.lse.then(|| b.output("lse"));
        let heads = &self.heads;
        let head_dim = heads.head_dim as i64;
        let (weights, sums) = (b.stack(BLOCK as usize * 4), b.stack(heads.head_dim * 4));
        clear(&mut b, weights, BLOCK);
        let lane_numbers = lane_numbers(&mut b);
        let (begin, end) = b.range();
        b.for_range(begin, end, 1, |b, item| {
            let (row, head) = split_item(b, item, heads.n_heads as i64);
            let column = b.mul_imm(head, head_dim);
            let (kv_head, _) = split_item(b, head, heads.group());
            let kv_column = b.mul_imm(kv_head, head_dim);
            let rows = |b: &mut Builder, base: Val, stride: usize| {
                let base = b.at(base, kv_column, 4);
                Rows { base, stride }
            };
            let head = Head {
                q: address(b, q, row, heads.q_stride as i64, column),
                keys: rows(b, k, heads.k_stride),
                values: v.map(|v| rows(b, v, heads.v_stride)),
                weights,
                sums,
                lane_numbers,
            };
            let running = self.head(b, &head, row);
            let total = b.get(running.total);
            if let Some(out) = out {
                let one = b.float_of(Ty::F32, 1.0);
                let inverse = b.div(one, total);
                let to = b.at(out, item, head_dim * 4);
                store_scaled(b, sums, Some(inverse), to, head_dim);
            }
            if let Some(lse) = lse {
                let (log, largest) = (ln_or_nan(b, total), b.get(running.largest));
                let log = b.add(log, largest);
                let to = b.at(lse, item, 4);
                b.store(to, 0, log);
            }
        });
        b.finish()
    }
}

impl AttentionTrain {
    fn head(&self, b: &mut Builder, head: &Head, row: Val) -> Running {
        let head_dim = self.heads.head_dim as i64;
        let (lowest, zero) = (b.float_of(Ty::F32, LOWEST), b.float_of(Ty::F32, 0.0));
        let running = Running {
            largest: b.var(lowest),
            total: b.var(zero),
        };
        if head.values.is_some() {
            clear(b, head.sums, head_dim);
        }
        let first = self.heads.first(b, row);
        let last = b.add_imm(row, 1);
        for_blocks(b, first, last, |b, row, count| {
            let keys = head.keys.from(b, row);
            dots(b, head.q, keys, head_dim, count, head.weights);
            let rescale = self.soften(b, head, &running, count);
            if let Some(values) = head.values {
                let values = values.from(b, row);
                let (sums, weights) = (head.sums, head.weights);
                accumulate(b, sums, head_dim, Some(rescale), weights, values, count);
            }
        });
        running
    }

    /// Replaces products by e^(score − maximum); gives the factor on earlier sums.
    fn soften(&self, b: &mut Builder, head: &Head, running: &Running, count: Val) -> Val {
        let vector = b.vec(Elem::F32);
        let (lowest, zero) = (b.float(LOWEST), b.float(0.0));
        let (top, sum) = (b.var(lowest), b.var(zero));
        for_lanes(b, count, head.lane_numbers, |b, offset, within| {
            let at = b.add(head.weights, offset);
            let product = b.load(vector, at, 0);
            let score = self.heads.score(b, product);
            let score = b.select(within, score, lowest);
            b.store(at, 0, score);
            let before = b.get(top);
            let now = b.max(before, score);
            b.set(top, now);
        });
        let top = b.get(top);
        let top = b.max_lane(top);
        let before = b.get(running.largest);
        let now = b.max(before, top);
        b.set(running.largest, now);
        let change = b.sub(before, now);
        let rescale = exp(b, change);
        let shift = b.splat(now);
        for_lanes(b, count, head.lane_numbers, |b, offset, within| {
            let at = b.add(head.weights, offset);
            let score = b.load(vector, at, 0);
            let score = b.sub(score, shift);
            let weight = exp_or_nan(b, score);
            let weight = b.select(within, weight, zero);
            b.store(at, 0, weight);
            let before = b.get(sum);
            let now = b.add(before, weight);
            b.set(sum, now);
        });
        let sum = b.get(sum);
        let sum = b.sum(sum);
        let total = b.get(running.total);
        let total = b.fma(total, rescale, sum);
        b.set(running.total, total);
        rescale
    }
}
