//! Root-mean-square normalisation.

use super::shape::for_columns;
use super::{Float, Spec, Vectors};
use crate::kir::{Builder, Elem, Kernel, Ty, UnOp, Val};

/// `out = x / √(mean(x²) + eps) ⊙ (offset + w)` over groups; items: rows.
pub struct RmsNorm {
    /// Channels of a row.
    pub d: usize,
    /// Channels normalised together; divides `d`.
    pub group: usize,
    /// Elements a row of x.
    pub x_stride: usize,
    /// Form of the weight.
    pub weight: Float,
    /// Added to the mean square.
    pub eps: f32,
    /// Multiply by 1 + w.
    pub unit_offset: bool,
}

impl Spec for RmsNorm {
    fn name(&self) -> String {
        format!(
            "rms_norm_{}_d{}_n{}_x{}_e{:08x}{}",
            self.weight.name(),
            self.d,
            self.group,
            self.x_stride,
            self.eps.to_bits(),
            if self.unit_offset { "_unit" } else { "" }
        )
    }

    fn build(&self, vectors: Vectors) -> Kernel {
        let mut b = Builder::new(&self.name(), vectors.bytes);
        let x = b.input("x");
        let weight = b.input("weight");
        let out = b.output("out");
        let (group, groups) = (self.group as i64, (self.d / self.group) as i64);
        let (begin, end) = b.range();
        b.for_range(begin, end, 1, |b, row| {
            let from = b.at(x, row, self.x_stride as i64 * 4);
            let to = b.at(out, row, self.d as i64 * 4);
            b.for_const(groups, 1, |b, g| {
                let from = b.at(from, g, group * 4);
                let to = b.at(to, g, group * 4);
                let inverse = inverse_rms(b, from, group, self.eps);
                for_columns(b, group, &mut |b, column, ty| {
                    let at = b.at(from, column, 4);
                    let v = b.load(ty, at, 0);
                    let w = b.at(weight, column, self.weight.bytes());
                    let w = b.load_as(ty, self.weight.mem(), w, 0);
                    let v = scaled(b, v, inverse, w, self.unit_offset, ty);
                    let to = b.at(to, column, 4);
                    b.store(to, 0, v);
                });
            });
        });
        b.finish()
    }
}

/// 1 / √(mean(x²) + eps) over `n` elements, an f32 scalar. The squares are summed in four vectors.
pub fn inverse_rms(b: &mut Builder, x: Val, n: i64, eps: f32) -> Val {
    let lanes = b.lanes() as i64;
    let vector = b.vec(Elem::F32);
    let zero = b.float(0.0);
    let sums: Vec<_> = (0..4).map(|_| b.var(zero)).collect();
    let whole = n / (4 * lanes) * 4 * lanes;
    if whole > 0 {
        b.for_const(whole, 4 * lanes, |b, column| {
            let at = b.at(x, column, 4);
            for (i, sum) in sums.iter().enumerate() {
                let v = b.load(vector, at, (i as i64 * lanes * 4) as i32);
                let s = b.get(*sum);
                let s = b.fma(v, v, s);
                b.set(*sum, s);
            }
        });
    }
    let [s0, s1, s2, s3] = [0, 1, 2, 3].map(|i| b.get(sums[i]));
    let (low, high) = (b.add(s0, s1), b.add(s2, s3));
    let total = b.add(low, high);
    let total = b.sum(total);
    let total = b.var(total);
    let (start, end) = (b.int(whole), b.int(n));
    b.for_range(start, end, 1, |b, column| {
        let at = b.at(x, column, 4);
        let v = b.load(Ty::F32, at, 0);
        let t = b.get(total);
        let t = b.fma(v, v, t);
        b.set(total, t);
    });
    let total = b.get(total);
    let share = b.float_of(Ty::F32, 1.0 / n as f32);
    let eps = b.float_of(Ty::F32, eps);
    let mean = b.fma(total, share, eps);
    let root = b.un(UnOp::Sqrt, mean);
    let one = b.float_of(Ty::F32, 1.0);
    b.div(one, root)
}

/// v · inverse · (offset + w) in type `ty`.
pub fn scaled(b: &mut Builder, v: Val, inverse: Val, w: Val, unit_offset: bool, ty: Ty) -> Val {
    let inverse = match ty.lanes {
        1 => inverse,
        _ => b.splat(inverse),
    };
    let v = b.mul(v, inverse);
    match unit_offset {
        true => b.fma(v, w, v),
        false => b.mul(v, w),
    }
}
