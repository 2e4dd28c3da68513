//! Loop shapes that kernels share.

use crate::kir::{Builder, Elem, Ty, Val};

/// Columns `0..n` of a row of f32: full vectors, then single elements. The body gets the column
/// and the type to compute in (a vector or an f32 scalar).
pub fn for_columns(b: &mut Builder, n: i64, body: &mut dyn FnMut(&mut Builder, Val, Ty)) {
    let lanes = b.lanes() as i64;
    let vector = b.vec(Elem::F32);
    let whole = n / lanes * lanes;
    if whole > 0 {
        b.for_const(whole, lanes, |b, column| body(b, column, vector));
    }
    if whole < n {
        let (start, end) = (b.int(whole), b.int(n));
        b.for_range(start, end, 1, |b, column| body(b, column, Ty::F32));
    }
}

/// Splits a flat item number into (item / n, item % n).
pub fn split_item(b: &mut Builder, item: Val, n: i64) -> (Val, Val) {
    if n == 1 {
        let zero = b.int(0);
        return (item, zero);
    }
    let n = b.int(n);
    let outer = b.div(item, n);
    let back = b.mul(outer, n);
    let inner = b.sub(item, back);
    (outer, inner)
}

/// Work items `(row, chunk)` over rows of `d` columns in chunks of [`CHUNK`]; calls the body with
/// the row, the first column and the number of columns of a full chunk or of the last one.
pub fn for_chunks(b: &mut Builder, d: i64, body: &mut dyn FnMut(&mut Builder, Val, Val, i64)) {
    let (begin, end) = b.range();
    let chunks = chunk_count(d as usize) as i64;
    let last = d - (chunks - 1) * CHUNK;
    b.for_range(begin, end, 1, |b, item| {
        let (row, chunk) = split_item(b, item, chunks);
        let first = b.mul_imm(chunk, CHUNK);
        if chunks == 1 || last == CHUNK {
            return body(b, row, first, last);
        }
        let last_chunk = b.int(chunks - 1);
        let is_last = b.cmp(crate::kir::CmpOp::Eq, chunk, last_chunk);
        // Both arms call the same body; a cell lets the two closures share it.
        let body = std::cell::RefCell::new(body);
        b.if_else(
            is_last,
            |b| body.borrow_mut()(b, row, first, last),
            |b| body.borrow_mut()(b, row, first, CHUNK),
        );
    });
}

/// Columns of a chunk of [`for_chunks`].
pub const CHUNK: i64 = 512;

/// Chunks of a row of `d` columns.
pub fn chunk_count(d: usize) -> usize {
    d.div_ceil(CHUNK as usize).max(1)
}

/// Address of f32 element `(row, column)` of a buffer with `stride` elements a row.
pub fn address(b: &mut Builder, base: Val, row: Val, stride: i64, column: Val) -> Val {
    let row = b.at(base, row, stride * 4);
    b.at(row, column, 4)
}

/// A scalar as a value of type `ty`: itself, or in every lane.
pub fn broadcast(b: &mut Builder, scalar: Val, ty: Ty) -> Val {
    match ty.lanes {
        1 => scalar,
        _ => b.splat(scalar),
    }
}

/// Stores 0, 1, 2, … as 32-bit integers, a full vector of them, and gives their address.
pub fn lane_numbers(b: &mut Builder) -> Val {
    let numbers = b.stack(b.width());
    for lane in 0..b.lanes() as i32 {
        let number = b.int_of(Ty::I32, lane.into());
        b.store(numbers, lane * 4, number);
    }
    numbers
}
