//! The effective weight of a residual-binary layer, and the gradient of its scales. The cores are
//! derived from the latent weights where they are needed and never stored.

use super::rows::{add_scaled, block_of_rows, clear, load_broadcast, sum_columns};
use crate::kernels::shape::for_columns;
use crate::kernels::{Spec, Vectors};
use crate::kir::{Builder, CmpOp, Kernel, Ty, Val};

/// Rows of a block in [`EffectiveScaleGrad`].
pub const BLOCK: usize = 32;

/// A layer's shape and where its cores come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Binary paths.
    pub paths: usize,
    /// Outputs.
    pub d_out: usize,
    /// Inputs.
    pub d_in: usize,
    /// Whether every path has a latent weight of its own; else all are derived from one.
    pub independent: bool,
}

/// `Ŵ = Σ_i g_i ⊙ B_i ⊙ h_i`; items: rows.
pub struct EffectiveWeight {
    /// The layer.
    pub layer: Layer,
}

/// `dg_i = Σ_in dŴ ⊙ B_i ⊙ h_i` into columns 0..d_out of `out` `[paths, d_out + d_in]`, and of
/// every block of rows `Σ dŴ ⊙ B_i ⊙ g_i` into `partial` `[blocks, paths, d_in]`; items: blocks of
/// [`BLOCK`] rows.
pub struct EffectiveScaleGrad {
    /// The layer.
    pub layer: Layer,
    /// Leading paths that get zeros.
    pub frozen: usize,
}

/// Addresses: of whole operands, or of a row of them.
#[derive(Clone)]
struct Operands {
    /// The output scales of a row, `d_out` apart.
    g: Val,
    h: Val,
    latents: Vec<Val>,
}

/// One path at one place.
struct Path {
    /// All ones where the core is +1.
    positive: Val,
    g: Val,
    h: Val,
    /// g · h, rounded: the magnitude of what the path adds.
    step: Val,
}

impl Layer {
    fn name(&self) -> String {
        let (k, rows, columns) = (self.paths, self.d_out, self.d_in);
        let latents = if self.independent { "_independent" } else { "" };
        format!("k{k}_{rows}x{columns}{latents}")
    }

    fn operands(&self, b: &mut Builder) -> Operands {
        let (g, h) = (b.input("g"), b.input("h"));
        let latents = if self.independent { self.paths } else { 1 };
        let latents = (0..latents).map(|i| b.input(&format!("latent{i}")));
        Operands {
            g,
            h,
            latents: latents.collect(),
        }
    }

    fn row(&self, b: &mut Builder, all: &Operands, row: Val) -> Operands {
        let bytes = self.d_in as i64 * 4;
        Operands {
            g: b.at(all.g, row, 4),
            h: all.h,
            latents: all.latents.iter().map(|w| b.at(*w, row, bytes)).collect(),
        }
    }

    /// The paths at a column of a row. As the definition has it: the product g · h is rounded, then
    /// subtracted from the residual, which is rounded again.
    fn paths(&self, b: &mut Builder, row: &Operands, column: Val, ty: Ty) -> Vec<Path> {
        let latent = |b: &mut Builder, i: usize| {
            let at = b.at(row.latents[i], column, 4);
            b.load(ty, at, 0)
        };
        let zero = b.float_of(ty, 0.0);
        let mut residual = latent(b, 0);
        let mut paths = Vec::with_capacity(self.paths);
        for i in 0..self.paths {
            if self.independent && i > 0 {
                residual = latent(b, i);
            }
            let positive = b.cmp(CmpOp::Le, zero, residual);
            let g = b.add_imm(row.g, (i * self.d_out * 4) as i64);
            let g = load_broadcast(b, ty, g);
            let h = b.add_imm(row.h, (i * self.d_in * 4) as i64);
            let h = b.at(h, column, 4);
            let h = b.load(ty, h, 0);
            let step = b.mul(g, h);
            if !self.independent && i + 1 < self.paths {
                let part = signed(b, positive, step);
                residual = b.sub(residual, part);
            }
            paths.push(Path {
                positive,
                g,
                h,
                step,
            });
        }
        paths
    }
}

