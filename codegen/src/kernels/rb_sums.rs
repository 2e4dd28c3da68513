//! What the product does with vectors of signs, table entries and partial sums.

use super::rb_tables::BIAS;
use crate::kir::{Builder, Elem, Val, Var};
use rabitc_ir::layout::{TILE_BYTES, TILE_INPUTS};

/// Zeros `n` vectors of f32.
pub(super) fn clear(b: &mut Builder, at: Val, n: usize) {
    let zero = b.float(0.0);
    for v in 0..n {
        b.store(at, (v * b.width()) as i32, zero);
    }
}

/// Adds up the `copies` partial sums of every row, in place, so that `n` vectors of sums remain.
///
/// The copies of a run of rows lie one after the other within a vector. Loads at the copies'
/// distances bring them into the lower lanes; what the upper lanes then hold is overwritten by
/// the next store.
pub(super) fn fold(b: &mut Builder, at: Val, n: usize, copies: usize) {
    if copies == 1 {
        return;
    }
    let vector = b.vec(Elem::F32);
    let run = b.width() / copies;
    for v in 0..n * copies {
        let from = v * b.width();
        let mut sum = b.load(vector, at, from as i32);
        for copy in 1..copies {
            let part = b.load(vector, at, (from + copy * run) as i32);
            sum = b.add(sum, part);
        }
        b.store(at, (v * run) as i32, sum);
    }
}

/// Low and high nibble of every byte.
pub(super) fn nibbles(b: &mut Builder, signs: Val) -> [Val; 2] {
    let mask = b.bytes(Elem::I8, [15; 16]);
    let low = b.and(signs, mask);
    let pairs = b.bitcast(signs, Elem::I16);
    let high = b.shr(pairs, 4);
    let high = b.bitcast(high, Elem::I8);
    [low, b.and(high, mask)]
}

/// Adds the entries that a vector of signs selects, for every row tile, to the 16-bit sums.
pub(super) fn int8_vector(b: &mut Builder, signs: Val, tables: Val, n: usize, sums: &[(Var, Var)]) {
    let (bytes, width) = (b.vec(Elem::I8), b.width());
    let table = [0, 1].map(|half| b.load(bytes, tables, ((n * 2 + half) * width) as i32));
    for (r, (pairs, odd)) in sums.iter().enumerate() {
        let signs = b.load(bytes, signs, (r * TILE_BYTES + n * width) as i32);
        for (index, table) in nibbles(b, signs).into_iter().zip(table) {
            let entries = b.lookup16(table, index);
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

/// Takes the sums of one tile apart by row, removes the bias, and adds them, scaled, to memory.
pub(super) fn flush(
    b: &mut Builder,
    sums: (Var, Var),
    scale: Val,
    tiles: usize,
    to: Val,
    offset: i32,
) {
    let (pairs, odd) = (b.get(sums.0), b.get(sums.1));
    let carried = b.shl(odd, 8);
    let even = b.sub(pairs, carried);
    // The tables of a block are shared out among the 16-byte groups of a vector.
    let bias = BIAS * (tiles * TILE_INPUTS / 4 * 16 / b.width()) as i64;
    let shorts = b.vec(Elem::I16);
    let bias = b.int_of(shorts, bias);
    let (even, odd) = (b.sub(even, bias), b.sub(odd, bias));
    let vector = b.vec(Elem::F32);
    let mut at = offset;
    for high in [false, true] {
        let rows = b.interleave(even, odd, high);
        let (low, upper) = (b.widen_s(rows, false), b.widen_s(rows, true));
        // 128 bits: four rows each. Wider: the same eight rows over other inputs.
        let ints = match b.width() {
            16 => vec![low, upper],
            _ => vec![b.add(low, upper)],
        };
        for ints in ints {
            let values = b.to_float(ints);
            let s = b.load(vector, to, at);
            let s = b.fma(values, scale, s);
            b.store(to, at, s);
            at += b.width() as i32;
        }
    }
}

/// Adds the f32 entries that `index` selects to four vectors of sums: in every 16 bytes, four rows.
pub(super) fn f32_entries(b: &mut Builder, tables: Val, offset: i32, index: Val, sums: &[Var]) {
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
