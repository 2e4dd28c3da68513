//! The residual-binary product of many tokens on f16 matrix instructions of a warp, which every
//! architecture has. [`super::rb_prefill_wgmma`] is the one for those that copy in bulk.
//!
//! The effective weight is made in registers ([`super::effective_weight`]), 16 rows × 16 inputs at a
//! time; every fragment serves all tokens of the warp.

use rabitc_rbx::SmArch;

use super::effective_weight::{WEIGHTS, rows_helper};
use crate::cuda::layout::GpuLayout;
use crate::cuda::source::{Builder, CudaSpec, Source};

/// The product of a layer; a block is [`TOKENS`] tokens (x) and some row tiles (y).
#[derive(Clone, Debug, PartialEq)]
pub struct RbPrefill {
    /// Shape and layout.
    pub layout: GpuLayout,
    /// f32 elements from one row of the residual to the next, if one is added.
    pub residual: Option<usize>,
    /// Tokens of a run at most. The kernel takes any number; how it is best cut depends on it.
    pub most: usize,
    /// Whether tokens are counted by R, the rows asked for, instead of T.
    pub by_rows: bool,
    /// Row tiles of a warp, one of [`RbPrefill::choices`].
    pub warp_tiles: usize,
}

/// Tokens of a block.
pub const TOKENS: usize = 128;
/// Warps side by side along the rows.
const ROW_WARPS: usize = 4;
const WARP_TOKENS: usize = 64;
/// Steps of 16 inputs that are staged together.
const STEPS: usize = 8;
const STAGES: usize = 3;
/// Bytes of a token in a stage: padded so that eight tokens start in different banks.
const PITCH: usize = STEPS * 32 + 32;

impl RbPrefill {
    /// Row tiles that a warp may have: the signs of all paths are held in registers.
    pub fn choices(&self) -> &'static [usize] {
        match self.layout.stored.paths {
            1 | 2 => &[4, 2, 1],
            3 | 4 => &[2, 1],
            _ => &[1],
        }
    }

    /// Blocks along y.
    pub fn grid(&self) -> usize {
        self.layout
            .row_tiles()
            .div_ceil(ROW_WARPS * self.warp_tiles)
    }

    /// The name without the way it is cut.
    pub fn base_name(&self) -> String {
        let residual = self.residual.map_or(String::new(), |s| format!("_add{s}"));
        let count = if self.by_rows { "_rows" } else { "" };
        format!("rb_prefill_{}{residual}{count}", self.layout.shape_name())
    }
}

impl CudaSpec for RbPrefill {
    fn name(&self) -> String {
        format!("{}_r{}", self.base_name(), self.warp_tiles)
    }

    fn source(&self, arch: SmArch) -> Source {
        let (layout, stored) = (&self.layout, &self.layout.stored);
        Builder::new(self.name(), arch, 256)
            .shared(STAGES * TOKENS * PITCH)
            .int("CHUNKS", layout.input_tiles())
            .int("PATHS", stored.paths)
            .int("ALL_TILES", layout.row_tiles())
            .int("TOKENS", TOKENS)
            .int("ROW_TILES", ROW_WARPS * self.warp_tiles)
            .int("WARP_TILES", self.warp_tiles)
            .int("WARP_TOKENS", WARP_TOKENS)
            .int("STEPS", STEPS)
            .int("STAGES", STAGES)
            .int("PITCH", PITCH)
            .int("OUT_STRIDE", stored.segments.iter().sum::<usize>())
            .flag("RESIDUAL", self.residual.is_some())
            .int("R_STRIDE", self.residual.unwrap_or(0))
            .helper(&rows_helper(layout))
            .helper(WEIGHTS)
            .helper(COPIES)
            .param("const u16", "x")
            .param("const float", "factor")
            .param("const uint4", "signs")
            .param("const float", "g")
            .param("const uint2", "h_steps")
            .param_if(self.residual.is_some(), "const float", "residual")
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

const COPIES: &str = r#"
__device__ __forceinline__ void matrix_f16(float* d, const u32* a, uint2 b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y));
}
__device__ __forceinline__ void copy_async(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"((u32)__cvta_generic_to_shared(to)), "l"(from) : "memory");
}
__device__ __forceinline__ void copies_end() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT> __device__ __forceinline__ void copies_wait() { asm volatile("cp.async.wait_group %0;" :: "n"(LEFT) : "memory"); }
"#;

const BODY: &str = r#"
  extern __shared__ __align__(128) u8 staged[];
  constexpr int STAGES_OF_CHUNK = 16 / STEPS, ALL_STAGES = CHUNKS * STAGES_OF_CHUNK, TILES8 = WARP_TOKENS / 8;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, t = lane & 3, row8 = lane >> 2;
  const int first_token = blockIdx.x * TOKENS, warp_token = (warp / (ROW_TILES / WARP_TILES)) * WARP_TOKENS;
  const int first_tile = blockIdx.y * ROW_TILES + warp % (ROW_TILES / WARP_TILES) * WARP_TILES;
  allow_next();
  wait_for_previous();
  const int tokens = $COUNT;

  // Row scales: the largest of the paths, and each path's share of it.
  u32 share[WARP_TILES][PATHS][2];