/// x where the mask is set, −x elsewhere.
fn signed(b: &mut Builder, positive: Val, x: Val) -> Val {
    let minus = b.un(crate::kir::UnOp::Neg, x);
    b.select(positive, x, minus)
}

impl Spec for EffectiveWeight {
    fn name(&self) -> String {
        format!("effective_weight_{}", self.layer.name())
    }

    fn build(&self, vectors: Vectors) -> Kernel {
        let mut b = Builder::new(&self.name(), vectors.bytes);
        let operands = self.layer.operands(&mut b);
        let out = b.output("out");
        let d_in = self.layer.d_in as i64;
        let (begin, end) = b.range();
        b.for_range(begin, end, 1, |b, row| {
            let out = b.at(out, row, d_in * 4);
            let row = self.layer.row(b, &operands, row);
            for_columns(b, d_in, &mut |b, column, ty| {
                let paths = self.layer.paths(b, &row, column, ty);
                let parts = paths.iter().map(|path| signed(b, path.positive, path.step));
                let parts: Vec<Val> = parts.collect();
                let sum = parts[1..]
                    .iter()
                    .fold(parts[0], |sum, part| b.add(sum, *part));
                let at = b.at(out, column, 4);
                b.store(at, 0, sum);
            });
        });
        b.finish()
    }
}

impl Spec for EffectiveScaleGrad {
    fn name(&self) -> String {
        let (layer, frozen) = (self.layer.name(), self.frozen);
        format!("effective_scale_grad_{layer}_f{frozen}")
    }

    fn build(&self, vectors: Vectors) -> Kernel {
        let mut b = Builder::new(&self.name(), vectors.bytes);
        let dweight = b.input("dweight");
        let operands = self.layer.operands(&mut b);
        let (out, partial) = (b.output("out"), b.output("partial"));
        let Layer {
            paths, d_out, d_in, ..
        } = self.layer;
        let rows = b.int(d_out as i64);
        let (begin, end) = b.range();
        b.for_range(begin, end, 1, |b, item| {
            let partial = b.at(partial, item, (paths * d_in * 4) as i64);
            clear(b, partial, (paths * d_in) as i64);
            let (first, last) = block_of_rows(b, item, BLOCK as i64, rows);
            b.for_range(first, last, 1, |b, row| {
                let dweight = b.at(dweight, row, d_in as i64 * 4);
                let dg = b.at(out, row, 4);
                let row = self.layer.row(b, &operands, row);
                self.row(b, &row, dweight, dg, partial);
            });
        });
        b.finish()
    }
}

impl EffectiveScaleGrad {
    fn row(&self, b: &mut Builder, row: &Operands, dweight: Val, dg: Val, partial: Val) {
        let Layer {
            paths, d_out, d_in, ..
        } = self.layer;
        let trained = paths - self.frozen;
        let sums = sum_columns(b, d_in as i64, trained, 1, &mut |b, column, ty, sums| {
            let at = b.at(dweight, column, 4);
            let dw = b.load(ty, at, 0);
            let all = self.layer.paths(b, row, column, ty);
            let pairs = all.iter().enumerate().skip(self.frozen).zip(sums);
            let advance = pairs.map(|((i, path), sum)| {
                let pull = signed(b, path.positive, dw);
                let to = b.add_imm(partial, (i * d_in * 4) as i64);
                add_scaled(b, to, column, pull, path.g);
                b.fma(pull, path.h, *sum)
            });
            advance.collect()
        });
        let zero = b.float_of(Ty::F32, 0.0);
        for i in 0..paths {
            let at = b.add_imm(dg, (i * (d_out + d_in) * 4) as i64);
            let value = i.checked_sub(self.frozen).map_or(zero, |i| sums[i]);
            b.store(at, 0, value);
        }
    }
}
