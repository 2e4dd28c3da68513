//! One path of a product by byte shuffles within 16 bytes: integer tables, 16-bit sums.
//!
//! A vector of signs holds 8 inputs of each of 16 rows in every 16 bytes. Entries that are looked
//! up lie in the lane of their row, where bytes of one plane are added up as 16-bit numbers.

use super::Vectors;
use super::rb_product::{Path, RbProduct};
use super::rb_tables::{BIAS, BLOCK_INPUTS, TILE_TABLES};
use crate::kir::{Builder, Elem, Ty, Val, Var};
use rabitc_ir::layout::{TILE_BYTES, TILE_INPUTS, TILE_ROWS};

/// Per plane: 16-bit sums of whole byte pairs (modulo 2¹⁶), and of the odd bytes.
type Sums = Vec<(Var, Var)>;

/// Partial sums that are kept for every row: each 16 bytes of a vector hold other inputs, and
/// widening 16-bit sums to 32 bits adds two of them up.
pub(super) fn copies(width: usize) -> usize {
    (width / 32).max(1)
}

/// Adds a path's sums to the f32 sums in memory, which begin as zeros.
pub(super) fn path(p: &RbProduct, b: &mut Builder, o: Path, to: Val) {
    let (whole, rest) = p.blocks();
    b.for_const(whole as i64, 1, |b, n| {
        let part = p.block_of(b, o, n);
        block(p, b, part, to, BLOCK_INPUTS / TILE_INPUTS);
    });
    if rest > 0 {
        let n = b.int(whole as i64);
        let part = p.block_of(b, o, n);
        block(p, b, part, to, rest);
    }
}

/// A block of inputs that share a scale.
fn block(p: &RbProduct, b: &mut Builder, o: Path, to: Val, tiles: usize) {
    let shorts = b.vec(Elem::I16);
    let zero = b.int_of(shorts, 0);
    let planes = p.tables.planes(Vectors::plain(b.width()));
    let rows: Vec<Sums> = (0..p.layout.row_tiles)
        .map(|_| (0..planes).map(|_| (b.var(zero), b.var(zero))).collect())
        .collect();
    b.for_const(tiles as i64, 1, |b, tile| {
        let (signs, tables) = p.tile_of(b, o, tile);
        p.prefetch(b, signs);
        for n in 0..TILE_BYTES / b.width() {
            vector(b, signs, tables, n, &rows);
        }
    });
    let scale = b.load(Ty::F32, o.scales, 0);
    let scale = b.splat(scale);
    for (r, sums) in rows.iter().enumerate() {
        let offset = (r * TILE_ROWS * 4 * copies(b.width())) as i32;
        flush(b, sums, scale, tiles, to, offset);
    }
}

/// Low and high nibble of every byte.
pub(super) fn nibbles(b: &mut Builder, signs: Val) -> [Val; 2] {
    let mask = b.bytes(Elem::I8, &[15; 16]);
    let low = b.and(signs, mask);
    let pairs = b.bitcast(signs, Elem::I16);
    let high = b.shr(pairs, 4);
    let high = b.bitcast(high, Elem::I8);
    [low, b.and(high, mask)]
}

/// Adds the entries that a vector of signs selects, for every row tile.
fn vector(b: &mut Builder, signs: Val, tables: Val, n: usize, rows: &[Sums]) {
    let (bytes, width) = (b.vec(Elem::I8), b.width());
    let planes = rows[0].len();
    let place = |half: usize, plane: usize| (((n * 2 + half) * planes + plane) * width) as i32;
    let tables = [0, 1].map(|half| {
        let planes = 0..planes;
        let load = |plane| b.load(bytes, tables, place(half, plane));
        planes.map(load).collect::<Vec<_>>()
    });
    for (r, sums) in rows.iter().enumerate() {
        let signs = b.load(bytes, signs, (r * TILE_BYTES + n * width) as i32);
        for (index, tables) in nibbles(b, signs).into_iter().zip(&tables) {
            for (table, (pairs, odd)) in tables.iter().zip(sums) {
                let entries = b.lookup16(*table, index);
                let entries = b.bitcast(entries, Elem::I16);
                let p = b.get(*pairs);
                let p = b.add(p, entries);
                b.set(*pairs, p);
                let high = b.shr(entries, 8);
                let o = b.get(*odd);
                let o = b.add(o, high);
                b.set(*odd, o);
            }
        }
    }
}

/// Takes the sums of one row tile apart by row, puts the planes together, removes the bias, and
/// adds the result, scaled, to memory.
fn flush(b: &mut Builder, sums: &Sums, scale: Val, tiles: usize, to: Val, offset: i32) {
    // The tables of a block are shared out among the 16-byte groups of a vector.
    let bias = BIAS * (tiles * TILE_TABLES * 16 / b.width()) as i64;
    let planes: Vec<_> = sums.iter().map(|s| by_row(b, *s)).collect();
    let vector = b.vec(Elem::F32);
    let mut at = offset;
    for high in [false, true] {
        let mut whole: Option<Vec<Val>> = None;
        for (plane, [even, odd]) in planes.iter().enumerate().rev() {
            let (mut even, mut odd) = (*even, *odd);
            if plane + 1 == planes.len() {
                let bias = b.int_of(b.ty(even), bias);
                (even, odd) = (b.sub(even, bias), b.sub(odd, bias));
            }
            let ints = widened(b, even, odd, high);
            whole = Some(match whole {
                None => ints,
                Some(upper) => upper
                    .into_iter()
                    .zip(ints)
                    .map(|(u, x)| {
                        let u = b.shl(u, 8);
                        b.add(u, x)
                    })
                    .collect(),
            });
        }
        for ints in whole.unwrap_or_default() {
            let values = b.to_float(ints);
            let s = b.load(vector, to, at);
            let s = b.fma(values, scale, s);
            b.store(to, at, s);
            at += b.width() as i32;
        }
    }
}

/// 16-bit sums of the even and of the odd bytes.
fn by_row(b: &mut Builder, (pairs, odd): (Var, Var)) -> [Val; 2] {
    let (pairs, odd) = (b.get(pairs), b.get(odd));
    let carried = b.shl(odd, 8);
    [b.sub(pairs, carried), odd]
}

/// Half of the rows as i32. 128 bits: four rows a vector. Wider: the same eight rows over other
/// inputs, added up.
fn widened(b: &mut Builder, even: Val, odd: Val, high: bool) -> Vec<Val> {
    let rows = b.interleave(even, odd, high);
    let (low, upper) = (b.widen_s(rows, false), b.widen_s(rows, true));
    match b.width() {
        16 => vec![low, upper],
        _ => vec![b.add(low, upper)],
    }
}
