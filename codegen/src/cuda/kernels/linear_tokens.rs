//! The dense product y = x Wᵀ of several tokens, on matrix units, with one pass over the weights.
//!
//! Weights and inputs are written as sums of bf16 numbers: a weight of one (bf16, int8), two (f16)
//! or three (f32), an input of three, which together have the 24 bits of an f32. Products of two
//! bf16 numbers are exact and added up in f32; those below the last bit of an f32 are left out. So
//! the result is as good as that of f32 arithmetic.
//!
//! The order of the inputs within a matrix instruction is free as long as both operands agree, so a
//! lane reads eight neighbouring inputs of a row at once and spreads them over two instructions.

use rabitc_rbx::SmArch;

use super::linear::Weight;
use crate::cuda::source::{Builder, CudaSpec, Source};
use crate::kernels::Float;

/// Tokens that share a matrix instruction.
const COLUMNS: usize = 8;
/// Rows of a matrix instruction.
const ROWS: usize = 16;
/// Sets of so many rows that a warp computes together.
const TILES: usize = 2;
const WARPS: usize = 4;
/// Inputs that a lane reads at once.
const LANE_INPUTS: usize = 8;

/// A dense product of several tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearTokens {
    /// Inputs, a multiple of 8.
    pub d_in: usize,
    /// Outputs.
    pub d_out: usize,
    /// f32 elements from one token of x to the next, a multiple of 4.
    pub x_stride: usize,
    /// Form of the weight.
    pub weight: Weight,
    /// Tokens of a block: up to 16; blocks go over tokens along y.
    pub tokens: usize,
    /// Whether tokens are counted by R, the rows asked for, instead of T.
    pub by_rows: bool,
}

impl LinearTokens {
    /// Whether there is such a kernel for inputs of `d_in` that are `aligned` to 16 bytes.
    pub fn takes(d_in: usize, aligned: bool) -> bool {
        d_in.is_multiple_of(LANE_INPUTS) && aligned
    }

    /// Blocks along x.
    pub fn grid(&self) -> usize {
        self.d_out.div_ceil(ROWS * TILES * WARPS)
    }
}

impl CudaSpec for LinearTokens {
    fn name(&self) -> String {
        format!(
            "linear_tokens_{}x{}_{}_x{}_t{}{}",
            self.d_out,
            self.d_in,
            self.weight.name(),
            self.x_stride,
            self.tokens,
            if self.by_rows { "_rows" } else { "" }
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        let (ty, bytes, terms, unpack) = match self.weight {
            Weight::Float(Float::BF16) => ("const u16", 2, 1, BF16),
            Weight::Float(Float::F16) => ("const u16", 2, 2, F16),
            Weight::Float(Float::F32) => ("const float", 4, 3, F32),
            Weight::Int8 => ("const signed char", 1, 1, INT8),
        };
        let int8 = self.weight == Weight::Int8;
        let count = match self.by_rows {
            true => "state->rows",
            false => "state->tokens",
        };
        Builder::new(self.name(), arch, (WARPS * 32) as u32)
            .min_blocks(2)
            .int("D_IN", self.d_in)
            .int("D_OUT", self.d_out)
            .int("X_STRIDE", self.x_stride)
            .int("TOKENS", self.tokens)
            .int("GROUPS", self.tokens.div_ceil(COLUMNS))
            .int("TILES", TILES)
            .int("WARPS", WARPS)
            .int("TERMS", terms)
            .int("WORDS", LANE_INPUTS * bytes / 4)
            // Steps under way: an even number, what registers hold.
            .int("AHEAD", if bytes == 4 { 2 } else { 6 })
            .flag("INT8", int8)
            .helper(SPLIT)
            .helper(unpack)
            .param("const float", "x")
            .param(ty, "weight")
            .param_if(int8, "const float", "scale")
            .param("float", "out")
            .param("const State", "state")
            .body(&BODY.replace("$COUNT", count))
    }
}

const SPLIT: &str = r#"
__device__ __forceinline__ void matrix_bf16(float* d, const u32* a, u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// Two f32 numbers as the sum of pairs of bf16 numbers, the largest first.
template <int N> __device__ __forceinline__ void split(float low, float high, u32* to, int stride) {
#pragma unroll
  for (int i = 0; i < N; i++) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    to[i * stride] = pair;
    low -= __uint_as_float(pair << 16);
    high -= __uint_as_float(pair & 0xffff0000u);
  }
}
"#;

const BF16: &str = r#"
__device__ __forceinline__ void terms_of(const u32* w, u32 (*to)[4]) {
#pragma unroll
  for (int p = 0; p < 4; p++) to[0][p] = w[p];
}
"#;
const F16: &str = r#"
__device__ __forceinline__ void terms_of(const u32* w, u32 (*to)[4]) {
#pragma unroll
  for (int p = 0; p < 4; p++) split<2>(f16_to_f32((u16)w[p]), f16_to_f32((u16)(w[p] >> 16)), &to[0][p], 4);
}
"#;
const F32: &str = r#"
__device__ __forceinline__ void terms_of(const u32* w, u32 (*to)[4]) {
#pragma unroll
  for (int p = 0; p < 4; p++) split<3>(__uint_as_float(w[2 * p]), __uint_as_float(w[2 * p + 1]), &to[0][p], 4);
}
"#;
const INT8: &str = r#"
__device__ __forceinline__ void terms_of(const u32* w, u32 (*to)[4]) {
#pragma unroll
  for (int p = 0; p < 4; p++) {
    const u32 pair = w[p >> 1] >> (16 * (p & 1));
    split<1>((float)(signed char)pair, (float)(signed char)(pair >> 8), &to[0][p], 4);
  }
}
"#;

const BODY: &str = r#"
  constexpr int INPUTS = 32, STEPS = (D_IN + INPUTS - 1) / INPUTS;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  const int first_row = (blockIdx.x * WARPS + warp) * (16 * TILES), first_token = blockIdx.y * TOKENS;
  allow_next();
  // What a lane reads of a row: eight inputs, WORDS words.
  u32 ahead[AHEAD][TILES][2][WORDS];
  auto fetch = [&](int step, u32 (*to)[2][WORDS]) {
    const int input = step * INPUTS + t * 8;
#pragma unroll
    for (int i = 0; i < TILES; i++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int row = min(first_row + i * 16 + half * 8 + g, D_OUT - 1);
        const u32* const from = (const u32*)(weight + (size_t)row * D_IN + input);
#pragma unroll
        for (int w = 0; w < WORDS; w += 2) {
          if (WORDS == 2) {
            const uint2 v = input < D_IN ? *(const uint2*)from : make_uint2(0, 0);
            to[i][half][0] = v.x; to[i][half][1] = v.y;
          } else if (w % 4 == 0) {
            const uint4 v = input < D_IN ? *(const uint4*)(from + w) : make_uint4(0, 0, 0, 0);
            to[i][half][w] = v.x; to[i][half][w + 1] = v.y; to[i][half][w + 2] = v.z; to[i][half][w + 3] = v.w;
          }
        }
      }
  };
  // The first weights are asked for before the kernel ahead has ended.
#pragma unroll
  for (int s = 0; s < AHEAD; s++) fetch(s, ahead[s]);
  wait_for_previous();
  const int count = min(TOKENS, ($COUNT) - first_token);
  float sum[TILES][GROUPS][4];
#pragma unroll
  for (int i = 0; i < TILES; i++)
#pragma unroll
    for (int k = 0; k < GROUPS; k++) sum[i][k][0] = sum[i][k][1] = sum[i][k][2] = sum[i][k][3] = 0.0f;

