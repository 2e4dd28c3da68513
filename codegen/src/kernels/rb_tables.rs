//! The tables of partial sums that a residual-binary product looks up, and how they are made.
//!
//! Inputs are taken four at a time. For every path and every such group a table holds the 16 sums
//! ±u₀ ±u₁ ±u₂ ±u₃ with u = h ⊙ prologue(x); bit j of the index is 1 where u_j counts positively,
//! which is how the packed signs lie in a nibble. The product then needs one look-up a row and
//! group instead of four multiplications.
//!
//! int8: an entry is round(sum / s) + 128 in one byte, s = (largest |sum| of 256 inputs) / 127.
//! f32: the sums themselves, their four bytes in four planes of 16 bytes.
//!
//! Layout a token: tables `[segment][path][tile][place][16]`, where a tile is 32 inputs and
//! [`place`] says where each table of a tile lies, then, for int8, the scales s as
//! f32 `[segment][path][block]` in a buffer of their own. Inputs past d_in count as 0.

use super::math;
use crate::kir::{Builder, Elem, Ty, UnOp, Val};
use rabitc_ir::layout::TILE_INPUTS;

/// Inputs that share one scale.
pub const BLOCK_INPUTS: usize = 256;
/// Inputs of a table.
const GROUP: usize = 4;
/// Added to an int8 entry so that it is stored without a sign.
pub const BIAS: i64 = 128;

/// Number format of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tables {
    /// One byte an entry and a scale a block.
    Int8,
    /// Four planes of bytes.
    F32,
}

impl Tables {
    /// Planes of 16 bytes a group.
    pub fn planes(self) -> usize {
        match self {
            Tables::Int8 => 1,
            Tables::F32 => 4,
        }
    }

    /// The word in kernel names.
    pub fn name(self) -> &'static str {
        match self {
            Tables::Int8 => "int8",
            Tables::F32 => "f32",
        }
    }
}

/// Where a table lies within its tile, in units of 16 bytes, for kernels that look up with vectors
/// of `width` bytes.
///
/// Octet `o` of the four of a tile has two tables, one for the low nibble of the signs (`half` 0)
/// and one for the high (`half` 1), in `planes` planes. A vector of signs holds `width / 16`
/// octets; the tables that it needs at once lie side by side.
pub fn place(width: usize, planes: usize, octet: usize, half: usize, plane: usize) -> usize {
    let together = width / 16;
    let (vector, lane) = (octet / together, octet % together);
    ((vector * 2 + half) * planes + plane) * together + lane
}

/// Sizes of the tables of one layer.
#[derive(Clone, Copy, Debug)]
pub struct TableShape {
    /// Inputs.
    pub d_in: usize,
    /// Segments × paths.
    pub sets: usize,
    /// Number format.
    pub tables: Tables,
}

impl TableShape {
    /// Blocks of [`BLOCK_INPUTS`] inputs.
    pub fn blocks(&self) -> usize {
        self.d_in.div_ceil(BLOCK_INPUTS)
    }
    /// Bytes of the tables of 32 inputs.
    pub fn tile_bytes(&self) -> usize {
        TILE_INPUTS / GROUP * 16 * self.tables.planes()
    }
    /// Bytes of the tables of one segment and path.
    pub fn set_bytes(&self) -> usize {
        self.d_in.div_ceil(TILE_INPUTS) * self.tile_bytes()
    }
    /// Bytes of the tables of one token.
    pub fn token_bytes(&self) -> usize {
        self.sets * self.set_bytes()
    }
    /// Bytes of the scales of one token; 0 for f32.
    pub fn scale_bytes(&self) -> usize {
        match self.tables {
            Tables::Int8 => self.sets * self.blocks() * 4,
            Tables::F32 => 0,
        }
    }
}

/// The 16 sums of the group at `u`, each input times `factor`, in entry order, as full vectors.
fn group_sums(b: &mut Builder, u: Val, offset: i32, factor: Option<Val>) -> Vec<Val> {
    assert_eq!(b.width(), 16, "tables are made with 128-bit vectors");
    let at = |b: &mut Builder, j: i32| {
        let x = b.load(Ty::F32, u, offset + 4 * j);
        match factor {
            Some(f) => b.mul(x, f),
            None => x,
        }
    };
    let (u0, u1, u2, u3) = (at(b, 0), at(b, 1), at(b, 2), at(b, 3));
    let signs = |pattern: [f32; 4]| {
        let mut bytes = [0; 16];
        for (chunk, x) in bytes.chunks_mut(4).zip(pattern) {
            chunk.copy_from_slice(&x.to_le_bytes());
        }
        bytes
    };
    let s0 = b.bytes(Elem::F32, signs([-1.0, 1.0, -1.0, 1.0]));
    let s1 = b.bytes(Elem::F32, signs([-1.0, -1.0, 1.0, 1.0]));
    let (v0, v1) = (b.splat(u0), b.splat(u1));
    let low = b.mul(v0, s0);
    let low = b.fma(v1, s1, low);
    let (plus, minus) = (b.add(u2, u3), b.sub(u2, u3));
    let (plus, minus) = (b.splat(plus), b.splat(minus));
    let first = b.sub(low, plus);
    let second = b.add(low, minus);
    let third = b.sub(low, minus);
    let fourth = b.add(low, plus);
    vec![first, second, third, fourth]
}

