//! Token embedding: one row of the table a work item.

use super::shape::for_columns;
use super::{Float, Spec, Vectors};
use crate::kir::{Builder, Kernel, Ty};

/// `out[t] = scale · table[ids[t]]`; items: tokens. Ids outside the table are the caller's to
/// refuse.
pub struct Embed {
    /// Channels.
    pub d: usize,
    /// Form of the table.
    pub table: Float,
    /// Factor on every element.
    pub scale: f32,
}

impl Spec for Embed {
    fn name(&self) -> String {
        let scale = self.scale.to_bits();
        format!("embed_{}_d{}_s{scale:08x}", self.table.name(), self.d)
    }

    fn build(&self, vectors: Vectors) -> Kernel {
        let mut b = Builder::new(&self.name(), vectors.bytes);
        let ids = b.input("ids");
        let table = b.input("table");
        let out = b.output("out");
        let (d, bytes) = (self.d as i64, self.table.bytes());
        let (begin, end) = b.range();
        b.for_range(begin, end, 1, |b, t| {
            let id = b.at(ids, t, 4);
            let id = b.load(Ty::I32, id, 0);
            let id = b.extend(id);
            let row = b.at(table, id, d * bytes);
            let to = b.at(out, t, d * 4);
            for_columns(b, d, &mut |b, column, ty| {
                let from = b.at(row, column, bytes);
                let x = b.load_as(ty, self.table.mem(), from, 0);
                let scale = b.float_of(ty, self.scale);
                let x = b.mul(x, scale);
                let to = b.at(to, column, 4);
                b.store(to, 0, x);
            });
        });
        b.finish()
    }
}
