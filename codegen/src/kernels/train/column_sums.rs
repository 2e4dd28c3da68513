//! Sums over the rows of a matrix: partial sums of blocks of rows, then their sums.

use super::rows::{add_scaled, block_of_rows, clear, inverse_root, sum_columns};
use crate::kernels::shape::{address, broadcast, chunk_count, for_chunks, for_columns};
use crate::kernels::{Spec, Vectors};
use crate::kir::{Builder, Kernel, Val};

/// Rows of a block.
pub const BLOCK: usize = 32;

/// Blocks of `rows` rows.
pub fn block_count(rows: usize) -> usize {
    rows.div_ceil(BLOCK)
}

/// What is summed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Terms {
    /// The rows of x.
    Rows,
    /// x / √(mean(x²) + eps) ⊙ dy of every group of `group` channels: the gradient of a norm's
    /// weight.
    Normalized {
        /// Channels of a group; divides the row.
        group: usize,
        /// Added to the mean square.
        eps: f32,
        /// Elements a row of dy.
        dy_stride: usize,
    },
}

/// Partial sums `[blocks, width]` of rows of `d` channels; items: blocks.
pub struct ColumnSums {
    /// What is summed.
    pub terms: Terms,
    /// Channels of a row of x.
    pub d: usize,
    /// Elements a row of x.
    pub x_stride: usize,
}

impl ColumnSums {
    /// Channels of the sums.
    pub fn width(&self) -> usize {
        match self.terms {
            Terms::Rows => self.d,
            Terms::Normalized { group, .. } => group,
        }
    }
}

impl Spec for ColumnSums {
    fn name(&self) -> String {
        let (d, x) = (self.d, self.x_stride);
        match self.terms {
            Terms::Rows => format!("column_sums_d{d}_x{x}"),
            Terms::Normalized {
                group,
                eps,
                dy_stride,
            } => {
                let eps = eps.to_bits();
                format!("normalized_sums_d{d}_n{group}_x{x}_y{dy_stride}_e{eps:08x}")
            }
        }
    }

    fn build(&self, vectors: Vectors) -> Kernel {
        let mut b = Builder::new(&self.name(), vectors.bytes);
        let x = b.input("x");
        let dy = match self.terms {
            Terms::Rows => x,
            Terms::Normalized { .. } => b.input("dy"),
        };
        let out = b.output("partial");
        let rows = b.scalar("rows");
        let width = self.width() as i64;
        let (begin, end) = b.range();
        b.for_range(begin, end, 1, |b, item| {
            let to = b.at(out, item, width * 4);
            clear(b, to, width);
            let (first, last) = block_of_rows(b, item, BLOCK as i64, rows);
            b.for_range(first, last, 1, |b, row| {
                let x = b.at(x, row, self.x_stride as i64 * 4);
                match self.terms {
                    Terms::Rows => self.add(b, x, to),
                    Terms::Normalized { eps, dy_stride, .. } => {
                        let dy = b.at(dy, row, dy_stride as i64 * 4);
                        self.add_normalized(b, x, dy, to, eps);
                    }
                }
            });
        });
        b.finish()
    }
}

impl ColumnSums {
    fn add(&self, b: &mut Builder, x: Val, to: Val) {
        for_columns(b, self.d as i64, &mut |b, column, ty| {
            let at = b.at(x, column, 4);
            let x = b.load(ty, at, 0);
            let one = b.float_of(ty, 1.0);
            add_scaled(b, to, column, x, one);
        });
    }

    fn add_normalized(&self, b: &mut Builder, x: Val, dy: Val, to: Val, eps: f32) {
        let n = self.width() as i64;
        b.for_const(self.d as i64 / n, 1, |b, g| {
            let (x, dy) = (b.at(x, g, n * 4), b.at(dy, g, n * 4));
            let square = sum_columns(b, n, 1, 4, &mut |b, column, ty, sums| {
                let at = b.at(x, column, 4);
                let x = b.load(ty, at, 0);
                vec![b.fma(x, x, sums[0])]
            });
            let inverse = inverse_root(b, square[0], n, eps);
            for_columns(b, n, &mut |b, column, ty| {
                let [x, dy] = [x, dy].map(|base| {
                    let at = b.at(base, column, 4);
                    b.load(ty, at, 0)
                });
                let inverse = broadcast(b, inverse, ty);
                let x = b.mul(x, inverse);
                add_scaled(b, to, column, x, dy);
            });
        });
    }
}

/// Sums of partial sums `[blocks, rows, d]` over the blocks; items: rows × chunks of columns.
pub struct SumPartials {
    /// Columns.
    pub d: usize,
    /// Rows.
    pub rows: usize,
    /// Elements a row of the result.
    pub out_stride: usize,
}

impl SumPartials {
    /// Work items.
    pub fn items(&self) -> usize {
        self.rows * chunk_count(self.d)
    }
}

impl Spec for SumPartials {
    fn name(&self) -> String {
        let (d, rows, stride) = (self.d, self.rows, self.out_stride);
        format!("sum_partials_d{d}_r{rows}_o{stride}")
    }

    fn build(&self, vectors: Vectors) -> Kernel {
        let mut b = Builder::new(&self.name(), vectors.bytes);
        let partial = b.input("partial");
        let out = b.output("out");
        let blocks = b.scalar("blocks");
        let zero = b.int(0);
        let (d, whole) = (self.d as i64, (self.rows * self.d) as i64);
        for_chunks(&mut b, d, &mut |b, row, first, columns| {
            let partial = address(b, partial, row, d, first);
            let out = address(b, out, row, self.out_stride as i64, first);
            for_columns(b, columns, &mut |b, column, ty| {
                let to = b.at(out, column, 4);
                let start = b.float_of(ty, 0.0);
                let sum = b.var(start);
                let from = b.at(partial, column, 4);
                b.for_range(zero, blocks, 1, |b, block| {
                    let at = b.at(from, block, whole * 4);
                    let part = b.load(ty, at, 0);
                    let before = b.get(sum);
                    let now = b.add(before, part);
                    b.set(sum, now);
                });
                let sum = b.get(sum);
                b.store(to, 0, sum);
            });
        });
        b.finish()
    }
}
