//! What the attention kernels of training share: products of one row with many, and weighted sums
//! of rows, a block of rows at a time with the weights on the stack.

use super::functions::softcap_or_nan;
use super::rows::sum_columns;
use crate::kernels::math::min_int;
use crate::kernels::shape::{broadcast, for_columns};
use crate::kir::{Builder, CmpOp, Elem, Inst, Ty, Val};

/// Rows of a block; a multiple of every vector's lanes.
pub const BLOCK: i64 = 64;

/// Products taken together.
const TOGETHER: usize = 4;

/// Vectors of a weighted sum kept in registers.
const VECTORS: i64 = 8;

/// Stands for −∞ without making ∞ − ∞.
pub const LOWEST: f32 = -1e30;

/// Shape and scores of causal attention over whole sequences.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// Positions a token sees; 0 for all.
    pub window: usize,
    /// Bound on the scores; 0 for none.
    pub softcap: f32,
    /// Tokens of a sequence.
    pub seq_len: usize,
    /// Elements a row of q.
    pub q_stride: usize,
    /// Elements a row of k.
    pub k_stride: usize,
    /// Elements a row of v.
    pub v_stride: usize,
}

impl Heads {
    /// What kernel names say of it.
    pub fn name(&self) -> String {
        format!(
            "h{}_kv{}_d{}_s{:08x}_w{}_c{:08x}_l{}_q{}_k{}_v{}",
            self.n_heads,
            self.n_kv_heads,
            self.head_dim,
            self.scale.to_bits(),
            self.window,
            self.softcap.to_bits(),
            self.seq_len,
            self.q_stride,
            self.k_stride,
            self.v_stride
        )
    }

    /// Query heads that share a key/value head.
    pub fn group(&self) -> i64 {
        (self.n_heads / self.n_kv_heads) as i64
    }

    /// The first row of the sequence that `row` is of.
    pub fn sequence(&self, b: &mut Builder, row: Val) -> Val {
        let seq_len = b.int(self.seq_len as i64);
        let sequence = b.div(row, seq_len);
        b.mul(sequence, seq_len)
    }

    /// The first row that `row` sees.
    pub fn first(&self, b: &mut Builder, row: Val) -> Val {
        let start = self.sequence(b, row);
        match self.window {
            0 => start,
            w => {
                let first = b.add_imm(row, 1 - w as i64);
                crate::kernels::math::max_int(b, first, start)
            }
        }
    }

    /// One past the last row that sees `row`.
    pub fn last(&self, b: &mut Builder, row: Val) -> Val {
        let start = self.sequence(b, row);
        let end = b.add_imm(start, self.seq_len as i64);
        match self.window {
            0 => end,
            w => {
                let last = b.add_imm(row, w as i64);
                min_int(b, last, end)
            }
        }
    }

    /// Scaled and capped scores from products.
    pub fn score(&self, b: &mut Builder, product: Val) -> Val {
        let scale = b.float_of(b.ty(product), self.scale);
        let score = b.mul(product, scale);
        match self.softcap > 0.0 {
            true => softcap_or_nan(b, score, self.softcap),
            false => score,
        }
    }

    /// The derivative of a score with respect to its product.
    pub fn slope(&self, b: &mut Builder, score: Val) -> Val {
        let ty = b.ty(score);
        let scale = b.float_of(ty, self.scale);
        if self.softcap == 0.0 {
            return scale;
        }
        let (minus, one) = (
            b.float_of(ty, -1.0 / (self.softcap * self.softcap)),
            b.float_of(ty, 1.0),
        );
        let square = b.mul(score, score);
        let slope = b.fma(square, minus, one);
        b.mul(slope, scale)
    }
}

/// Rows that lie `stride` elements apart.
#[derive(Clone, Copy)]
pub struct Rows {
    /// The first.
    pub base: Val,
    /// Elements from one to the next.
    pub stride: usize,
}

impl Rows {
    /// The rows from `index` on.
    pub fn from(self, b: &mut Builder, index: Val) -> Rows {
        Rows {
            base: b.at(self.base, index, self.stride as i64 * 4),
            ..self
        }
    }

    /// The columns from `column` on.
    pub fn columns(self, b: &mut Builder, column: Val) -> Rows {
        Rows {
            base: b.at(self.base, column, 4),
            ..self
        }
    }
}

/// Calls `body` with the first row and the number of rows of each block of `first..last`.
pub fn for_blocks(
    b: &mut Builder,
    first: Val,
    last: Val,
    body: impl FnOnce(&mut Builder, Val, Val),
) {
    b.for_range(first, last, BLOCK, |b, row| {
        let rest = b.sub(last, row);
        let most = b.int(BLOCK);
        let count = min_int(b, rest, most);
        body(b, row, count);
    });
}

