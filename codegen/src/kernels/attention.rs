//! Causal grouped-query attention over the cache, one query head of one token a work item.
//!
//! Scores are taken 16 positions at a time with a running maximum and sum (Milakov and
//! Gimelshein, arXiv 1805.02867), so that no buffer grows with the context.

use super::math::{exp, max_int, softcap};
use super::shape::{address, broadcast, for_columns, lane_numbers, split_item};
use super::{Spec, Vectors};
use crate::kir::{Builder, CmpOp, Elem, Inst, Kernel, Ty, Val, Var};

/// Positions taken at a time; the cache's blocking of keys.
const BLOCK: i64 = 16;

/// Sums of scores that are kept apart, in vectors.
const CHAINS: i64 = 8;

/// Stands for −∞ without making ∞ − ∞.
const LOWEST: f32 = -1e30;

/// softmax(scale · q kᵀ) v; items: tokens × heads.
pub struct Attention {
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Elements a row of q.
    pub q_stride: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// Positions a token sees; 0 for all.
    pub window: usize,
    /// Bound on the scores; 0 for none.
    pub softcap: f32,
}

impl Spec for Attention {
    fn name(&self) -> String {
        format!(
            "attention_h{}_kv{}_d{}_q{}_s{:08x}_w{}_c{:08x}",
            self.n_heads,
            self.n_kv_heads,
            self.head_dim,
            self.q_stride,
            self.scale.to_bits(),
            self.window,
            self.softcap.to_bits()
        )
    }

    fn build(&self, vectors: Vectors) -> Kernel {
        let mut b = Builder::new(&self.name(), vectors.bytes);
        let q = b.input("q");
        let (keys, values) = (b.input("keys"), b.input("values"));
        let out = b.output("out");
        let (start, capacity) = (b.scalar("start"), b.scalar("capacity"));
        let weights = b.stack(BLOCK as usize * 4);
        let sums = b.stack(self.head_dim * 4);
        let lane_numbers = lane_numbers(&mut b);
        let head_dim = self.head_dim as i64;
        let (begin, end) = b.range();
        b.for_range(begin, end, 1, |b, item| {
            let (token, head) = split_item(b, item, self.n_heads as i64);
            let column = b.mul_imm(head, head_dim);
            let q = address(b, q, token, self.q_stride as i64, column);
            let (kv_head, _) = split_item(b, head, (self.n_heads / self.n_kv_heads) as i64);
            let base = b.mul(kv_head, capacity);
            let base = b.mul_imm(base, head_dim * 4);
            let head = Head {
                q,
                keys: b.add(keys, base),
                values: b.add(values, base),
                position: b.add(start, token),
                weights,
                sums,
                lane_numbers,
            };
            let to = b.at(out, item, head_dim * 4);
            self.head(b, &head, to);
        });
        b.finish()
    }
}

/// What one work item reads, and its scratch.
struct Head {
    q: Val,
    keys: Val,
    values: Val,
    position: Val,
    /// 16 softmax numerators.
    weights: Val,
    /// Weighted sum of the values so far.
    sums: Val,
    /// 0, 1, 2, … in 32-bit lanes.
    lane_numbers: Val,
}

impl Attention {
    fn head(&self, b: &mut Builder, head: &Head, out: Val) {
        let head_dim = self.head_dim as i64;
        for_columns(b, head_dim, &mut |b, column, ty| {
            let zero = b.float_of(ty, 0.0);
            let at = b.at(head.sums, column, 4);
            b.store(at, 0, zero);
        });
        let (lowest, zero) = (b.float_of(Ty::F32, LOWEST), b.float_of(Ty::F32, 0.0));
        let (largest, total) = (b.var(lowest), b.var(zero));
        let first = self.first_visible(b, head.position);
        let start = b.shr(first, 4);
        let last = b.shr(head.position, 4);
        let end = b.add_imm(last, 1);
        b.for_range(start, end, 1, |b, block| {
            let scores = self.scores(b, head, block, first);
            let rescale = self.soften(b, head, &scores, largest, total);
            self.accumulate(b, head, block, rescale);
        });
        let (one, total) = (b.float_of(Ty::F32, 1.0), b.get(total));
        let inverse = b.div(one, total);
        for_columns(b, head_dim, &mut |b, column, ty| {
            let at = b.at(head.sums, column, 4);
            let v = b.load(ty, at, 0);
            let inverse = broadcast(b, inverse, ty);
            let v = b.mul(v, inverse);
            let at = b.at(out, column, 4);
            b.store(at, 0, v);
        });
    }

    fn first_visible(&self, b: &mut Builder, position: Val) -> Val {
        let zero = b.int(0);
        match self.window {
            0 => zero,
            w => {
                let first = b.add_imm(position, 1 - w as i64);
                max_int(b, first, zero)
            }
        }
    }

