//! One row block of a product for one token: path by path, then the result.

use super::rb_dots::Dots;
use super::rb_product::{Bases, Path, RbProduct};
use super::rb_tables::{BLOCK_INPUTS, Tables};
use super::{rb_bytes, rb_floats};
use crate::kir::{Builder, CmpOp, Elem, Ty, Val, Var};
use rabitc_ir::layout::{TILE_BYTES, TILE_INPUTS};

/// Computes and stores the rows of a block. `at` is the token and the block of the segment.
pub(super) fn row_block(p: &RbProduct, b: &mut Builder, o: &Bases, segment: usize, at: [Val; 2]) {
    let [token, block] = at;
    let vectors = o.vectors;
    let n = p.layout.block_rows() * 4 / b.width();
    clear(b, o.sums, n);
    b.for_const(p.layout.paths as i64, 1, |b, path| {
        let from = p.path(b, o, segment, [token, block, path]);
        let g = p.g(b, o, segment, [block, path]);
        if vectors.permute {
            return dots_path(p, b, o, from, g);
        }
        let copies = p.copies(vectors);
        match p.tables {
            Tables::F32 => rb_floats::path(p, b, from, o.path_sums),
            Tables::Int8 | Tables::Int16 => {
                clear(b, o.path_sums, n * copies);
                rb_bytes::path(p, b, from, o.path_sums);
            }
        }
        fold(b, o.path_sums, n, copies);
        let vector = b.vec(Elem::F32);
        for v in 0..n as i32 {
            let sum = b.load(vector, o.path_sums, v * b.width() as i32);
            add_scaled(p, b, [g, o.sums], v, sum);
        }
    });
    finish(p, b, o, segment, [token, block]);
}

/// sums += g ⊙ sum for vector `v` of a row block; `at` is where g and the sums lie.
fn add_scaled(p: &RbProduct, b: &mut Builder, at: [Val; 2], v: i32, sum: Val) {
    let [g, sums] = at;
    let vector = b.vec(Elem::F32);
    let (width, lanes) = (b.width() as i32, b.lanes() as i32);
    let g = b.load_as(vector, p.g.mem(), g, v * lanes * p.g.bytes() as i32);
    let s = b.load(vector, sums, v * width);
    let s = b.fma(g, sum, s);
    b.store(sums, v * width, s);
}

/// Zeros `n` vectors of f32.
pub(super) fn clear(b: &mut Builder, at: Val, n: usize) {
    let zero = b.float(0.0);
    for v in 0..n {
        b.store(at, (v * b.width()) as i32, zero);
    }
}

/// One path by permutations; a vector of sums is a row tile.
fn dots_path(p: &RbProduct, b: &mut Builder, o: &Bases, from: Path, g: Val) {
    let dots = Dots::new(b, p.tables.planes(o.vectors));
    let zero = b.float(0.0);
    let totals: Vec<Var> = (0..p.layout.row_tiles).map(|_| b.var(zero)).collect();
    let (whole, rest) = p.blocks();
    b.for_const(whole as i64, 1, |b, n| {
        let part = p.block_of(b, from, n);
        dots_block(p, b, &dots, part, &totals, BLOCK_INPUTS / TILE_INPUTS);
    });
    if rest > 0 {
        let n = b.int(whole as i64);
        let part = p.block_of(b, from, n);
        dots_block(p, b, &dots, part, &totals, rest);
    }
    for (v, total) in totals.into_iter().enumerate() {
        let total = b.get(total);
        add_scaled(p, b, [g, o.sums], v as i32, total);
    }
}

/// A block of inputs that share a scale.
fn dots_block(p: &RbProduct, b: &mut Builder, d: &Dots, o: Path, totals: &[Var], tiles: usize) {
    let sums = d.sums(b, totals.len());
    b.for_const(tiles as i64, 1, |b, tile| {
        let (signs, tables) = p.tile_of(b, o, tile);
        p.prefetch(b, signs);
        let tables = d.tables(b, tables);
        for (r, sums) in sums.iter().enumerate() {
            let indices = d.indices(b, signs, (r * TILE_BYTES) as i32);
            d.add(b, &tables, indices, sums);
        }
    });
    let scale = b.load(Ty::F32, o.scales, 0);
    let scale = b.splat(scale);
    for (sums, total) in sums.iter().zip(totals) {
        let value = d.total(b, sums, tiles);
        let t = b.get(*total);
        let t = b.fma(value, scale, t);
        b.set(*total, t);
    }
}

/// Adds up the `copies` partial sums of every row, in place, so that `n` vectors of sums remain.
///
/// The copies of a run of rows lie one after the other within a vector. Loads at the copies'
/// distances bring them into the lower lanes; what the upper lanes then hold is overwritten by
/// the next store.
fn fold(b: &mut Builder, at: Val, n: usize, copies: usize) {
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

/// Adds the residual and stores the rows that exist.
fn finish(p: &RbProduct, b: &mut Builder, o: &Bases, segment: usize, at: [Val; 2]) {
    for_rows(p, b, o, segment, at, &mut |b, row, ty| {
        let at = b.at(row.sums, row.column, 4);
        let mut y = b.load(ty, at, 0);
        if let Some(residual) = row.residual {
            let at = b.at(residual, row.column, 4);
            let r = b.load(ty, at, 0);
            y = b.add(y, r);
        }
        let at = b.at(row.out, row.column, 4);
        b.store(at, 0, y);
    });
}

/// Some rows of a block, as addresses of the block's first row and a row's number.
pub(super) struct Rows {
    pub sums: Val,
    pub residual: Option<Val>,
    pub out: Val,
    pub column: Val,
}

/// Calls the body for the rows of a block that exist, as full vectors, then one by one.
pub(super) fn for_rows(
    p: &RbProduct,
    b: &mut Builder,
    o: &Bases,
    segment: usize,
    at: [Val; 2],
    body: &mut dyn FnMut(&mut Builder, Rows, Ty),
) {
    let [token, block] = at;
    let (layout, rows) = (&p.layout, p.layout.block_rows() as i64);
    let d_out: usize = layout.segments.iter().sum();
    let column: usize = layout.segments[..segment].iter().sum();
    let first = b.mul_imm(block, rows);
    let column = b.add_imm(first, column as i64);
    let out = super::shape::address(b, o.out, token, d_out as i64, column);
    let residual = o.residual.zip(p.residual);
    let residual =
        residual.map(|(r, stride)| super::shape::address(b, r, token, stride as i64, column));
    let sums = o.sums;
    let mut each = |b: &mut Builder, n: i64| {
        super::shape::for_columns(b, n, &mut |b, column, ty| {
            let row = Rows {
                sums,
                residual,
                out,
                column,
            };
            body(b, row, ty);
        });
    };
    let last = layout.segments[segment] as i64 % rows;
    if last == 0 {
        return each(b, rows);
    }
    let last_block = b.int(layout.segment_blocks(segment) as i64 - 1);
    let is_last = b.cmp(CmpOp::Eq, block, last_block);
    let each = std::cell::RefCell::new(each);
    b.if_else(
        is_last,
        |b| each.borrow_mut()(b, last),
        |b| each.borrow_mut()(b, rows),
    );
}