#pragma unroll
  for (int i = 0; i < WARP_TILES; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float* row = g + min(first_tile + i, ALL_TILES - 1) * PATHS * 16 + half * 8 + row8;
      const float m = largest(row);
#pragma unroll
      for (int path = 0; path < PATHS; path++)
        share[i][path][half] = share_of(row, path, m);
    }

  auto stage = [&](int n) {
    if (n < ALL_STAGES)
      for (int i = threadIdx.x; i < TOKENS * STEPS * 2; i += 256) {
        const int token = i / (STEPS * 2), piece = i % (STEPS * 2);
        copy_async(staged + (n % STAGES) * TOKENS * PITCH + token * PITCH + piece * 16,
                   x + ((size_t)(first_token + token) * ALL_STAGES + n) * (STEPS * 16) + piece * 8);
      }
    copies_end();
  };
#pragma unroll
  for (int n = 0; n < STAGES - 1; n++) stage(n);

  float sum[WARP_TILES][TILES8][4];
#pragma unroll
  for (int i = 0; i < WARP_TILES; i++)
#pragma unroll
    for (int k = 0; k < TILES8; k++)
#pragma unroll
      for (int j = 0; j < 4; j++) sum[i][k][j] = 0.0f;

  // h of each row tile's segment: tiles of a warp may lie in different ones.
  int h_at[WARP_TILES];
#pragma unroll
  for (int i = 0; i < WARP_TILES; i++)
    h_at[i] = rows_of(min(first_tile + i, ALL_TILES - 1)).segment * PATHS * CHUNKS * 64 + t * 4;

  for (int chunk = 0; chunk < CHUNKS; chunk++) {
    uint4 bits[WARP_TILES][PATHS];
#pragma unroll
    for (int i = 0; i < WARP_TILES; i++)
#pragma unroll
      for (int path = 0; path < PATHS; path++)
        bits[i][path] = signs[(((size_t)min(first_tile + i, ALL_TILES - 1) * CHUNKS + chunk) * PATHS + path) * 32 + lane];
#pragma unroll 1
    for (int part = 0; part < STAGES_OF_CHUNK; part++) {
      const int n = chunk * STAGES_OF_CHUNK + part;
      copies_wait<STAGES - 2>();
      __syncthreads();
      stage(n + STAGES - 1);
      const u8* from = staged + (n % STAGES) * TOKENS * PITCH + (warp_token + row8) * PITCH + t * 8;
#pragma unroll 2
      for (int step = 0; step < STEPS; step++) {
        const int j = part * STEPS + step, shift = 15 - j;
        u32 w[WARP_TILES][4];
#pragma unroll
        for (int i = 0; i < WARP_TILES; i++) {
#pragma unroll
          for (int path = 0; path < PATHS; path++) {
            const uint2 scales = __ldg(h_steps + h_at[i] + ((chunk * 4 + j / 4) * PATHS + path) * 16 + j % 4);
            const uint4 b = bits[i][path];
            const u32 words[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
            for (int r = 0; r < 4; r++) {
              const u32 h = r < 2 ? scales.x : scales.y;
              w[i][r] = path == 0 ? add_path<true>(0, words[r], shift, h, share[i][0][r & 1])
                                  : add_path<false>(w[i][r], words[r], shift, h, share[i][path][r & 1]);
            }
          }
        }
#pragma unroll
        for (int k = 0; k < TILES8; k++) {
          const uint2 b = *(const uint2*)(from + k * 8 * PITCH + step * 32);
#pragma unroll
          for (int i = 0; i < WARP_TILES; i++) matrix_f16(sum[i][k], w[i], b);
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < WARP_TILES; i++) {
    if (first_tile + i >= ALL_TILES) continue;
    const Rows rows = rows_of(first_tile + i);
    const float* row = g + (first_tile + i) * PATHS * 16 + row8;
    const float most[2] = {largest(row), largest(row + 8)};
#pragma unroll
    for (int k = 0; k < TILES8; k++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int token = first_token + warp_token + k * 8 + t * 2 + (j & 1), row = rows.first + row8 + (j >> 1) * 8;
        if (row >= rows.count || token >= tokens) continue;
        float v = sum[i][k][j] * most[j >> 1] * factor[token];
        if (RESIDUAL) v += residual[(size_t)token * R_STRIDE + rows.column + row];
        out[(size_t)token * OUT_STRIDE + rows.column + row] = v;
      }
  }
"#;