/// Calls `body` with the byte offset of each vector of a block's `count` values and the mask of
/// those of its lanes that are below `count`.
pub fn for_lanes(
    b: &mut Builder,
    count: Val,
    lane_numbers: Val,
    body: impl FnOnce(&mut Builder, Val, Val),
) {
    let (lanes, ints) = (b.lanes() as i64, b.vec(Elem::I32));
    let zero = b.int(0);
    b.for_range(zero, count, lanes, |b, i| {
        let left = b.sub(count, i);
        let left = b.trunc(left);
        let left = b.emit(ints, Inst::Splat(left));
        let numbers = b.load(ints, lane_numbers, 0);
        let within = b.cmp(CmpOp::Lt, numbers, left);
        let offset = b.mul_imm(i, 4);
        body(b, offset, within);
    });
}

/// `out[j] = x · rows[j]` over `d` channels for j in `0..count`.
pub fn dots(b: &mut Builder, x: Val, rows: Rows, d: i64, count: Val, out: Val) {
    let shift = TOGETHER.trailing_zeros() as u8;
    let whole = b.shr(count, shift);
    let whole = b.shl(whole, shift);
    let zero = b.int(0);
    for (start, end, together) in [(zero, whole, TOGETHER), (whole, count, 1)] {
        b.for_range(start, end, together as i64, |b, j| {
            let at = rows.from(b, j).base;
            let products = sum_columns(b, d, together, 1, &mut |b, column, ty, sums| {
                let x = b.at(x, column, 4);
                let x = b.load(ty, x, 0);
                let at = b.at(at, column, 4);
                let advance = sums.iter().enumerate().map(|(i, sum)| {
                    let row = b.add_imm(at, (i * rows.stride * 4) as i64);
                    let row = b.load(ty, row, 0);
                    b.fma(x, row, *sum)
                });
                advance.collect()
            });
            let to = b.at(out, j, 4);
            for (i, product) in products.into_iter().enumerate() {
                b.store(to, i as i32 * 4, product);
            }
        });
    }
}

/// `sums = sums · rescale + Σ weights[j] · rows[j]` over `d` channels, j in `0..count`; without a
/// factor the sums are kept as they are.
pub fn accumulate(
    b: &mut Builder,
    sums: Val,
    d: i64,
    rescale: Option<Val>,
    weights: Val,
    rows: Rows,
    count: Val,
) {
    let (lanes, vector) = (b.lanes() as i64, b.vec(Elem::F32));
    let tile = Tile {
        sums,
        rescale,
        weights,
        rows,
        count,
    };
    let (wide, whole) = (d / (VECTORS * lanes) * VECTORS * lanes, d / lanes * lanes);
    if wide > 0 {
        b.for_const(wide, VECTORS * lanes, |b, column| {
            tile.add(b, column, VECTORS, vector)
        });
    }
    if wide < whole {
        let column = b.int(wide);
        tile.add(b, column, (whole - wide) / lanes, vector);
    }
    if whole < d {
        let (start, end) = (b.int(whole), b.int(d));
        b.for_range(start, end, 1, |b, column| tile.add(b, column, 1, Ty::F32));
    }
}

/// A weighted sum of some columns of rows.
struct Tile {
    sums: Val,
    rescale: Option<Val>,
    weights: Val,
    rows: Rows,
    count: Val,
}

impl Tile {
    /// The sums of `n` values of type `ty` from `column` on.
    fn add(&self, b: &mut Builder, column: Val, n: i64, ty: Ty) {
        let bytes = |i: i64| (i * ty.bytes() as i64) as i32;
        let to = b.at(self.sums, column, 4);
        let mut vars = Vec::new();
        for i in 0..n {
            let mut sum = b.load(ty, to, bytes(i));
            if let Some(rescale) = self.rescale {
                let rescale = broadcast(b, rescale, ty);
                sum = b.mul(sum, rescale);
            }
            vars.push(b.var(sum));
        }
        let rows = self.rows.columns(b, column);
        let zero = b.int(0);
        b.for_range(zero, self.count, 1, |b, j| {
            let weight = b.at(self.weights, j, 4);
            let weight = b.load(Ty::F32, weight, 0);
            let weight = broadcast(b, weight, ty);
            let at = rows.from(b, j).base;
            for (i, var) in vars.iter().enumerate() {
                let x = b.load(ty, at, bytes(i as i64));
                let sum = b.get(*var);
                let sum = b.fma(weight, x, sum);
                b.set(*var, sum);
            }
        });
        for (i, var) in vars.into_iter().enumerate() {
            let sum = b.get(var);
            b.store(to, bytes(i as i64), sum);
        }
    }
}

/// `out[i] = factor · x[i]` over `n` channels.
pub fn store_scaled(b: &mut Builder, x: Val, factor: Option<Val>, out: Val, n: i64) {
    for_columns(b, n, &mut |b, column, ty| {
        let at = b.at(x, column, 4);
        let mut y = b.load(ty, at, 0);
        if let Some(factor) = factor {
            let factor = broadcast(b, factor, ty);
            y = b.mul(y, factor);
        }
        let to = b.at(out, column, 4);
        b.store(to, 0, y);
    });
}
