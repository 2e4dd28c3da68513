//! The dense product y = x Wᵀ, with a selection of rows and an RMSNorm ahead of it where wanted.

use rabitc_rbx::SmArch;

use crate::cuda::source::{Builder, CudaSpec, REDUCTIONS, Source};
use crate::kernels::Float;

/// Form of a dense weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Floats.
    Float(Float),
    /// int8 with one f32 scale a row.
    Int8,
}

impl Weight {
    pub(super) fn name(self) -> &'static str {
        match self {
            Weight::Float(float) => float.name(),
            Weight::Int8 => "int8",
        }
    }

    /// Elements of 16 bytes.
    fn lanes(self) -> usize {
        match self {
            Weight::Float(float) => 16 / float.bytes() as usize,
            Weight::Int8 => 16,
        }
    }
}

/// An RMSNorm that is computed on the way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Form of its weight.
    pub weight: Float,
    /// Added to the mean square.
    pub eps: f32,
    /// Multiply by 1 + w.
    pub unit_offset: bool,
}

/// A dense product. A warp computes [`ROWS`] rows for all tokens of its block.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// Inputs.
    pub d_in: usize,
    /// Outputs.
    pub d_out: usize,
    /// f32 elements from one token of x to the next.
    pub x_stride: usize,
    /// Form of the weight.
    pub weight: Weight,
    /// Tokens of a block, 1 to 8; blocks go over tokens along y.
    pub tokens: usize,
    /// The norm ahead, only with one token a block.
    pub norm: Option<Norm>,
    /// Whether tokens are those that a list of rows names, and not all in order.
    pub select: bool,
    /// Whether tokens are counted by R, the rows asked for, instead of T.
    pub by_rows: bool,
}

/// Rows of a warp.
pub const ROWS: usize = 4;
const WARPS: usize = 8;
/// Blocks that fill a large GPU; each goes over the rows with this stride.
const MOST_BLOCKS: usize = 264;

impl Linear {
    /// Blocks along x.
    pub fn grid(&self) -> usize {
        self.d_out.div_ceil(ROWS * WARPS).min(MOST_BLOCKS)
    }

    fn staged(&self) -> bool {
        self.tokens == 1 && self.d_in <= 24 << 10
    }
}

impl CudaSpec for Linear {
    fn name(&self) -> String {
        let norm = self.norm.map_or(String::new(), |n| {
            let unit = if n.unit_offset { "u" } else { "" };
            format!("_norm_{}{unit}_{:08x}", n.weight.name(), n.eps.to_bits())
        });
        let select = format!(
            "{}{}",
            if self.select { "_select" } else { "" },
            if self.by_rows { "_rows" } else { "" }
        );
        format!(
            "linear_{}x{}_{}_x{}_t{}{norm}{select}",
            self.d_out,
            self.d_in,
            self.weight.name(),
            self.x_stride,
            self.tokens
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        let lanes = self.weight.lanes();
        let (wide, unpack) = match self.weight {
            Weight::Float(Float::F32) => ("const float", UNPACK_F32),
            Weight::Float(Float::F16) => ("const u16", UNPACK_F16),
            Weight::Float(Float::BF16) => ("const u16", UNPACK_BF16),
            Weight::Int8 => ("const signed char", UNPACK_INT8),
        };
        let norm = self.norm.unwrap_or(Norm {
            weight: Float::F32,
            eps: 0.0,
            unit_offset: false,
        });
        let int8 = self.weight == Weight::Int8;
        Builder::new(self.name(), arch, (WARPS * 32) as u32)
            .shared(if self.staged() {
                self.d_in.next_multiple_of(lanes) * 4
            } else {
                0
            })
            .int("D_IN", self.d_in)
            .int("D_OUT", self.d_out)
            .int("X_STRIDE", self.x_stride)
            .int("TOKENS", self.tokens)
            .int("ROWS", ROWS)
            .int("WARPS", WARPS)
            .int("LANES", lanes)
            .flag("WIDE", self.d_in.is_multiple_of(lanes))
            .flag("STAGED", self.staged())
            .flag("NORM", self.norm.is_some())
            .flag("SELECT", self.select)
            .flag("INT8", int8)
            .float("EPS", norm.eps)
            .float("OFFSET", if norm.unit_offset { 1.0 } else { 0.0 })
            .loader("load_norm", norm.weight)
            .helper(REDUCTIONS)
            .helper(unpack)
            .param("const float", "x")
            .param_if(self.norm.is_some(), "const void", "norm")
            .param(wide, "weight")
            .param_if(int8, "const float", "scale")
            .param_if(self.select, "const int", "selected")
            .param("float", "out")
            .param("const State", "state")
            .body(&BODY.replace(
                "$COUNT",
                if self.by_rows {
                    "state->rows"
                } else {
                    "state->tokens"
                },
            ))
    }
}

const UNPACK_F32: &str = r#"
__device__ __forceinline__ float one(const float* w) { return *w; }
__device__ __forceinline__ void unpack(uint4 v, float* to) {
  to[0] = __uint_as_float(v.x); to[1] = __uint_as_float(v.y); to[2] = __uint_as_float(v.z); to[3] = __uint_as_float(v.w);
}
"#;
const UNPACK_F16: &str = r#"
__device__ __forceinline__ float one(const u16* w) { return f16_to_f32(*w); }
__device__ __forceinline__ void unpack(uint4 v, float* to) {
  const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; i++) { to[2 * i] = f16_to_f32((u16)words[i]); to[2 * i + 1] = f16_to_f32((u16)(words[i] >> 16)); }
}
"#;
const UNPACK_BF16: &str = r#"
__device__ __forceinline__ float one(const u16* w) { return bf16_to_f32(*w); }
__device__ __forceinline__ void unpack(uint4 v, float* to) {
  const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; i++) { to[2 * i] = __uint_as_float(words[i] << 16); to[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u); }
}
"#;
const UNPACK_INT8: &str = r#"
__device__ __forceinline__ float one(const signed char* w) { return *w; }
__device__ __forceinline__ void unpack(uint4 v, float* to) {
  const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 16; i++) to[i] = (float)(signed char)(words[i >> 2] >> (8 * (i & 3)));
}
"#;

