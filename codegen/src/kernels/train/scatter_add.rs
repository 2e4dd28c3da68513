//! Adding rows into a matrix by index.

use crate::kernels::math::min_int;
use crate::kernels::{Spec, Vectors};
use crate::kir::{Builder, Elem, Kernel, Ty, Val};

/// Columns of a work item: a cache line's, so that no two workers write the same line.
pub const COLUMNS: usize = 16;

/// Row `index[i]` of the result gets row i of x, times a scale; items: blocks of [`COLUMNS`]
/// columns, each of which adds all rows in order. Indices outside the result are the caller's to
/// refuse.
pub struct ScatterAdd {
    /// Columns.
    pub d: usize,
    /// Elements a row of x.
    pub x_stride: usize,
    /// Factor on every element.
    pub scale: f32,
    /// Rows of the result that are zeroed first; `None` if it is added to what the result holds.
    pub zeroed: Option<usize>,
}

impl ScatterAdd {
    /// Work items.
    pub fn items(&self) -> usize {
        self.d.div_ceil(COLUMNS)
    }

    /// Calls `body` with the columns of an item from `first` on and the type to compute in.
    fn columns(&self, b: &mut Builder, first: Val, body: &mut dyn FnMut(&mut Builder, Val, Ty)) {
        let (lanes, vector) = (b.lanes() as i64, b.vec(Elem::F32));
        let d = b.int(self.d as i64);
        let last = b.add_imm(first, COLUMNS as i64);
        let last = min_int(b, last, d);
        let width = b.sub(last, first);
        let shift = lanes.trailing_zeros() as u8;
        let vectors = b.shr(width, shift);
        let vectors = b.shl(vectors, shift);
        let whole = b.add(first, vectors);
        b.for_range(first, whole, lanes, |b, column| body(b, column, vector));
        b.for_range(whole, last, 1, |b, column| body(b, column, Ty::F32));
    }
}

impl Spec for ScatterAdd {
    fn name(&self) -> String {
        let zeroed = match self.zeroed {
            Some(rows) => format!("_z{rows}"),
            None => String::new(),
        };
        let (d, x, scale) = (self.d, self.x_stride, self.scale.to_bits());
        format!("scatter_add_d{d}_x{x}_s{scale:08x}{zeroed}")
    }

    fn build(&self, vectors: Vectors) -> Kernel {
        let mut b = Builder::new(&self.name(), vectors.bytes);
        let (x, index) = (b.input("x"), b.input("index"));
        let out = b.output("out");
        let rows = b.scalar("rows");
        let zero = b.int(0);
        let d = self.d as i64;
        let (begin, end) = b.range();
        b.for_range(begin, end, 1, |b, item| {
            let first = b.mul_imm(item, COLUMNS as i64);
            if let Some(all) = self.zeroed {
                b.for_const(all as i64, 1, |b, row| {
                    let to = b.at(out, row, d * 4);
                    self.columns(b, first, &mut |b, column, ty| {
                        let at = b.at(to, column, 4);
                        let zero = b.float_of(ty, 0.0);
                        b.store(at, 0, zero);
                    });
                });
            }
            b.for_range(zero, rows, 1, |b, row| {
                let from = b.at(x, row, self.x_stride as i64 * 4);
                let to = b.at(index, row, 4);
                let to = b.load(Ty::I32, to, 0);
                let to = b.extend(to);
                let to = b.at(out, to, d * 4);
                self.columns(b, first, &mut |b, column, ty| {
                    let at = b.at(from, column, 4);
                    let x = b.load(ty, at, 0);
                    let scale = b.float_of(ty, self.scale);
                    super::rows::add_scaled(b, to, column, x, scale);
                });
            });
        });
        b.finish()
    }
}
