//! The residual-binary product: packed signs against tables of partial sums.
//!
//! Rows sit in lanes: a tile of signs holds 32 inputs of each of 16 rows, nibbles of its bytes index
//! tables, and the entries looked up are added up lane by lane, so there is no sum across lanes and
//! the output scale is applied as a vector. How the bytes of a tile are taken apart depends on what
//! the vectors can do: [`super::rb_dots`] permutes them over 64 bytes, [`super::rb_bytes`] and
//! [`super::rb_floats`] within 16. For several tokens at once, [`super::rb_block`].

use super::math::{max_int, min_int};
use super::rb_tables::{BLOCK_INPUTS, TableShape, Tables};
use super::{Float, Spec, Vectors, rb_block, rb_bytes, rb_floats, rb_rows};
use crate::kir::{Builder, Cache, Kernel, Val};
use rabitc_ir::layout::{SignLayout, TILE_BYTES, TILE_INPUTS};

/// How far ahead of the current tile the signs are fetched into each cache: at least so many bytes,
/// and so many steps of the loop over tiles. The first level alone does not have enough requests
/// under way to keep up with memory.
const PREFETCH: [(Cache, usize, usize); 2] = [(Cache::L1, 512, 2), (Cache::L2, 4096, 16)];

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
    /// Most tokens of a run.
    pub tokens: usize,
}

/// Addresses the kernel works on.
pub(super) struct Bases {
    tables: Val,
    scales: Val,
    signs: Val,
    g: Val,
    pub residual: Option<Val>,
    pub out: Val,
    pub tokens: Val,
    pub vectors: Vectors,
    /// One row block of results so far, f32.
    pub sums: Val,
    /// One row block of one path's results so far, f32, in as many copies as there are partial
    /// sums a row; a vector more, which folding may read and write.
    pub path_sums: Val,
}

/// Addresses of one token and path of a row block, from some block of inputs on.
#[derive(Clone, Copy)]
pub(super) struct Path {
    pub signs: Val,
    pub tables: Val,
    pub scales: Val,
}

impl Spec for RbProduct {
    fn name(&self) -> String {
        let l = &self.layout;
        let segments: Vec<_> = l.segments.iter().map(usize::to_string).collect();
        let residual = self.residual.map(|s| format!("_res{s}"));
        format!(
            "rb_product_{}_{}_{}x{}_p{}_r{}{}_t{}",
            self.tables.name(),
            self.g.name(),
            segments.join("_"),
            l.d_in,
            l.paths,
            l.row_tiles,
            residual.unwrap_or_default(),
            self.tokens
        )
    }

    fn build(&self, vectors: Vectors) -> Kernel {
        let mut b = Builder::new(&self.name(), vectors.bytes);
        let rows = self.layout.block_rows() * 4;
        let bases = Bases {
            tables: b.input("tables"),
            scales: b.input("scales"),
            signs: b.input("signs"),
            g: b.input("g"),
            residual: self.residual.map(|_| b.input("residual")),
            out: b.output("out"),
            tokens: b.scalar("tokens"),
            vectors,
            sums: b.stack(rows),
            path_sums: b.stack(rows * self.copies(vectors) + vectors.bytes),
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
            if vectors.permute && self.tokens > 1 {
                rb_block::segment(self, &mut b, &bases, segment, [low, high]);
                continue;
            }
            b.for_range(low, high, 1, |b, block| {
                let zero = b.int(0);
                b.for_range(zero, bases.tokens, 1, |b, token| {
                    rb_rows::row_block(self, b, &bases, segment, [token, block]);
                });
            });
        }
        b.finish()
    }
}

impl RbProduct {
    pub(super) fn shape(&self) -> TableShape {
        TableShape {
            d_in: self.layout.d_in,
            sets: self.layout.segments.len() * self.layout.paths,
            tables: self.tables,
        }
    }

    /// Partial sums that a path's code leaves in memory for every row; several tokens' sums, where
    /// they are computed together.
    pub(super) fn copies(&self, vectors: Vectors) -> usize {
        match self.tables {
            _ if vectors.permute => rb_block::group(self, vectors),
            Tables::F32 => rb_floats::copies(vectors.bytes),
            Tables::Int8 | Tables::Int16 => rb_bytes::copies(vectors.bytes),
        }
    }

    /// The addresses of one token, row block and path.
    pub(super) fn path(&self, b: &mut Builder, o: &Bases, segment: usize, at: [Val; 3]) -> Path {
        let [token, block, path] = at;
        let (layout, shape) = (&self.layout, self.shape());
        let set = (segment * layout.paths) as i64;
        let index = b.add_imm(block, layout.first_block(segment) as i64);
        let signs = b.at(o.signs, index, layout.block_bytes() as i64);
        let tables = b.at(o.tables, token, shape.token_bytes() as i64);
        let tables = b.add_imm(tables, set * shape.set_bytes() as i64);
        let scales = b.at(o.scales, token, shape.scale_bytes() as i64);
        let scales = b.add_imm(scales, set * shape.blocks() as i64 * 4);
        Path {
            signs: b.at(signs, path, (layout.block_bytes() / layout.paths) as i64),
            tables: b.at(tables, path, shape.set_bytes() as i64),
            scales: b.at(scales, path, shape.blocks() as i64 * 4),
        }
    }

    /// The address of the output scales of a row block and path.
    pub(super) fn g(&self, b: &mut Builder, o: &Bases, segment: usize, at: [Val; 2]) -> Val {
        let [block, path] = at;
        let layout = &self.layout;
        let index = b.add_imm(block, layout.first_block(segment) as i64);
        let rows = layout.block_rows() as i64 * self.g.bytes();
        let g = b.at(o.g, index, layout.paths as i64 * rows);
        b.at(g, path, rows)
    }

    /// The addresses from block `n` of inputs on.
    pub(super) fn block_of(&self, b: &mut Builder, o: Path, n: Val) -> Path {
        let tiles = BLOCK_INPUTS / TILE_INPUTS;
        let sign_bytes = self.layout.row_tiles * TILE_BYTES * tiles;
        Path {
            signs: b.at(o.signs, n, sign_bytes as i64),
            tables: b.at(o.tables, n, (self.shape().tile_bytes() * tiles) as i64),
            scales: b.at(o.scales, n, 4),
        }
    }

    /// The addresses of the signs and the tables of a tile.
    pub(super) fn tile_of(&self, b: &mut Builder, o: Path, tile: Val) -> (Val, Val) {
        let signs = b.at(o.signs, tile, (self.layout.row_tiles * TILE_BYTES) as i64);
        (
            signs,
            b.at(o.tables, tile, self.shape().tile_bytes() as i64),
        )
    }

    /// Asks for the signs that come some way after these.
    pub(super) fn prefetch(&self, b: &mut Builder, signs: Val) {
        let step = self.layout.row_tiles * TILE_BYTES;
        for (cache, bytes, steps) in PREFETCH {
            let distance = bytes.max(steps * step);
            for line in (0..step).step_by(TILE_BYTES) {
                b.prefetch(cache, signs, (distance + line) as i32);
            }
        }
    }

    /// Blocks of inputs that are whole, and the tiles of one that is not, 0 if there is none.
    pub(super) fn blocks(&self) -> (usize, usize) {
        let (tiles, block) = (self.layout.input_tiles(), BLOCK_INPUTS / TILE_INPUTS);
        (tiles / block, tiles % block)
    }
}