    /// q · k of 16 positions. Channels are shared out among [`CHAINS`] chains of additions, so that
    /// one addition need not wait for the one before.
    fn dots(&self, b: &mut Builder, head: &Head, block: Val) -> Vec<Val> {
        let (lanes, head_dim) = (b.lanes() as i64, self.head_dim as i64);
        let (vector, vectors) = (b.vec(Elem::F32), BLOCK / lanes);
        let zero = b.float(0.0);
        let chains = CHAINS / vectors;
        let sums: Vec<Vec<Var>> = (0..chains)
            .map(|_| (0..vectors).map(|_| b.var(zero)).collect())
            .collect();
        let keys = b.at(head.keys, block, head_dim * BLOCK * 4);
        let add = |b: &mut Builder, channel: Val, sums: &[Var]| {
            let q = b.at(head.q, channel, 4);
            let q = b.load(Ty::F32, q, 0);
            let q = b.splat(q);
            let keys = b.at(keys, channel, BLOCK * 4);
            for (i, sum) in sums.iter().enumerate() {
                let k = b.load(vector, keys, (i as i64 * lanes * 4) as i32);
                let s = b.get(*sum);
                let s = b.fma(q, k, s);
                b.set(*sum, s);
            }
        };
        let whole = head_dim / chains * chains;
        if whole > 0 {
            b.for_const(whole, chains, |b, channel| {
                for (chain, sums) in sums.iter().enumerate() {
                    let channel = b.add_imm(channel, chain as i64);
                    add(b, channel, sums);
                }
            });
        }
        if whole < head_dim {
            let (start, end) = (b.int(whole), b.int(head_dim));
            b.for_range(start, end, 1, |b, channel| add(b, channel, &sums[0]));
        }
        let total = |b: &mut Builder, i: usize| {
            let first = b.get(sums[0][i]);
            sums[1..].iter().fold(first, |total, chain| {
                let s = b.get(chain[i]);
                b.add(total, s)
            })
        };
        (0..vectors as usize).map(|i| total(b, i)).collect()
    }

    /// Scaled, capped and masked scores of 16 positions.
    fn scores(&self, b: &mut Builder, head: &Head, block: Val, first: Val) -> Vec<Val> {
        let lanes = b.lanes() as i64;
        let base = b.mul_imm(block, BLOCK);
        let sums = self.dots(b, head, block).into_iter().enumerate();
        sums.map(|(i, s)| {
            let scale = b.float(self.scale);
            let mut s = b.mul(s, scale);
            if self.softcap > 0.0 {
                s = softcap(b, s, self.softcap);
            }
            let base = b.add_imm(base, i as i64 * lanes);
            self.mask(b, head, s, base, first)
        })
        .collect()
    }

    /// Replaces scores of positions outside `first..=position`; lane 0 is at `base`.
    fn mask(&self, b: &mut Builder, head: &Head, s: Val, base: Val, first: Val) -> Val {
        let ints = b.vec(Elem::I32);
        let numbers = b.load(ints, head.lane_numbers, 0);
        let mut limit = |to: Val| {
            let distance = b.sub(to, base);
            let distance = b.trunc(distance);
            b.emit(ints, Inst::Splat(distance))
        };
        let (upper, lower) = (limit(head.position), limit(first));
        let below = b.cmp(CmpOp::Le, numbers, upper);
        let above = b.cmp(CmpOp::Le, lower, numbers);
        let visible = b.and(below, above);
        let lowest = b.float(LOWEST);
        b.select(visible, s, lowest)
    }

    /// Stores e^(score − maximum), updates maximum and total; gives the factor on earlier sums.
    fn soften(&self, b: &mut Builder, head: &Head, s: &[Val], largest: Var, total: Var) -> Val {
        let mut top = s[0];
        for s in &s[1..] {
            top = b.max(top, *s);
        }
        let top = b.max_lane(top);
        let before = b.get(largest);
        let now = b.max(before, top);
        b.set(largest, now);
        let change = b.sub(before, now);
        let rescale = exp(b, change);
        let shift = b.splat(now);
        let mut sum = b.float(0.0);
        for (i, s) in s.iter().enumerate() {
            let s = b.sub(*s, shift);
            let e = exp(b, s);
            // A masked lane gives the smallest normal number, which vanishes beside the
            // largest lane's 1.
            b.store(head.weights, (i * b.width()) as i32, e);
            sum = b.add(sum, e);
        }
        let sum = b.sum(sum);
        let t = b.get(total);
        let t = b.fma(t, rescale, sum);
        b.set(total, t);
        rescale
    }

    /// sums = sums · rescale + Σ weight · value over 16 positions.
    fn accumulate(&self, b: &mut Builder, head: &Head, block: Val, rescale: Val) {
        let row = self.head_dim as i64 * 4;
        let values = b.at(head.values, block, BLOCK * row);
        for_columns(b, self.head_dim as i64, &mut |b, column, ty| {
            let at = b.at(head.sums, column, 4);
            let values = b.at(values, column, 4);
            let mut sum = b.load(ty, at, 0);
            let factor = broadcast(b, rescale, ty);
            sum = b.mul(sum, factor);
            for j in 0..BLOCK {
                let w = b.load(Ty::F32, head.weights, (j * 4) as i32);
                let w = broadcast(b, w, ty);
                let v = b.load(ty, values, (j * row) as i32);
                sum = b.fma(w, v, sum);
            }
            b.store(at, 0, sum);
        });
    }
}
