//! Dense products, cut into tiles that depend on their sizes alone.
//!
//! The library's own threads would cut them differently for every number of threads, and what is
//! at an edge is summed by another kernel than what is not.

use rabitc_codegen::train::{Gemm, View};

use super::program::Pointer;

/// The most rows and columns of a tile.
const LARGEST: usize = 256;
/// The fewest that a side is halved to.
const SMALLEST: usize = 64;
/// Tiles that a product is cut into at least, if they do not become too small.
const TILES: usize = 16;

/// A matrix operand: where it begins, and elements from row to row and column to column.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    /// The first element.
    pub at: Pointer,
    /// From one row to the next.
    pub row_stride: usize,
    /// From one column to the next.
    pub column_stride: usize,
}

/// c = a b, or c += a b.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// `[m, k]`.
    pub a: Matrix,
    /// `[k, n]`.
    pub b: Matrix,
    /// `[m, n]`, rows of consecutive elements.
    pub c: Matrix,
    m: usize,
    n: usize,
    k: usize,
    tile: [usize; 2],
    accumulate: bool,
}

/// A tile of the result: its first row and column, its rows and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    row: usize,
    column: usize,
    m: usize,
    n: usize,
}

impl Product {
    /// The product of a plan; `at` finds a view's first element.
    pub fn of(gemm: &Gemm, at: impl Fn(&View) -> Pointer) -> Product {
        let matrix = |view: &View, transpose: bool| {
            let (row_stride, column_stride) = match transpose {
                true => (1, view.stride),
                false => (view.stride, 1),
            };
            Matrix {
                at: at(view),
                row_stride,
                column_stride,
            }
        };
        Product {
            a: matrix(&gemm.a, gemm.transpose_a),
            b: matrix(&gemm.b, gemm.transpose_b),
            c: matrix(&gemm.c, false),
            m: gemm.m,
            n: gemm.n,
            k: gemm.k,
            tile: tile(gemm.m, gemm.n),
            accumulate: gemm.accumulate,
        }
    }

    /// Work items: tiles.
    pub fn items(&self) -> usize {
        count(self.m, self.n, self.tile)
    }

    fn item(&self, item: usize) -> Tile {
        let across = self.n.div_ceil(self.tile[1]);
        let (row, column) = (item / across * self.tile[0], item % across * self.tile[1]);
        Tile {
            row,
            column,
            m: self.tile[0].min(self.m - row),
            n: self.tile[1].min(self.n - column),
        }
    }

    /// Computes tile `item`; `addresses` are where a, b and c begin.
    ///
    /// # Safety
    /// The addresses must be those of f32 matrices of this product's sizes and strides, which
    /// nobody else writes, and nobody else may touch the tile of c.
    pub unsafe fn run(&self, item: usize, [a, b, c]: [*mut u8; 3]) {
        let Tile { row, column, m, n } = self.item(item);
        let start = |matrix: &Matrix, address: *mut u8, row: usize, column: usize| {
            let elements = row * matrix.row_stride + column * matrix.column_stride;
            address.cast::<f32>().wrapping_add(elements)
        };
        let stride = |n: usize| n as isize;
        // SAFETY: the tile lies within the matrices that the caller vouches for; strides are those
        // of memory that exists, so they fit isize.
        unsafe {
            gemm::gemm(
                m,
                n,
                self.k,
                start(&self.c, c, row, column),
                stride(self.c.column_stride),
                stride(self.c.row_stride),
                self.accumulate,
                start(&self.a, a, row, 0),
                stride(self.a.column_stride),
                stride(self.a.row_stride),
                start(&self.b, b, 0, column),
                stride(self.b.column_stride),
                stride(self.b.row_stride),
                1.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }
}

/// Rows and columns of a tile.
fn tile(m: usize, n: usize) -> [usize; 2] {
    let mut tile = [LARGEST, LARGEST];
    while count(m, n, tile) < TILES {
        let side = usize::from(tile[1] > tile[0]);
        if tile[side] <= SMALLEST {
            break;
        }
        tile[side] /= 2;
    }
    tile
}

fn count(m: usize, n: usize, tile: [usize; 2]) -> usize {
    m.div_ceil(tile[0]) * n.div_ceil(tile[1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::program::Base;

    #[test]
    fn tiles_cover_every_element_once() {
        for (m, n) in [
            (1, 1),
            (64, 64),
            (65, 1),
            (1024, 128),
            (300, 1000),
            (7, 2048),
        ] {
            let base = Base::Arena;
            let matrix = Matrix {
                at: Pointer { base, offset: 0 },
                row_stride: n,
                column_stride: 1,
            };
            let product = Product {
                a: matrix,
                b: matrix,
                c: matrix,
                m,
                n,
                k: 1,
                tile: tile(m, n),
                accumulate: false,
            };
            let mut hits = vec![0; m * n];
            for tile in (0..product.items()).map(|i| product.item(i)) {
                for row in tile.row..tile.row + tile.m {
                    let columns = tile.column..tile.column + tile.n;
                    columns.for_each(|column| hits[row * n + column] += 1);
                }
            }
            assert!(hits.iter().all(|h| *h == 1), "{m}x{n}");
        }
    }
}
