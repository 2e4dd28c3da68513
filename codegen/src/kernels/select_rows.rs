//! Copies the rows whose logits are asked for.

use super::shape::for_columns;
use super::{Spec, Vectors};
use crate::kir::{Builder, Kernel, Ty};

/// `out[r] = x[rows[r]]`; items: rows asked for.
pub struct SelectRows {
    /// Channels.
    pub d: usize,
    /// Elements a row of x.
    pub x_stride: usize,
}

impl Spec for SelectRows {
    fn name(&self) -> String {
        format!("select_rows_d{}_x{}", self.d, self.x_stride)
    }

    fn build(&self, vectors: Vectors) -> Kernel {
        let mut b = Builder::new(&self.name(), vectors.bytes);
        let x = b.input("x");
        let rows = b.input("rows");
        let out = b.output("out");
        let (d, stride) = (self.d as i64, self.x_stride as i64);
        let (begin, end) = b.range();
        b.for_range(begin, end, 1, |b, r| {
            let row = b.at(rows, r, 4);
            let row = b.load(Ty::I32, row, 0);
            let row = b.extend(row);
            let from = b.at(x, row, stride * 4);
            let to = b.at(out, r, d * 4);
            for_columns(b, d, &mut |b, column, ty| {
                let from = b.at(from, column, 4);
                let v = b.load(ty, from, 0);
                let to = b.at(to, column, 4);
                b.store(to, 0, v);
            });
        });
        b.finish()
    }
}
