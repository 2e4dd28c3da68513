//! Rotary position embedding, half-rotation form.

use super::shape::{for_columns, split_item};
use super::{Spec, Vectors};
use crate::kir::{Builder, Kernel, UnOp};

/// Rotates every head of `x` by the table's angles, or by their opposites; items: tokens × heads.
pub struct Rope {
    /// Heads.
    pub heads: usize,
    /// Channels of a head; even.
    pub head_dim: usize,
    /// Elements a row of x.
    pub x_stride: usize,
    /// Whether it rotates the other way: the gradient.
    pub inverse: bool,
}

impl Spec for Rope {
    fn name(&self) -> String {
        let way = if self.inverse { "_grad" } else { "" };
        let (heads, head_dim, x) = (self.heads, self.head_dim, self.x_stride);
        format!("rope{way}_h{heads}_d{head_dim}_x{x}")
    }

    fn build(&self, vectors: Vectors) -> Kernel {
        let mut b = Builder::new(&self.name(), vectors.bytes);
        let x = b.input("x");
        let table = b.input("table");
        let out = b.output("out");
        let (heads, head_dim) = (self.heads as i64, self.head_dim as i64);
        let half = head_dim / 2;
        let (begin, end) = b.range();
        b.for_range(begin, end, 1, |b, item| {
            let (token, head) = split_item(b, item, heads);
            let column = b.mul_imm(head, head_dim);
            let from = super::shape::address(b, x, token, self.x_stride as i64, column);
            let to = b.at(out, item, head_dim * 4);
            let angles = b.at(table, token, head_dim * 4);
            for_columns(b, half, &mut |b, column, ty| {
                let upper = (half * 4) as i32;
                let at = b.at(from, column, 4);
                let (x0, x1) = (b.load(ty, at, 0), b.load(ty, at, upper));
                let at = b.at(angles, column, 4);
                let (cos, sin) = (b.load(ty, at, 0), b.load(ty, at, upper));
                let minus = b.un(UnOp::Neg, sin);
                let (y0, y1) = (b.mul(x0, cos), b.mul(x1, cos));
                let (sin0, sin1) = match self.inverse {
                    false => (minus, sin),
                    true => (sin, minus),
                };
                let (y0, y1) = (b.fma(x1, sin0, y0), b.fma(x0, sin1, y1));
                let at = b.at(to, column, 4);
                b.store(at, 0, y0);
                b.store(at, upper, y1);
            });
        });
        b.finish()
    }
}
