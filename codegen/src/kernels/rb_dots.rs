//! Products by byte permutations over 64 bytes and dot products with ones: tables of any format.
//!
//! A tile of signs is transposed with one permutation so that a 32-bit lane is a row, whose four
//! bytes are four octets of inputs. A second permutation looks four tables up at once, and adding
//! the four bytes of a lane to an i32 sum is one instruction. Bytes of one plane of all inputs of
//! a block add up in one sum; the planes are put together at its end.

use super::rb_tables::{BIAS, TILE_TABLES};
use crate::kir::{Builder, Elem, Val, Var};
use rabitc_ir::layout::{TILE_BYTES, TILE_ROWS};

/// The constants of the inner loop.
pub(super) struct Dots {
    /// Bytes of an entry.
    planes: usize,
    transpose: Val,
    nibble: Val,
    /// 0, 16, 32, 48: where the table of each octet begins within a vector.
    table: Val,
}

impl Dots {
    pub fn new(b: &mut Builder, planes: usize) -> Self {
        let octets = TILE_BYTES / TILE_ROWS;
        let transpose: Vec<u8> = (0..TILE_BYTES)
            .map(|i| (i % octets * TILE_ROWS + i / octets) as u8)
            .collect();
        Dots {
            planes,
            transpose: b.bytes(Elem::I8, &transpose),
            nibble: b.bytes(Elem::I8, &[15; 16]),
            table: b.bytes(Elem::I8, &[0, 16, 32, 48].repeat(4)),
        }
    }

    /// Sums of `n` (row tile, token) pairs, all zero: one variable a plane.
    pub fn sums(&self, b: &mut Builder, n: usize) -> Vec<Vec<Var>> {
        let ints = b.vec(Elem::I32);
        let zero = b.int_of(ints, 0);
        let mut planes = || (0..self.planes).map(|_| b.var(zero)).collect();
        (0..n).map(|_| planes()).collect()
    }

    /// The indices of both nibbles of a tile of signs.
    pub fn indices(&self, b: &mut Builder, signs: Val, offset: i32) -> [Val; 2] {
        let bytes = b.vec(Elem::I8);
        let signs = b.load(bytes, signs, offset);
        let signs = b.permute(signs, self.transpose);
        let low = b.and(signs, self.nibble);
        let low = b.or(low, self.table);
        let words = b.bitcast(signs, Elem::I16);
        let high = b.shr(words, 4);
        let high = b.bitcast(high, Elem::I8);
        let high = b.and(high, self.nibble);
        [low, b.or(high, self.table)]
    }

    /// The tables of a tile, by half and plane.
    pub fn tables(&self, b: &mut Builder, at: Val) -> Vec<Vec<Val>> {
        let bytes = b.vec(Elem::I8);
        let place = |half, plane| ((half * self.planes + plane) * TILE_BYTES) as i32;
        (0..2)
            .map(|half| {
                let planes = 0..self.planes;
                planes
                    .map(|plane| b.load(bytes, at, place(half, plane)))
                    .collect()
            })
            .collect()
    }

    /// Adds the entries that `indices` select.
    pub fn add(&self, b: &mut Builder, tables: &[Vec<Val>], indices: [Val; 2], sums: &[Var]) {
        for (tables, index) in tables.iter().zip(indices) {
            for (table, sum) in tables.iter().zip(sums) {
                let entries = b.permute(*table, index);
                let s = b.get(*sum);
                let s = b.add_bytes(s, entries);
                b.set(*sum, s);
            }
        }
    }

    /// The sums of 16 rows over `tiles` tiles as f32, without their scale.
    pub fn total(&self, b: &mut Builder, sums: &[Var], tiles: usize) -> Val {
        // 16 bits at a time: these sums are exact as f32.
        let mut pairs: Vec<Val> = sums
            .chunks(2)
            .map(|pair| {
                let low = b.get(pair[0]);
                let Some(high) = pair.get(1) else { return low };
                let high = b.get(*high);
                let high = b.shl(high, 8);
                b.add(high, low)
            })
            .collect();
        let shift = 8 * ((self.planes - 1) % 2);
        let bias = (BIAS << shift) * (tiles * TILE_TABLES) as i64;
        let bias = b.int_of(b.vec(Elem::I32), bias);
        if let Some(top) = pairs.last_mut() {
            *top = b.sub(*top, bias);
        }
        let mut values = pairs
            .into_iter()
            .rev()
            .map(|p| b.to_float(p))
            .collect::<Vec<_>>();
        let first = values.remove(0);
        values.into_iter().fold(first, |upper, value| {
            let factor = b.float(65536.0);
            b.fma(upper, factor, value)
        })
    }
}
