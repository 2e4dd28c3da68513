//! A product for a block of tokens, by permutations and dot products.
//!
//! Signs are taken apart once for several tokens. What is looked up must stay in the cache while
//! row blocks go by, so that tokens are taken in chunks whose tables of one path fit. Every result
//! comes from the same operations in the same order as for a single token.

use super::Vectors;
use super::rb_dots::Dots;
use super::rb_product::{Bases, Path, RbProduct};
use super::rb_rows::{clear, for_rows};
use super::rb_tables::BLOCK_INPUTS;
use crate::kir::{Builder, Elem, Ty, Val};
use rabitc_ir::layout::{TILE_BYTES, TILE_INPUTS};

/// Bytes of tables that row blocks share: about half of an L2.
const CHUNK_BYTES: usize = 1 << 20;
/// Vectors of sums that are kept in registers.
const SUMS: usize = 16;

/// Computes the row blocks `range` of a segment for all tokens.
pub(super) fn segment(p: &RbProduct, b: &mut Builder, o: &Bases, segment: usize, range: [Val; 2]) {
    let [low, high] = range;
    let zero = b.int(0);
    let chunk = (CHUNK_BYTES / p.shape().set_bytes()).max(group(p, o.vectors)) as i64;
    b.for_range(zero, o.tokens, chunk, |b, first| {
        let end = b.add_imm(first, chunk);
        let end = super::math::min_int(b, end, o.tokens);
        let each = |b: &mut Builder, body: &mut dyn FnMut(&mut Builder, [Val; 2])| {
            b.for_range(low, high, 1, |b, block| {
                b.for_range(first, end, 1, |b, token| body(b, [token, block]));
            });
        };
        each(b, &mut |b, at| begin(p, b, o, segment, at));
        b.for_const(p.layout.paths as i64, 1, |b, path| {
            b.for_range(low, high, 1, |b, block| {
                tokens(p, b, o, segment, [block, path], [first, end]);
            });
        });
        if o.residual.is_some() {
            each(b, &mut |b, at| finish(p, b, o, segment, at));
        }
    });
}

/// Tokens that share the indices of a tile.
pub(super) fn group(p: &RbProduct, vectors: Vectors) -> usize {
    (SUMS / (p.layout.row_tiles * p.tables.planes(vectors))).clamp(1, p.tokens)
}

/// Stores what results begin with.
fn begin(p: &RbProduct, b: &mut Builder, o: &Bases, segment: usize, at: [Val; 2]) {
    for_rows(p, b, o, segment, at, &mut |b, row, ty| {
        let zero = b.float_of(ty, 0.0);
        let at = b.at(row.out, row.column, 4);
        b.store(at, 0, zero);
    });
}

/// Adds the residual.
fn finish(p: &RbProduct, b: &mut Builder, o: &Bases, segment: usize, at: [Val; 2]) {
    for_rows(p, b, o, segment, at, &mut |b, row, ty| {
        let Some(residual) = row.residual else { return };
        let at = b.at(residual, row.column, 4);
        let r = b.load(ty, at, 0);
        let at = b.at(row.out, row.column, 4);
        let y = b.load(ty, at, 0);
        let y = b.add(y, r);
        b.store(at, 0, y);
    });
}

/// Adds a row block and path for the tokens `range`: groups of them, then those that are left.
fn tokens(
    p: &RbProduct,
    b: &mut Builder,
    o: &Bases,
    segment: usize,
    at: [Val; 2],
    range: [Val; 2],
) {
    let [first, end] = range;
    let n = group(p, o.vectors) as i64;
    // The last turn begins where a whole group is left.
    let whole_end = b.add_imm(end, 1 - n);
    b.for_range(first, whole_end, n, |b, token| {
        several(p, b, o, segment, [token, at[0], at[1]], n as usize);
    });
    if n == 1 {
        return;
    }
    let count = b.sub(end, first);
    let size = b.int(n);
    let groups = b.div(count, size);
    let done = b.at(first, groups, n);
    b.for_range(done, end, 1, |b, token| {
        several(p, b, o, segment, [token, at[0], at[1]], 1);
    });
}

/// Adds a row block and path for `n` tokens.
fn several(p: &RbProduct, b: &mut Builder, o: &Bases, segment: usize, at: [Val; 3], n: usize) {
    let [token, block, path] = at;
    let dots = Dots::new(b, p.tables.planes(o.vectors));
    let paths: Vec<Path> = (0..n)
        .map(|t| {
            let token = b.add_imm(token, t as i64);
            p.path(b, o, segment, [token, block, path])
        })
        .collect();
    clear(b, o.path_sums, n * p.layout.row_tiles);
    let (whole, rest) = p.blocks();
    let inputs = |b: &mut Builder, index: Val, tiles: usize| {
        let parts = paths.iter().map(|path| p.block_of(b, *path, index));
        let parts: Vec<_> = parts.collect();
        inputs_block(p, b, &dots, &parts, o.path_sums, tiles);
    };
    b.for_const(whole as i64, 1, |b, index| {
        inputs(b, index, BLOCK_INPUTS / TILE_INPUTS);
    });
    if rest > 0 {
        let index = b.int(whole as i64);
        inputs(b, index, rest);
    }
    let g = p.g(b, o, segment, [block, path]);
    for t in 0..n {
        let token = b.add_imm(token, t as i64);
        let at = (t * p.layout.row_tiles * TILE_BYTES) as i64;
        let sums = b.add_imm(o.path_sums, at);
        add(p, b, o, segment, [token, block, g, sums]);
    }
}

/// Adds g times the sums of a row block and token to the results.
fn add(p: &RbProduct, b: &mut Builder, o: &Bases, segment: usize, at: [Val; 4]) {
    let [token, block, g, sums] = at;
    for_rows(p, b, o, segment, [token, block], &mut |b, row, ty| {
        let at = b.at(sums, row.column, 4);
        let sum = b.load(ty, at, 0);
        let at = b.at(g, row.column, p.g.bytes());
        let g = b.load_as(ty, p.g.mem(), at, 0);
        let at = b.at(row.out, row.column, 4);
        let y = b.load(ty, at, 0);
        let y = b.fma(g, sum, y);
        b.store(at, 0, y);
    });
}

/// A block of inputs that share a scale, for the tokens of `paths`; their sums lie in memory,
/// `[token][row tile]`.
fn inputs_block(p: &RbProduct, b: &mut Builder, d: &Dots, paths: &[Path], to: Val, tiles: usize) {
    let row_tiles = p.layout.row_tiles;
    let sums = d.sums(b, paths.len() * row_tiles);
    b.for_const(tiles as i64, 1, |b, tile| {
        let places: Vec<_> = paths.iter().map(|path| p.tile_of(b, *path, tile)).collect();
        let signs = places[0].0;
        p.prefetch(b, signs);
        for r in 0..row_tiles {
            let indices = d.indices(b, signs, (r * TILE_BYTES) as i32);
            for (t, (_, tables)) in places.iter().enumerate() {
                let tables = d.tables(b, *tables);
                d.add(b, &tables, indices, &sums[t * row_tiles + r]);
            }
        }
    });
    let vector = b.vec(Elem::F32);
    for (t, path) in paths.iter().enumerate() {
        let scale = b.load(Ty::F32, path.scales, 0);
        let scale = b.splat(scale);
        for r in 0..row_tiles {
            let at = ((t * row_tiles + r) * b.width()) as i32;
            let value = d.total(b, &sums[t * row_tiles + r], tiles);
            let s = b.load(vector, to, at);
            let s = b.fma(value, scale, s);
            b.store(to, at, s);
        }
    }
}
