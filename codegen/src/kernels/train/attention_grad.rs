//! The gradient of attention over whole sequences, in two kernels that share nothing they write:
//! one has a row of q a work item and goes over the keys it sees, one a row of k and v and goes
//! over the queries that see it. Weights are computed from the logarithms of their sums (Dao,
//! arXiv 2307.08691).

pub use super::attention_rows::Heads;
use super::attention_rows::{BLOCK, Rows, accumulate, dots, for_blocks, for_lanes, store_scaled};
use super::functions::exp_or_nan;
use super::rows::{clear, sum_columns};
use crate::kernels::shape::{address, lane_numbers, split_item};
use crate::kernels::{Spec, Vectors};
use crate::kir::{Builder, Elem, Kernel, Ty, Val};

/// `out[row, head] = Σ a ⊙ b` over the channels of a head; items: rows × heads.
pub struct HeadDots {
    /// Heads.
    pub heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Elements a row of a.
    pub a_stride: usize,
    /// Elements a row of b.
    pub b_stride: usize,
}

/// Which gradients a kernel computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// That of q; items: rows × heads.
    Queries,
    /// Those of k and v; items: rows × key/value heads.
    Keys,
}

/// Gradients of q, k and v from that of the result, side by side in rows of
/// (n_heads + 2 n_kv_heads) · head_dim columns. `delta` `[rows, n_heads]` is [`HeadDots`] of the
/// result and its gradient.
pub struct AttentionGrad {
    /// Which.
    pub side: Side,
    /// Shape and scores.
    pub heads: Heads,
    /// Elements a row of dy.
    pub dy_stride: usize,
}

/// Base addresses and scratch.
struct Operands {
    q: Val,
    k: Val,
    v: Val,
    lse: Val,
    dy: Val,
    delta: Val,
    out: Val,
    /// Softmax weights, products of dy and v turned into gradients of scores, and the logarithms
    /// and deltas of a block of rows.
    weights: Val,
    pulls: Val,
    logs: Val,
    deltas: Val,
    /// Two sums of head_dim channels.
    sums: [Val; 2],
    lane_numbers: Val,
}

impl Spec for HeadDots {
    fn name(&self) -> String {
        let (h, d, a, b) = (self.heads, self.head_dim, self.a_stride, self.b_stride);
        format!("head_dots_h{h}_d{d}_a{a}_b{b}")
    }

    fn build(&self, vectors: Vectors) -> Kernel {
        let mut b = Builder::new(&self.name(), vectors.bytes);
        let (x, y) = (b.input("a"), b.input("b"));
        let out = b.output("out");
        let d = self.head_dim as i64;
        let (begin, end) = b.range();
        b.for_range(begin, end, 1, |b, item| {
            let (row, head) = split_item(b, item, self.heads as i64);
            let column = b.mul_imm(head, d);
            let x = address(b, x, row, self.a_stride as i64, column);
            let y = address(b, y, row, self.b_stride as i64, column);
            let sum = sum_columns(b, d, 1, 2, &mut |b, column, ty, sums| {
                let (x, y) = (b.at(x, column, 4), b.at(y, column, 4));
                let (x, y) = (b.load(ty, x, 0), b.load(ty, y, 0));
                vec![b.fma(x, y, sums[0])]
            });
            let to = b.at(out, item, 4);
            b.store(to, 0, sum[0]);
        });
        b.finish()
    }
}

impl Spec for AttentionGrad {
    fn name(&self) -> String {
        let side = match self.side {
            Side::Queries => "q",
            Side::Keys => "kv",
        };
        format!(
            "attention_grad_{side}_{}_y{}",
            self.heads.name(),
            self.dy_stride
        )
    }

    fn build(&self, vectors: Vectors) -> Kernel {
        let mut b = Builder::new(&self.name(), vectors.bytes);
        let operands = self.operands(&mut b);
        let heads = match self.side {
            Side::Queries => self.heads.n_heads,
            Side::Keys => self.heads.n_kv_heads,
        };
        let (begin, end) = b.range();
        b.for_range(begin, end, 1, |b, item| {
            let (row, head) = split_item(b, item, heads as i64);
            match self.side {
                Side::Queries => self.query(b, &operands, row, head),
                Side::Keys => self.key(b, &operands, row, head),
            }
        });
        b.finish()
    }
}

impl AttentionGrad {
    fn operands(&self, b: &mut Builder) -> Operands {
        let [q, k, v, lse, dy, delta] = ["q", "k", "v", "lse", "dy", "delta"].map(|n| b.input(n));
        let out = b.output("out");
        let [weights, pulls, logs, deltas] = [(); 4].map(|()| {
            let area = b.stack(BLOCK as usize * 4);
            clear(b, area, BLOCK);
            area
        });
        let sums = [(); 2].map(|()| b.stack(self.heads.head_dim * 4));
        Operands {
            q,
            k,
            v,
            lse,
            dy,
            delta,
            out,
            weights,
            pulls,
            logs,
            deltas,
            sums,
            lane_numbers: lane_numbers(b),
        }
    }

    /// Where `part` of the result (0: dq, 1: dk, 2: dv) of a row and head lies.
    fn result(&self, b: &mut Builder, o: &Operands, part: usize, row: Val, head: Val) -> Val {
        let (heads, kv) = (self.heads.n_heads, self.heads.n_kv_heads);
        let before = [0, heads, heads + kv][part];
        let head = b.add_imm(head, before as i64);
        let column = b.mul_imm(head, self.heads.head_dim as i64);
        let stride = (heads + 2 * kv) * self.heads.head_dim;
        address(b, o.out, row, stride as i64, column)
    }

