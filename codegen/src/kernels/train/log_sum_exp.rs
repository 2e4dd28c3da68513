//! The logarithm of the sum of the exponentials of a row.

use super::functions::ln_or_nan;
use super::rows::{max_columns, shifted_exp, sum_columns};
use crate::kernels::{Spec, Vectors};
use crate::kir::{Builder, Kernel};

/// `out[row] = ln Σ exp(x[row])`; items: rows.
pub struct LogSumExp {
    /// Columns.
    pub d: usize,
    /// Elements a row of x.
    pub x_stride: usize,
}

impl Spec for LogSumExp {
    fn name(&self) -> String {
        format!("log_sum_exp_d{}_x{}", self.d, self.x_stride)
    }

    fn build(&self, vectors: Vectors) -> Kernel {
        let mut b = Builder::new(&self.name(), vectors.bytes);
        let x = b.input("x");
        let out = b.output("out");
        let d = self.d as i64;
        let (begin, end) = b.range();
        b.for_range(begin, end, 1, |b, row| {
            let x = b.at(x, row, self.x_stride as i64 * 4);
            let largest = max_columns(b, x, d);
            let total = sum_columns(b, d, 1, 4, &mut |b, column, ty, sums| {
                let e = shifted_exp(b, x, column, largest, ty);
                vec![b.add(sums[0], e)]
            });
            let log = ln_or_nan(b, total[0]);
            let log = b.add(log, largest);
            let to = b.at(out, row, 4);
            b.store(to, 0, log);
        });
        b.finish()
    }
}
