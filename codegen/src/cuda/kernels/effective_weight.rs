//! What the products of many tokens share: the effective weight Σ_i g_i ⊙ B_i ⊙ h_i in f16, made in
//! registers where matrix instructions want their first operand.
//!
//! Instruction j of the 16 that serve 256 inputs takes bits j and j + 16 of a lane's words of signs,
//! so the inputs, and h with them, are put into that order: [`input_place`]. A sign is xor-ed into
//! h, a path is one fused multiply-add. g is divided by the largest of its row's paths, so that f16
//! holds it; that factor and the token's are multiplied in at the end, in f32.

use crate::cuda::layout::GpuLayout;

/// Where an input is in the order of the matrix instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputPlace {
    /// Instruction, 0..16.
    pub step: usize,
    /// The lane's number among the four of a row.
    pub lane: usize,
    /// First or second half of the instruction's 16 inputs.
    pub half: usize,
    /// First or second of the pair that a register holds.
    pub pair: usize,
}

/// The place of input `i` of 256.
pub fn input_place(i: usize) -> InputPlace {
    InputPlace {
        step: i & 15,
        lane: (i >> 5) & 3,
        half: i >> 7,
        pair: (i >> 4) & 1,
    }
}

/// A function `rows_of(tile)`: which rows of which segment a row tile holds, and their column.
pub fn rows_helper(layout: &GpuLayout) -> String {
    let mut segments = String::new();
    for (s, rows) in layout.stored.segments.iter().enumerate() {
        let (first, _) = layout.first_tile(s);
        let end = first + layout.segment_tiles(s);
        let (test, local) = match layout.paired {
            true => (format!("(tile & 1) == {s}"), "tile >> 1".to_string()),
            false => (
                format!("tile >= {first} && tile < {end}"),
                format!("tile - {first}"),
            ),
        };
        let column = layout.column(s);
        segments.push_str(&format!(
            "  if ({test}) return Rows{{{s}, ({local}) * 16, {rows}, {column}}};\n"
        ));
    }
    ROWS.replace("$SEGMENTS", segments.trim_end())
}

const ROWS: &str = r#"
struct Rows { int segment, first, count, column; };
// Which rows a row tile holds.
__device__ __forceinline__ Rows rows_of(int tile) {
$SEGMENTS
  return Rows{0, 0, 0, 0};
}
"#;

/// Scales of rows, arithmetic on pairs of f16, and a path's share of two weights. Needs `PATHS`.
pub const WEIGHTS: &str = r#"
// The largest |g| of the paths of a row.
__device__ __forceinline__ float largest(const float* row) {
  float m = 0.0f;
#pragma unroll
  for (int path = 0; path < PATHS; path++) m = fmaxf(m, fabsf(row[path * 16]));
  return m;
}
// What a path has of a row's largest scale, twice in f16.
__device__ __forceinline__ u32 share_of(const float* row, int path, float most) {
  return f32_to_f16(most > 0.0f ? row[path * 16] / most : 0.0f) * 0x10001u;
}
__device__ __forceinline__ u32 half_mul(u32 a, u32 b) { u32 d; asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b)); return d; }
__device__ __forceinline__ u32 half_fma(u32 a, u32 b, u32 c) { u32 d; asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c)); return d; }
// Adds a path to two weights: bits 15 - shift and 31 - shift of a word are their signs. A set bit is
// +1, and a set sign bit is minus.
template <bool FIRST> __device__ __forceinline__ u32 add_path(u32 weights, u32 word, int shift, u32 h, u32 share) {
  const u32 v = ((~word << shift) & 0x80008000u) ^ h;
  return FIRST ? half_mul(share, v) : half_fma(share, v, weights);
}
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_distinct_and_agree_with_the_words_of_signs() {
        let mut seen = [false; 256];
        for i in 0..256 {
            let p = input_place(i);
            let number = p.step * 16 + p.lane * 4 + p.half * 2 + p.pair;
            assert!(!std::mem::replace(&mut seen[number], true));
            // Bit and word of the layout of signs.
            assert_eq!(i % 32, p.step + 16 * p.pair);
            assert_eq!((i / 128, i % 128 / 32), (p.half, p.lane));
        }
    }
}
