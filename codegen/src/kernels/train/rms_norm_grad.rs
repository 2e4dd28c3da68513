//! The gradient of root-mean-square normalisation with respect to its input.

use super::rows::{inverse_root, sum_columns};
use crate::kernels::shape::{broadcast, for_columns};
use crate::kernels::{Spec, Vectors};
use crate::kir::{Builder, Kernel, Ty, Val};

/// `dx = r (v ⊙ dy − x r² mean(x ⊙ v ⊙ dy))` over groups, v the weight or 1 + it; items: rows.
pub struct RmsNormGrad {
    /// Channels of a row.
    pub d: usize,
    /// Channels normalised together; divides `d`.
    pub group: usize,
    /// Elements a row of x.
    pub x_stride: usize,
    /// Elements a row of dy.
    pub dy_stride: usize,
    /// Added to the mean square.
    pub eps: f32,
    /// Whether the norm multiplies by 1 + w.
    pub unit_offset: bool,
}

/// Addresses of one group.
struct Group {
    x: Val,
    weight: Val,
    dy: Val,
    out: Val,
}

impl Spec for RmsNormGrad {
    fn name(&self) -> String {
        format!(
            "rms_norm_grad_d{}_n{}_x{}_y{}_e{:08x}{}",
            self.d,
            self.group,
            self.x_stride,
            self.dy_stride,
            self.eps.to_bits(),
            if self.unit_offset { "_unit" } else { "" }
        )
    }

    fn build(&self, vectors: Vectors) -> Kernel {
        let mut b = Builder::new(&self.name(), vectors.bytes);
        let (x, weight, dy) = (b.input("x"), b.input("weight"), b.input("dy"));
        let out = b.output("out");
        let bytes = self.group as i64 * 4;
        let (begin, end) = b.range();
        b.for_range(begin, end, 1, |b, row| {
            let x = b.at(x, row, self.x_stride as i64 * 4);
            let dy = b.at(dy, row, self.dy_stride as i64 * 4);
            let out = b.at(out, row, self.d as i64 * 4);
            b.for_const((self.d / self.group) as i64, 1, |b, g| {
                let group = Group {
                    x: b.at(x, g, bytes),
                    weight,
                    dy: b.at(dy, g, bytes),
                    out: b.at(out, g, bytes),
                };
                self.group(b, &group);
            });
        });
        b.finish()
    }
}

impl RmsNormGrad {
    fn group(&self, b: &mut Builder, group: &Group) {
        let n = self.group as i64;
        let sums = sum_columns(b, n, 2, 2, &mut |b, column, ty, sums| {
            let (x, pull) = self.terms(b, group, column, ty);
            vec![b.fma(x, x, sums[0]), b.fma(x, pull, sums[1])]
        });
        let scale = inverse_root(b, sums[0], n, self.eps);
        let share = b.float_of(Ty::F32, 1.0 / n as f32);
        let mean = b.mul(sums[1], share);
        let shrink = b.mul(mean, scale);
        let shrink = b.mul(shrink, scale);
        for_columns(b, n, &mut |b, column, ty| {
            let (x, pull) = self.terms(b, group, column, ty);
            let shrink = broadcast(b, shrink, ty);
            let scale = broadcast(b, scale, ty);
            let part = b.mul(x, shrink);
            let difference = b.sub(pull, part);
            let dx = b.mul(difference, scale);
            let at = b.at(group.out, column, 4);
            b.store(at, 0, dx);
        });
    }

    /// x and v ⊙ dy.
    fn terms(&self, b: &mut Builder, group: &Group, column: Val, ty: Ty) -> (Val, Val) {
        let [x, w, dy] = [group.x, group.weight, group.dy].map(|base| {
            let at = b.at(base, column, 4);
            b.load(ty, at, 0)
        });
        let pull = match self.unit_offset {
            true => b.fma(w, dy, dy),
            false => b.mul(w, dy),
        };
        (x, pull)
    }
}
