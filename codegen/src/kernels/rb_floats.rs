//! One path of a product by byte shuffles within 16 bytes: f32 tables, f32 sums.
//!
//! The four bytes of an entry are looked up one by one and put together again.

use super::rb_bytes::nibbles;
use super::rb_product::{Path, RbProduct};
use crate::kir::{Builder, Elem, Val, Var};
use rabitc_ir::layout::TILE_BYTES;

/// Partial sums that are kept for every row: each 16 bytes of a vector hold other inputs.
pub(super) fn copies(width: usize) -> usize {
    width / 16
}

/// Stores a path's sums.
pub(super) fn path(p: &RbProduct, b: &mut Builder, o: Path, to: Val) {
    let row_tiles = p.layout.row_tiles;
    let zero = b.float(0.0);
    let sums: Vec<Var> = (0..row_tiles * 4).map(|_| b.var(zero)).collect();
    b.for_const(p.layout.input_tiles() as i64, 1, |b, tile| {
        let (signs, tables) = p.tile_of(b, o, tile);
        p.prefetch(b, signs);
        for vector in 0..TILE_BYTES / b.width() {
            for (r, sums) in sums.chunks(4).enumerate() {
                let bytes = b.vec(Elem::I8);
                let offset = (r * TILE_BYTES + vector * b.width()) as i32;
                let signs = b.load(bytes, signs, offset);
                for (half, index) in nibbles(b, signs).into_iter().enumerate() {
                    let offset = (vector * 2 + half) * 4 * b.width();
                    entries(b, tables, offset as i32, index, sums);
                }
            }
        }
    });
    for (q, sum) in sums.into_iter().enumerate() {
        let s = b.get(sum);
        b.store(to, (q * b.width()) as i32, s);
    }
}

/// Adds the entries that `index` selects to four vectors of sums: in every 16 bytes, four rows.
fn entries(b: &mut Builder, tables: Val, offset: i32, index: Val, sums: &[Var]) {
    let bytes = b.vec(Elem::I8);
    let planes: Vec<_> = (0..4)
        .map(|p| {
            let table = b.load(bytes, tables, offset + p * b.width() as i32);
            b.lookup16(table, index)
        })
        .collect();
    for (i, high) in [false, true].into_iter().enumerate() {
        let low = b.interleave(planes[0], planes[1], high);
        let upper = b.interleave(planes[2], planes[3], high);
        let (low, upper) = (b.bitcast(low, Elem::I16), b.bitcast(upper, Elem::I16));
        for (j, high) in [false, true].into_iter().enumerate() {
            let entries = b.interleave(low, upper, high);
            let entries = b.bitcast(entries, Elem::F32);
            let s = b.get(sums[i * 2 + j]);
            let s = b.add(s, entries);
            b.set(sums[i * 2 + j], s);
        }
    }
}
