//! The residual-binary product: packed signs against tables of partial sums.
//!
//! Rows sit in lanes: a 16-byte load holds 8 signs of each of 16 rows, its low and high nibbles
//! index two tables, and the entries looked up are added up lane by lane, so there is no sum
//! across lanes and the output scale is applied as a vector.

use super::math::{max_int, min_int};
use super::rb_sums::{clear, f32_entries, flush, fold, int8_vector, nibbles};
use super::rb_tables::{BLOCK_INPUTS, TableShape, Tables};
use super::{Float, Spec};
use crate::kir::{Builder, CmpOp, Elem, Kernel, Ty, Val, Var};
use rabitc_ir::layout::{SignLayout, TILE_BYTES, TILE_INPUTS, TILE_ROWS};

/// How far ahead of the current tile the signs are fetched.
const PREFETCH: i32 = 2048;

/// `out = Σ_i g_i ⊙ (B_i u_i) (+ residual)`; items: row blocks of all segments.
pub struct RbProduct {
    /// Layout of the packed signs.
    pub layout: SignLayout,
    /// Number format of the tables.
    pub tables: Tables,
    /// Form of g.
    pub g: Float,
    /// Elements a row of the residual, where there is one.
    pub residual: Option<usize>,
}

/// Addresses the kernel works on.
struct Bases {
    tables: Val,
    scales: Option<Val>,
    signs: Val,
    g: Val,
    residual: Option<Val>,
    out: Val,
    tokens: Val,
    /// One row block of results so far, f32.
    sums: Val,
    /// One row block of one path's results so far, f32, in as many copies as there are partial
    /// sums a row; a vector more, which folding may read and write.
    path_sums: Val,
}

impl Spec for RbProduct {
    fn name(&self) -> String {
        let l = &self.layout;
        let segments: Vec<_> = l.segments.iter().map(usize::to_string).collect();
        let residual = self.residual.map(|s| format!("_res{s}"));
        format!(
            "rb_product_{}_{}_{}x{}_p{}_r{}{}",
            self.tables.name(),
            self.g.name(),
            segments.join("_"),
            l.d_in,
            l.paths,
            l.row_tiles,
            residual.unwrap_or_default()
        )
    }

    fn build(&self, width: usize) -> Kernel {
        let mut b = Builder::new(&self.name(), width);
        let copies = self.copies(width);
        let tables = b.input("tables");
        let scales = match self.tables {
            Tables::Int8 => Some(b.input("scales")),
            Tables::F32 => None,
        };
        let bases = Bases {
            tables,
            scales,
            signs: b.input("signs"),
            g: b.input("g"),
            residual: self.residual.map(|_| b.input("residual")),
            out: b.output("out"),
            tokens: b.scalar("tokens"),
            sums: b.stack(self.layout.block_rows() * 4),
            path_sums: b.stack(self.layout.block_rows() * 4 * copies + width),
        };
        let (begin, end) = b.range();
        for segment in 0..self.layout.segments.len() {
            let first = self.layout.first_block(segment) as i64;
            let (low, zero) = (b.add_imm(begin, -first), b.int(0));
            let low = max_int(&mut b, low, zero);
            let (high, count) = (
                b.add_imm(end, -first),
                b.int(self.layout.segment_blocks(segment) as i64),
            );
            let high = min_int(&mut b, high, count);
            b.for_range(low, high, 1, |b, block| {
                let zero = b.int(0);
                b.for_range(zero, bases.tokens, 1, |b, token| {
                    self.row_block(b, &bases, segment, block, token);
                });
            });
        }
        b.finish()
    }
}

impl RbProduct {
    fn shape(&self) -> TableShape {
        TableShape {
            d_in: self.layout.d_in,
            sets: self.layout.segments.len() * self.layout.paths,
            tables: self.tables,
        }
    }

    /// Vectors of `width` bytes that hold one row block in f32.
    fn vectors(&self, width: usize) -> usize {
        self.layout.block_rows() * 4 / width
    }

    /// Partial sums that a path's kernel keeps for every row: each 16 bytes of a vector hold other
    /// inputs. Widening 16-bit sums to f32 adds two of them up.
    fn copies(&self, width: usize) -> usize {
        match self.tables {
            Tables::F32 => width / 16,
            Tables::Int8 => (width / 32).max(1),
        }
    }