  // Inputs are a step ahead of their use.
  float4 next[GROUPS][2];
  auto fetch_inputs = [&](int step) {
    const int input = step * INPUTS + t * 8;
#pragma unroll
    for (int k = 0; k < GROUPS; k++) {
      const int token = k * 8 + g;
      const float4* const from = (const float4*)(x + (size_t)(first_token + token) * X_STRIDE + input);
      const bool there = token < count && input < D_IN;
      next[k][0] = there ? from[0] : make_float4(0, 0, 0, 0);
      next[k][1] = there ? from[1] : make_float4(0, 0, 0, 0);
    }
  };
  fetch_inputs(0);
  for (int first = 0; first < STEPS; first += AHEAD)
#pragma unroll
    for (int s = 0; s < AHEAD; s++) {
      u32 b[GROUPS][3][4];
#pragma unroll
      for (int k = 0; k < GROUPS; k++) {
        const float4 v = next[k][0], w = next[k][1];
        split<3>(v.x, v.y, &b[k][0][0], 4);
        split<3>(v.z, v.w, &b[k][0][1], 4);
        split<3>(w.x, w.y, &b[k][0][2], 4);
        split<3>(w.z, w.w, &b[k][0][3], 4);
      }
      fetch_inputs(first + s + 1);
#pragma unroll
      for (int i = 0; i < TILES; i++) {
        u32 rows[2][TERMS][4];
        terms_of(ahead[s][i][0], rows[0]);
        terms_of(ahead[s][i][1], rows[1]);
#pragma unroll
        for (int term = TERMS - 1; term >= 0; term--)
#pragma unroll
          for (int pair = 0; pair < 4; pair += 2) {
            const u32 a[4] = {rows[0][term][pair], rows[1][term][pair], rows[0][term][pair + 1], rows[1][term][pair + 1]};
#pragma unroll
            for (int k = 0; k < GROUPS; k++)
#pragma unroll
              for (int part = 2 - term; part >= 0; part--) matrix_bf16(sum[i][k], a, b[k][part][pair], b[k][part][pair + 1]);
          }
      }
      // Two steps together, which lie side by side in memory.
      if (s % 2 == 1 && first + AHEAD < STEPS) {
        fetch(first + AHEAD + s - 1, ahead[s - 1]);
        fetch(first + AHEAD + s, ahead[s]);
      }
    }
#pragma unroll
  for (int i = 0; i < TILES; i++)
#pragma unroll
    for (int k = 0; k < GROUPS; k++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int row = first_row + i * 16 + (j >> 1) * 8 + g, token = k * 8 + t * 2 + (j & 1);
        if (row < D_OUT && token < count)
          out[(size_t)(first_token + token) * D_OUT + row] = INT8 ? sum[i][k][j] * scale[row] : sum[i][k][j];
      }
"#;
