//! The divergence of a student's predictions from a teacher's, row by row, and its gradient. Both
//! read the rows' logarithms of sums of exponentials.

use super::rows::{load_broadcast, shifted_exp, sum_columns};
use crate::kernels::shape::{broadcast, for_columns};
use crate::kernels::{Spec, Vectors, math};
use crate::kir::{Builder, Kernel, Val};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `out[row] = Σ p (ln p − ln q)`, p the teacher's softmax and q the student's.
    Rows,
    /// `out[row] = factor · (q − p)`.
    Gradient,
}

/// One of the two over rows of `d` logits; items: rows.
pub struct KlDivergence {
    /// Which.
    pub part: Part,
    /// Logits a row.
    pub d: usize,
    /// Elements a row of the teacher's.
    pub teacher_stride: usize,
    /// Elements a row of the student's.
    pub student_stride: usize,
}

impl Spec for KlDivergence {
    fn name(&self) -> String {
        let part = match self.part {
            Part::Rows => "rows",
            Part::Gradient => "grad",
        };
        let (d, t, s) = (self.d, self.teacher_stride, self.student_stride);
        format!("kl_divergence_{part}_d{d}_t{t}_s{s}")
    }

    fn build(&self, vectors: Vectors) -> Kernel {
        let mut b = Builder::new(&self.name(), vectors.bytes);
        let logits = [b.input("teacher"), b.input("student")];
        let lse = [b.input("teacher_lse"), b.input("student_lse")];
        let factor = match self.part {
            Part::Rows => None,
            Part::Gradient => Some(b.input("factor")),
        };
        let out = b.output("out");
        let (begin, end) = b.range();
        b.for_range(begin, end, 1, |b, row| {
            let [teacher, student] = logits;
            let teacher = b.at(teacher, row, self.teacher_stride as i64 * 4);
            let student = b.at(student, row, self.student_stride as i64 * 4);
            let lse = lse.map(|lse| {
                let at = b.at(lse, row, 4);
                b.load(crate::kir::Ty::F32, at, 0)
            });
            match factor {
                None => {
                    let to = b.at(out, row, 4);
                    self.row(b, [teacher, student], lse, to);
                }
                Some(factor) => {
                    let to = b.at(out, row, self.d as i64 * 4);
                    self.gradient(b, [teacher, student], lse, factor, to);
                }
            }
        });
        b.finish()
    }
}

impl KlDivergence {
    fn row(&self, b: &mut Builder, logits: [Val; 2], lse: [Val; 2], out: Val) {
        let sum = sum_columns(b, self.d as i64, 1, 2, &mut |b, column, ty, sums| {
            let logs: Vec<Val> = logits
                .iter()
                .zip(lse)
                .map(|(x, lse)| {
                    let at = b.at(*x, column, 4);
                    let x = b.load(ty, at, 0);
                    let lse = broadcast(b, lse, ty);
                    b.sub(x, lse)
                })
                .collect();
            let p = math::exp(b, logs[0]);
            let difference = b.sub(logs[0], logs[1]);
            vec![b.fma(p, difference, sums[0])]
        });
        b.store(out, 0, sum[0]);
    }

    fn gradient(&self, b: &mut Builder, x: [Val; 2], lse: [Val; 2], factor: Val, out: Val) {
        for_columns(b, self.d as i64, &mut |b, column, ty| {
            let p = shifted_exp(b, x[0], column, lse[0], ty);
            let q = shifted_exp(b, x[1], column, lse[1], ty);
            let difference = b.sub(q, p);
            let factor = load_broadcast(b, ty, factor);
            let y = b.mul(difference, factor);
            let at = b.at(out, column, 4);
            b.store(at, 0, y);
        });
    }
}
