//! Adding rows into a matrix by index.

use rabitc_rbx::SmArch;

use super::{Layout, builder, finish, input};
use crate::cuda::source::{CudaSpec, Source};

/// A block a row of the result: it looks through all indices for its own, and adds the rows it
/// finds in their order.
#[derive(Clone, Debug, PartialEq)]
pub struct ScatterAdd {
    /// The rows that are added.
    pub x: Layout,
    /// Rows of the result.
    pub rows: usize,
    /// Factor on every element.
    pub scale: f32,
    /// Whether the result is added to what is there.
    pub accumulate: bool,
}

impl CudaSpec for ScatterAdd {
    fn name(&self) -> String {
        format!(
            "scatter_add_{}_r{}_s{:08x}{}",
            self.x.word(),
            self.rows,
            self.scale.to_bits(),
            if self.accumulate { "_more" } else { "" }
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        let b = builder(self.name(), arch, 256)
            .int("TOKENS", self.x.rows)
            .int("COLUMNS", self.x.columns)
            .int("PIECES", self.x.columns.div_ceil(256))
            .int("X_STRIDE", self.x.stride)
            .float("SCALE", self.scale)
            .flag("ACCUMULATE", self.accumulate);
        let b = input(b, "x", self.x.dtype).param("const int", "index");
        finish(b.param("float", "out"), BODY)
    }
}

const BODY: &str = r#"
  __shared__ u32 found[8][4];
  const int own = blockIdx.x, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  float sums[PIECES];
#pragma unroll
  for (int p = 0; p < PIECES; p++) sums[p] = 0.0f;
  bool any = false;
  // Of a warp's 128 tokens, those of one step of 32 lie side by side.
  for (int first = 0; first < TOKENS; first += 1024) {
    u32 mine[4];
#pragma unroll
    for (int s = 0; s < 4; s++) {
      const int token = first + warp * 128 + s * 32 + lane;
      mine[s] = __ballot_sync(~0u, token < TOKENS && index[token] == own);
    }
    if (!__syncthreads_or((int)(mine[0] | mine[1] | mine[2] | mine[3]))) continue;
    any = true;
    if (lane < 4) found[warp][lane] = lane == 0 ? mine[0] : lane == 1 ? mine[1] : lane == 2 ? mine[2] : mine[3];
    __syncthreads();
    for (int i = 0; i < 32; i++) {
      u32 left = found[i >> 2][i & 3];
      while (left) {
        const int token = first + i * 32 + __ffs(left) - 1;
        left &= left - 1;
#pragma unroll
        for (int p = 0; p < PIECES; p++) {
          const int column = p * 256 + threadIdx.x;
          if (column < COLUMNS) {
            float v[1];
            read_x(1, v, (size_t)token * X_STRIDE + column);
            sums[p] += v[0] * SCALE;
          }
        }
      }
    }
    __syncthreads();
  }
  if (ACCUMULATE && !any) return;
#pragma unroll
  for (int p = 0; p < PIECES; p++) {
    const int column = p * 256 + threadIdx.x;
    if (column < COLUMNS) {
      float* const to = out + (size_t)own * COLUMNS + column;
      *to = ACCUMULATE ? *to + sums[p] : sums[p];
    }
  }
"#;