/// Makes the tables of `padded` inputs at `u` for look-ups with vectors of `width` bytes, one byte
/// an entry, at the first address of `to`, and stores their scale at the second.
pub fn int8_tables(b: &mut Builder, u: Val, to: [Val; 2], padded: i64, width: usize) {
    let [tables, scale] = to;
    let largest = largest_sum(b, u, padded);
    let share = b.float_of(Ty::F32, 1.0 / 127.0);
    let s = b.mul(largest, share);
    b.store(scale, 0, s);
    // A block of zeros has scale 0: any finite factor gives tables of zeros.
    let tiny = b.float_of(Ty::F32, f32::MIN_POSITIVE);
    let divisor = b.max(s, tiny);
    let one = b.float_of(Ty::F32, 1.0);
    let factor = b.div(one, divisor);
    for_groups(
        b,
        u,
        tables,
        padded,
        width,
        1,
        &mut |b, from, to, places| {
            let sums = group_sums(b, from, 0, Some(factor));
            let ints: Vec<_> = sums.into_iter().map(|s| b.to_int(s)).collect();
            let (low, high) = (b.narrow(ints[0], ints[1]), b.narrow(ints[2], ints[3]));
            let entries = b.narrow(low, high);
            let bias = b.bytes(Elem::I8, [BIAS as u8; 16]);
            let entries = b.xor(entries, bias);
            b.store(to, places[0], entries);
        },
    );
}

/// Makes one group's table: gets the address of its inputs, the address of its tile's tables, and
/// the byte offsets of its planes there.
type OnGroup<'a> = dyn FnMut(&mut Builder, Val, Val, &[i32]) + 'a;

/// Calls the body for every group of four inputs.
fn for_groups(
    b: &mut Builder,
    u: Val,
    tables: Val,
    padded: i64,
    width: usize,
    planes: usize,
    body: &mut OnGroup<'_>,
) {
    let tile = TILE_INPUTS as i64;
    b.for_const(padded, tile, |b, column| {
        let to = b.at(tables, column, (planes * 16 / GROUP) as i64);
        let from = b.at(u, column, 4);
        for group in 0..TILE_INPUTS / GROUP {
            let from = b.add_imm(from, (group * GROUP * 4) as i64);
            let at = |plane| place(width, planes, group / 2, group % 2, plane) * 16;
            let places: Vec<_> = (0..planes).map(|plane| at(plane) as i32).collect();
            body(b, from, to, &places);
        }
    });
}

/// max over groups of |u₀| + |u₁| + |u₂| + |u₃|.
fn largest_sum(b: &mut Builder, u: Val, padded: i64) -> Val {
    let vector = b.vec(Elem::F32);
    let zero = b.float(0.0);
    let largest = b.var(zero);
    // Four groups at a time, transposed so that a lane is a group.
    b.for_const(padded, 16, |b, column| {
        let at = b.at(u, column, 4);
        let rows: Vec<_> = (0..4)
            .map(|i| {
                let v = b.load(vector, at, i * 16);
                b.un(UnOp::Abs, v)
            })
            .collect();
        let pair = |b: &mut Builder, x: Val, y: Val| {
            let (low, high) = (b.interleave(x, y, false), b.interleave(x, y, true));
            b.add(low, high)
        };
        let (first, second) = (pair(b, rows[0], rows[1]), pair(b, rows[2], rows[3]));
        let first = b.bitcast(first, Elem::I64);
        let second = b.bitcast(second, Elem::I64);
        let low = b.interleave(first, second, false);
        let high = b.interleave(first, second, true);
        let (low, high) = (b.bitcast(low, Elem::F32), b.bitcast(high, Elem::F32));
        let sums = b.add(low, high);
        let so_far = b.get(largest);
        let now = math::max_abs(b, so_far, sums);
        b.set(largest, now);
    });
    let largest = b.get(largest);
    b.max_lane(largest)
}

/// Makes the tables of `padded` inputs at `u` for look-ups with vectors of `width` bytes, as f32
/// sums in four planes of bytes.
pub fn f32_tables(b: &mut Builder, u: Val, tables: Val, padded: i64, width: usize) {
    let gather = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15];
    for_groups(
        b,
        u,
        tables,
        padded,
        width,
        4,
        &mut |b, from, to, places| {
            let sums = group_sums(b, from, 0, None);
            let gather = b.bytes(Elem::I8, gather);
            // A 32-bit lane now holds one plane's bytes of four entries.
            let planes: Vec<_> = sums
                .into_iter()
                .map(|s| {
                    let s = b.bitcast(s, Elem::I8);
                    let s = b.lookup16(s, gather);
                    b.bitcast(s, Elem::I32)
                })
                .collect();
            let halves = [false, true].map(|high| {
                let low = b.interleave(planes[0], planes[1], high);
                let high = b.interleave(planes[2], planes[3], high);
                (b.bitcast(low, Elem::I64), b.bitcast(high, Elem::I64))
            });
            for (i, (low, high)) in halves.into_iter().enumerate() {
                for (j, upper) in [false, true].into_iter().enumerate() {
                    let plane = b.interleave(low, high, upper);
                    b.store(to, places[i * 2 + j], plane);
                }
            }
        },
    );
}