    /// The rows of one head.
    fn rows(&self, b: &mut Builder, base: Val, stride: usize, head: Val) -> Rows {
        let base = b.at(base, head, self.heads.head_dim as i64 * 4);
        Rows { base, stride }
    }

    fn query(&self, b: &mut Builder, o: &Operands, row: Val, head: Val) {
        let heads = &self.heads;
        let d = heads.head_dim as i64;
        let (kv_head, _) = split_item(b, head, heads.group());
        let keys = self.rows(b, o.k, heads.k_stride, kv_head);
        let values = self.rows(b, o.v, heads.v_stride, kv_head);
        let q = self.rows(b, o.q, heads.q_stride, head).from(b, row).base;
        let dy = self.rows(b, o.dy, self.dy_stride, head).from(b, row).base;
        let [lse, delta] = [o.lse, o.delta].map(|base| {
            let at = address(b, base, row, heads.n_heads as i64, head);
            let x = b.load(Ty::F32, at, 0);
            b.splat(x)
        });
        clear(b, o.sums[0], d);
        let first = heads.first(b, row);
        let last = b.add_imm(row, 1);
        for_blocks(b, first, last, |b, row, count| {
            let (keys, values) = (keys.from(b, row), values.from(b, row));
            dots(b, q, keys, d, count, o.weights);
            dots(b, dy, values, d, count, o.pulls);
            self.pulls(b, o, count, &mut |_, _| (lse, delta));
            accumulate(b, o.sums[0], d, None, o.pulls, keys, count);
        });
        let to = self.result(b, o, 0, row, head);
        store_scaled(b, o.sums[0], None, to, d);
    }

    fn key(&self, b: &mut Builder, o: &Operands, row: Val, kv_head: Val) {
        let heads = &self.heads;
        let d = heads.head_dim as i64;
        let (stride_k, stride_v) = (heads.k_stride, heads.v_stride);
        let k = self.rows(b, o.k, stride_k, kv_head).from(b, row).base;
        let v = self.rows(b, o.v, stride_v, kv_head).from(b, row).base;
        let last = heads.last(b, row);
        o.sums.iter().for_each(|sums| clear(b, *sums, d));
        b.for_const(heads.group(), 1, |b, i| {
            let head = b.mul_imm(kv_head, heads.group());
            let head = b.add(head, i);
            let queries = self.rows(b, o.q, heads.q_stride, head);
            let dys = self.rows(b, o.dy, self.dy_stride, head);
            for_blocks(b, row, last, |b, row, count| {
                let (queries, dys) = (queries.from(b, row), dys.from(b, row));
                dots(b, k, queries, d, count, o.weights);
                dots(b, v, dys, d, count, o.pulls);
                self.gather(b, [o.lse, o.logs], row, head, count);
                self.gather(b, [o.delta, o.deltas], row, head, count);
                let vector = b.vec(Elem::F32);
                self.pulls(b, o, count, &mut |b, offset| {
                    let [log, delta] = [o.logs, o.deltas].map(|base| {
                        let at = b.add(base, offset);
                        b.load(vector, at, 0)
                    });
                    (log, delta)
                });
                accumulate(b, o.sums[0], d, None, o.pulls, queries, count);
                accumulate(b, o.sums[1], d, None, o.weights, dys, count);
            });
        });
        for (part, sums) in [1, 2].into_iter().zip(o.sums) {
            let to = self.result(b, o, part, row, kv_head);
            store_scaled(b, sums, None, to, d);
        }
    }

    /// Copies the numbers of one head for `count` rows from `row` on.
    fn gather(&self, b: &mut Builder, [from, to]: [Val; 2], row: Val, head: Val, count: Val) {
        let n_heads = self.heads.n_heads as i64;
        let from = address(b, from, row, n_heads, head);
        let zero = b.int(0);
        b.for_range(zero, count, 1, |b, j| {
            let at = b.at(from, j, n_heads * 4);
            let x = b.load(Ty::F32, at, 0);
            let to = b.at(to, j, 4);
            b.store(to, 0, x);
        });
    }

    /// Turns products of q and k into softmax weights p and products of dy and v into
    /// p (product − delta) · slope. `terms` gives logarithm and delta at a byte offset.
    fn pulls(
        &self,
        b: &mut Builder,
        o: &Operands,
        count: Val,
        terms: &mut dyn FnMut(&mut Builder, Val) -> (Val, Val),
    ) {
        let vector = b.vec(Elem::F32);
        for_lanes(b, count, o.lane_numbers, |b, offset, within| {
            let (at_weight, at_pull) = (b.add(o.weights, offset), b.add(o.pulls, offset));
            let product = b.load(vector, at_weight, 0);
            let score = self.heads.score(b, product);
            let (log, delta) = terms(b, offset);
            let shifted = b.sub(score, log);
            let weight = exp_or_nan(b, shifted);
            let zero = b.float(0.0);
            let weight = b.select(within, weight, zero);
            let pull = b.load(vector, at_pull, 0);
            let pull = b.sub(pull, delta);
            let slope = self.heads.slope(b, score);
            let pull = b.mul(pull, slope);
            let pull = b.mul(pull, weight);
            b.store(at_weight, 0, weight);
            b.store(at_pull, 0, pull);
        });
    }
}