const BODY: &str = r#"
  extern __shared__ __align__(16) float staged[];
  __shared__ float scratch[32];
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int first_token = blockIdx.y * TOKENS;
  allow_next();
  // The first rows are asked for before the kernel ahead has ended.
  uint4 early[ROWS];
  const int first_row = (blockIdx.x * WARPS + warp) * ROWS;
  if (WIDE) {
#pragma unroll
    for (int r = 0; r < ROWS; r++)
      early[r] = first_row + r < D_OUT && lane * LANES < D_IN
                     ? *(const uint4*)(weight + (size_t)(first_row + r) * D_IN + lane * LANES) : make_uint4(0, 0, 0, 0);
  }
  wait_for_previous();
  const int count = min(TOKENS, ($COUNT) - first_token);
  const float* from[TOKENS];
#pragma unroll
  for (int k = 0; k < TOKENS; k++) {
    const int token = first_token + min(k, count - 1);
    from[k] = x + (size_t)(SELECT ? selected[token] : token) * X_STRIDE;
  }
  float inverse = 1.0f;
  if (STAGED) {
    float square = 0.0f;
    for (int i = threadIdx.x; i < D_IN; i += WARPS * 32) {
      const float v = from[0][i];
      square = fmaf(v, v, square);
      staged[i] = NORM ? v * (OFFSET + load_norm(norm, i)) : v;
    }
    if (NORM) inverse = rsqrtf(block_reduce<false>(square, scratch) / D_IN + EPS);
    __syncthreads();
    from[0] = staged;
  }
  for (int row = first_row; row < D_OUT; row += gridDim.x * WARPS * ROWS) {
    float sum[ROWS][TOKENS];
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
      for (int k = 0; k < TOKENS; k++) sum[r][k] = 0.0f;
    if (WIDE) {
#pragma unroll 2
      for (int i = lane * LANES; i < D_IN; i += 32 * LANES) {
        uint4 words[ROWS];
#pragma unroll
        for (int r = 0; r < ROWS; r++)
          words[r] = row == first_row && i == lane * LANES ? early[r]
                     : *(const uint4*)(weight + (size_t)min(row + r, D_OUT - 1) * D_IN + i);
#pragma unroll
        for (int k = 0; k < TOKENS; k++) {
          if (TOKENS > 1 && k >= count) continue;
          float v[LANES];
#pragma unroll
          for (int j = 0; j < LANES; j++) v[j] = from[k][i + j];
#pragma unroll
          for (int r = 0; r < ROWS; r++) {
            float w[LANES];
            unpack(words[r], w);
#pragma unroll
            for (int j = 0; j < LANES; j++) sum[r][k] = fmaf(w[j], v[j], sum[r][k]);
          }
        }
      }
    } else {
      for (int i = lane; i < D_IN; i += 32)
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
          const float w = one(weight + (size_t)min(row + r, D_OUT - 1) * D_IN + i);
#pragma unroll
          for (int k = 0; k < TOKENS; k++) sum[r][k] = fmaf(w, from[k][i], sum[r][k]);
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
      for (int k = 0; k < TOKENS; k++) {
        float v = warp_sum(sum[r][k]) * inverse;
        if (lane == 0 && row + r < D_OUT && k < count) {
          if (INT8) v *= scale[row + r];
          out[(size_t)(first_token + k) * D_OUT + row + r] = v;
        }
      }
  }
"#;
