//! The squared distance of two matrices, row by row, and its gradient.

use super::rows::{load_broadcast, sum_columns};
use crate::kernels::shape::for_columns;
use crate::kernels::{Spec, Vectors};
use crate::kir::{Builder, Kernel, Val};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `out[row] = (‖x − target‖², ‖target‖²)`.
    Rows,
    /// `out[row] = factors[row] · (x − target)`.
    Gradient,
}

/// One of the two over rows of `d` elements; items: rows.
pub struct SquaredError {
    /// Which.
    pub part: Part,
    /// Elements a row.
    pub d: usize,
    /// Elements from one row of x to the next.
    pub x_stride: usize,
    /// Elements from one row of the target to the next.
    pub target_stride: usize,
}

impl Spec for SquaredError {
    fn name(&self) -> String {
        let part = match self.part {
            Part::Rows => "rows",
            Part::Gradient => "grad",
        };
        let (d, x, t) = (self.d, self.x_stride, self.target_stride);
        format!("squared_error_{part}_d{d}_x{x}_t{t}")
    }

    fn build(&self, vectors: Vectors) -> Kernel {
        let mut b = Builder::new(&self.name(), vectors.bytes);
        let (x, target) = (b.input("x"), b.input("target"));
        let factors = match self.part {
            Part::Rows => None,
            Part::Gradient => Some(b.input("factors")),
        };
        let out = b.output("out");
        let (begin, end) = b.range();
        b.for_range(begin, end, 1, |b, row| {
            let x = b.at(x, row, self.x_stride as i64 * 4);
            let target = b.at(target, row, self.target_stride as i64 * 4);
            match factors {
                None => {
                    let out = b.at(out, row, 8);
                    self.row(b, x, target, out);
                }
                Some(factors) => {
                    let factor = b.at(factors, row, 4);
                    let out = b.at(out, row, self.d as i64 * 4);
                    self.gradient(b, x, target, factor, out);
                }
            }
        });
        b.finish()
    }
}

impl SquaredError {
    fn row(&self, b: &mut Builder, x: Val, target: Val, out: Val) {
        let sums = sum_columns(b, self.d as i64, 2, 2, &mut |b, column, ty, sums| {
            let (at_x, at_t) = (b.at(x, column, 4), b.at(target, column, 4));
            let (x, t) = (b.load(ty, at_x, 0), b.load(ty, at_t, 0));
            let difference = b.sub(x, t);
            vec![b.fma(difference, difference, sums[0]), b.fma(t, t, sums[1])]
        });
        b.store(out, 0, sums[0]);
        b.store(out, 4, sums[1]);
    }

    fn gradient(&self, b: &mut Builder, x: Val, target: Val, factor: Val, out: Val) {
        for_columns(b, self.d as i64, &mut |b, column, ty| {
            let (at_x, at_t) = (b.at(x, column, 4), b.at(target, column, 4));
            let (x, t) = (b.load(ty, at_x, 0), b.load(ty, at_t, 0));
            let difference = b.sub(x, t);
            let factor = load_broadcast(b, ty, factor);
            let y = b.mul(difference, factor);
            let at = b.at(out, column, 4);
            b.store(at, 0, y);
        });
    }
}
