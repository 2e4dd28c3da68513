//! The tables of partial sums that a residual-binary product looks up: formats, sizes, places.
//!
//! Inputs are taken four at a time. For every path and every such group a table holds the 16 sums
//! ±u₀ ±u₁ ±u₂ ±u₃ with u = h ⊙ prologue(x); bit j of the index is 1 where u_j counts positively,
//! which is how the packed signs lie in a nibble. The product then needs one look-up a row and
//! group instead of four multiplications.
//!
//! Entries are looked up byte by byte: the bytes of the 16 entries of a table lie in *planes* of
//! 16 bytes, the lowest byte first. What the bytes are is the [`Code`] of the table; an integer code
//! has one scale s for every [`BLOCK_INPUTS`] inputs, and its highest byte is stored plus
//! [`BIAS`], so that every byte is a number without sign.
//!
//! Layout a token: tables `[segment][path][tile][place][16]`, where a tile is 32 inputs and
//! [`place`] says where each plane of each table of a tile lies; the scales s as
//! f32 `[segment][path][block]` in a buffer of their own. Inputs past d_in count as 0.

use super::Vectors;
use rabitc_ir::layout::TILE_INPUTS;

/// Inputs that share one scale.
pub const BLOCK_INPUTS: usize = 256;
/// Inputs of a table.
pub const GROUP: usize = 4;
/// Tables of a tile.
pub const TILE_TABLES: usize = TILE_INPUTS / GROUP;
/// Added to the highest byte of an integer entry.
pub const BIAS: i64 = 128;

/// Number format of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tables {
    /// One byte an entry and a scale a block.
    Int8,
    /// Two bytes an entry and a scale a block.
    Int16,
    /// Four bytes an entry, or three and a scale a block.
    F32,
}

/// What the bytes of an entry are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Code {
    /// round(sum / s), with s the largest |sum| of the block over the number given.
    Integer(f32),
    /// The bits of the sum as f32.
    Float,
}

impl Tables {
    /// Most bytes of an entry.
    fn most_planes(self) -> usize {
        match self {
            Tables::Int8 => 1,
            Tables::Int16 => 2,
            Tables::F32 => 4,
        }
    }

    /// Bytes of an entry, for kernels with such vectors.
    pub fn planes(self, vectors: Vectors) -> usize {
        match self {
            Tables::F32 if vectors.permute => 3,
            _ => self.most_planes(),
        }
    }

    /// What the bytes are, for kernels with such vectors.
    ///
    /// Bytes of different entries add up independently only if they are digits of integers. Where
    /// bytes are added up by dot products, f32 sums are therefore stored as integers of 24 bits.
    /// An entry is then off by at most 2⁻²⁴ of the largest of its block: over a block of n tables
    /// no more than adding n numbers in f32, one after the other, is.
    pub fn code(self, vectors: Vectors) -> Code {
        match self {
            Tables::Int8 => Code::Integer(127.0),
            Tables::Int16 => Code::Integer(32767.0),
            // A little below 2²³, for rounding must not pass it.
            Tables::F32 if vectors.permute => Code::Integer(8_388_352.0),
            Tables::F32 => Code::Float,
        }
    }

    /// The word in kernel names.
    pub fn name(self) -> &'static str {
        match self {
            Tables::Int8 => "int8",
            Tables::Int16 => "int16",
            Tables::F32 => "f32",
        }
    }
}

/// Where a plane of a table lies within its tile, in units of 16 bytes, for kernels that look up
/// with vectors of `width` bytes.
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
    /// Bytes from the tables of 32 inputs to those of the next.
    pub fn tile_bytes(&self) -> usize {
        TILE_TABLES * 16 * self.tables.most_planes()
    }
    /// Bytes of the tables of one segment and path.
    pub fn set_bytes(&self) -> usize {
        self.d_in.div_ceil(TILE_INPUTS) * self.tile_bytes()
    }
    /// Bytes of the tables of one token.
    pub fn token_bytes(&self) -> usize {
        self.sets * self.set_bytes()
    }
    /// Bytes of the scales of one token.
    pub fn scale_bytes(&self) -> usize {
        self.sets * self.blocks() * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plane_of_a_tile_has_a_place_of_its_own() {
        for width in [16, 32, 64] {
            for planes in [1, 2, 4] {
                let mut places: Vec<_> = (0..TILE_TABLES * planes)
                    .map(|i| place(width, planes, i / planes / 2, i / planes % 2, i % planes))
                    .collect();
                places.sort_unstable();
                assert!(places.into_iter().eq(0..TILE_TABLES * planes));
            }
        }
    }
}
