//! The loss of language modelling, row by row, and its gradient. Both read the rows' logarithms of
//! sums of exponentials. Labels have been checked: each is below the number of logits, and those
//! of rows that do not count are negative.

use super::rows::{clear, load_broadcast, shifted_exp};
use crate::kernels::shape::for_columns;
use crate::kernels::{Spec, Vectors};
use crate::kir::{Builder, CmpOp, Kernel, Ty, Val};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `out[row] = −ln softmax(logits)[label]`, 0 in rows that do not count.
    Rows,
    /// `out[row] = factor · (softmax(logits) − onehot(label))`, zeros in rows that do not count.
    Gradient,
}

/// One of the two over rows of `d` logits; items: rows.
pub struct CrossEntropy {
    /// Which.
    pub part: Part,
    /// Logits a row.
    pub d: usize,
    /// Elements a row of them.
    pub x_stride: usize,
}

/// What is read and written for one row.
struct Row {
    x: Val,
    /// The label as an i64.
    label: Val,
    lse: Val,
    out: Val,
}

impl Spec for CrossEntropy {
    fn name(&self) -> String {
        let part = match self.part {
            Part::Rows => "rows",
            Part::Gradient => "grad",
        };
        format!("cross_entropy_{part}_d{}_x{}", self.d, self.x_stride)
    }

    fn build(&self, vectors: Vectors) -> Kernel {
        let mut b = Builder::new(&self.name(), vectors.bytes);
        let (x, labels, lse) = (b.input("logits"), b.input("labels"), b.input("lse"));
        let factor = match self.part {
            Part::Rows => None,
            Part::Gradient => Some(b.input("factor")),
        };
        let out = b.output("out");
        let zero = b.int(0);
        let width = match self.part {
            Part::Rows => 1,
            Part::Gradient => self.d as i64,
        };
        let (begin, end) = b.range();
        b.for_range(begin, end, 1, |b, row| {
            let (label, lse) = (b.at(labels, row, 4), b.at(lse, row, 4));
            let label = b.load(Ty::I32, label, 0);
            let here = Row {
                x: b.at(x, row, self.x_stride as i64 * 4),
                label: b.extend(label),
                lse: b.load(Ty::F32, lse, 0),
                out: b.at(out, row, width * 4),
            };
            let counts = b.cmp(CmpOp::Le, zero, here.label);
            b.if_else(
                counts,
                |b| match factor {
                    None => row_loss(b, &here),
                    Some(factor) => self.gradient(b, &here, factor),
                },
                |b| clear(b, here.out, width),
            );
        });
        b.finish()
    }
}

fn row_loss(b: &mut Builder, row: &Row) {
    let at = b.at(row.x, row.label, 4);
    let x = b.load(Ty::F32, at, 0);
    let loss = b.sub(row.lse, x);
    b.store(row.out, 0, loss);
}

impl CrossEntropy {
    fn gradient(&self, b: &mut Builder, row: &Row, factor: Val) {
        for_columns(b, self.d as i64, &mut |b, column, ty| {
            let p = shifted_exp(b, row.x, column, row.lse, ty);
            let factor = load_broadcast(b, ty, factor);
            let y = b.mul(p, factor);
            let at = b.at(row.out, column, 4);
            b.store(at, 0, y);
        });
        let p = shifted_exp(b, row.x, row.label, row.lse, Ty::F32);
        let one = b.float_of(Ty::F32, 1.0);
        let p = b.sub(p, one);
        let factor = load_broadcast(b, Ty::F32, factor);
        let y = b.mul(p, factor);
        let at = b.at(row.out, row.label, 4);
        b.store(at, 0, y);
    }
}