    fn row_block(&self, b: &mut Builder, o: &Bases, segment: usize, block: Val, token: Val) {
        let (layout, shape) = (&self.layout, self.shape());
        clear(b, o.sums, self.vectors(b.width()));
        let index = b.add_imm(block, layout.first_block(segment) as i64);
        let signs = b.at(o.signs, index, layout.block_bytes() as i64);
        let block_scales = (layout.paths * layout.block_rows()) as i64 * self.g.bytes();
        let g = b.at(o.g, index, block_scales);
        let tables = b.at(o.tables, token, shape.token_bytes() as i64);
        let tables = b.add_imm(tables, (segment * layout.paths * shape.set_bytes()) as i64);
        let scales = o.scales.map(|s| {
            let s = b.at(s, token, shape.scale_bytes() as i64);
            b.add_imm(s, (segment * layout.paths * shape.blocks() * 4) as i64)
        });
        b.for_const(layout.paths as i64, 1, |b, path| {
            let signs = b.at(signs, path, (layout.block_bytes() / layout.paths) as i64);
            let tables = b.at(tables, path, shape.set_bytes() as i64);
            match scales {
                Some(scales) => {
                    let scales = b.at(scales, path, shape.blocks() as i64 * 4);
                    self.int8_path(b, o, signs, tables, scales);
                }
                None => self.f32_path(b, o, signs, tables),
            }
            let g = b.at(g, path, layout.block_rows() as i64 * self.g.bytes());
            self.add_path(b, o, g);
        });
        self.finish_block(b, o, segment, block, token);
    }

    /// sums += g ⊙ path_sums
    fn add_path(&self, b: &mut Builder, o: &Bases, g: Val) {
        let vector = b.vec(Elem::F32);
        let (width, lanes) = (b.width() as i32, b.lanes() as i32);
        fold(
            b,
            o.path_sums,
            self.vectors(b.width()),
            self.copies(b.width()),
        );
        for v in 0..self.vectors(b.width()) as i32 {
            let g = b.load_as(vector, self.g.mem(), g, v * lanes * self.g.bytes() as i32);
            let p = b.load(vector, o.path_sums, v * width);
            let s = b.load(vector, o.sums, v * width);
            let s = b.fma(g, p, s);
            b.store(o.sums, v * width, s);
        }
    }

    /// Adds the residual and stores the rows that exist.
    fn finish_block(&self, b: &mut Builder, o: &Bases, segment: usize, block: Val, token: Val) {
        let (layout, rows) = (&self.layout, self.layout.block_rows() as i64);
        let d_out: usize = layout.segments.iter().sum();
        let column: usize = layout.segments[..segment].iter().sum();
        let first = b.mul_imm(block, rows);
        let column = b.add_imm(first, column as i64);
        let out = super::shape::address(b, o.out, token, d_out as i64, column);
        let residual = o.residual.zip(self.residual);
        let residual =
            residual.map(|(r, stride)| super::shape::address(b, r, token, stride as i64, column));
        let last = layout.segments[segment] as i64 % rows;
        let whole = |b: &mut Builder| {
            super::shape::for_columns(b, rows, &mut |b, c, ty| {
                self.put(b, o, residual, out, c, ty)
            });
        };
        if last == 0 {
            return whole(b);
        }
        let last_block = b.int(layout.segment_blocks(segment) as i64 - 1);
        let is_last = b.cmp(CmpOp::Eq, block, last_block);
        b.if_else(
            is_last,
            |b| {
                super::shape::for_columns(b, last, &mut |b, c, ty| {
                    self.put(b, o, residual, out, c, ty);
                });
            },
            whole,
        );
    }

    fn put(&self, b: &mut Builder, o: &Bases, residual: Option<Val>, out: Val, c: Val, ty: Ty) {
        let at = b.at(o.sums, c, 4);
        let mut y = b.load(ty, at, 0);
        if let Some(residual) = residual {
            let at = b.at(residual, c, 4);
            let r = b.load(ty, at, 0);
            y = b.add(y, r);
        }
        let at = b.at(out, c, 4);
        b.store(at, 0, y);
    }

    /// One path with byte tables: 16-bit sums inside a block of 256 inputs, f32 across blocks.
    fn int8_path(&self, b: &mut Builder, o: &Bases, signs: Val, tables: Val, scales: Val) {
        clear(
            b,
            o.path_sums,
            self.vectors(b.width()) * self.copies(b.width()),
        );
        let tiles = self.layout.input_tiles();
        let block_tiles = BLOCK_INPUTS / TILE_INPUTS;
        let (whole, rest) = (tiles / block_tiles, tiles % block_tiles);
        let tile_bytes = (self.layout.row_tiles * TILE_BYTES) as i64;
        let table_bytes = self.shape().tile_bytes() as i64;
        b.for_const(whole as i64, 1, |b, block| {
            let signs = b.at(signs, block, tile_bytes * block_tiles as i64);
            let tables = b.at(tables, block, table_bytes * block_tiles as i64);
            let scale = b.at(scales, block, 4);
            self.int8_block(b, o, signs, tables, scale, block_tiles);
        });
        if rest > 0 {
            let done = (whole * block_tiles) as i64;
            let signs = b.add_imm(signs, tile_bytes * done);
            let tables = b.add_imm(tables, table_bytes * done);
            let scale = b.add_imm(scales, whole as i64 * 4);
            self.int8_block(b, o, signs, tables, scale, rest);
        }
    }

    fn int8_block(&self, b: &mut Builder, o: &Bases, s: Val, t: Val, scale: Val, tiles: usize) {
        let row_tiles = self.layout.row_tiles;
        let shorts = b.vec(Elem::I16);
        let zero = b.int_of(shorts, 0);
        // Per row tile: 16-bit sums of whole byte pairs (modulo 2¹⁶), and of the odd bytes.
        let sums: Vec<(Var, Var)> = (0..row_tiles).map(|_| (b.var(zero), b.var(zero))).collect();
        let tile_bytes = (row_tiles * TILE_BYTES) as i64;
        let table_bytes = self.shape().tile_bytes() as i64;
        b.for_const(tiles as i64, 1, |b, tile| {
            let signs = b.at(s, tile, tile_bytes);
            let tables = b.at(t, tile, table_bytes);
            for line in 0..row_tiles as i32 {
                b.prefetch(signs, PREFETCH + line * TILE_BYTES as i32);
            }
            for vector in 0..TILE_BYTES / b.width() {
                int8_vector(b, signs, tables, vector, &sums);
            }
        });
        let scale = b.load(Ty::F32, scale, 0);
        let scale = b.splat(scale);
        for (r, sums) in sums.into_iter().enumerate() {
            let offset = (r * TILE_ROWS * 4 * self.copies(b.width())) as i32;
            flush(b, sums, scale, tiles, o.path_sums, offset);
        }
    }

    /// One path with f32 tables: entries are put together from their bytes and added in f32.
    fn f32_path(&self, b: &mut Builder, o: &Bases, signs: Val, tables: Val) {
        let row_tiles = self.layout.row_tiles;
        let zero = b.float(0.0);
        let sums: Vec<Var> = (0..row_tiles * 4).map(|_| b.var(zero)).collect();
        let tile_bytes = (row_tiles * TILE_BYTES) as i64;
        let table_bytes = self.shape().tile_bytes() as i64;
        b.for_const(self.layout.input_tiles() as i64, 1, |b, tile| {
            let signs = b.at(signs, tile, tile_bytes);
            let tables = b.at(tables, tile, table_bytes);
            for line in 0..row_tiles as i32 {
                b.prefetch(signs, PREFETCH + line * TILE_BYTES as i32);
            }
            for vector in 0..TILE_BYTES / b.width() {
                for (r, sums) in sums.chunks(4).enumerate() {
                    let bytes = b.vec(Elem::I8);
                    let offset = (r * TILE_BYTES + vector * b.width()) as i32;
                    let signs = b.load(bytes, signs, offset);
                    for (half, index) in nibbles(b, signs).into_iter().enumerate() {
                        let offset = (vector * 2 + half) * 4 * b.width();
                        f32_entries(b, tables, offset as i32, index, sums);
                    }
                }
            }
        });
        for (q, sum) in sums.into_iter().enumerate() {
            let s = b.get(sum);
            b.store(o.path_sums, (q * b.width()) as i32, s);
        }
    }
}
