//! Adding rows into a matrix by index.

use rabitc_rbx::SmArch;

use super::{Layout, builder, finish, input};
use crate::cuda::source::{CudaSpec, Source};

/// A block some rows of the result ([`ScatterAdd::block_rows`]): it looks through all indices for its
/// own, and adds the rows that it finds in their order.
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

/// Threads of a block.
const THREADS: usize = 256;

/// Rows of a block at most, and the elements that they may have together.
const MOST_ROWS: usize = 8;
const MOST_ELEMENTS: usize = 8192;

impl ScatterAdd {
    /// Rows of the result that a block computes.
    pub fn block_rows(&self) -> usize {
        (MOST_ELEMENTS / self.x.columns.max(1)).clamp(1, MOST_ROWS)
    }

    /// Blocks of a launch.
    pub fn blocks(&self) -> usize {
        self.rows.div_ceil(self.block_rows())
    }
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
        let rows = self.block_rows();
        let b = builder(self.name(), arch, THREADS as u32)
            .shared(rows * self.x.columns * 4)
            .int("TOKENS", self.x.rows)
            .int("COLUMNS", self.x.columns)
            .int("ROWS", self.rows)
            .int("BLOCK_ROWS", rows)
            .int("X_STRIDE", self.x.stride)
            .float("SCALE", self.scale)
            .flag("ACCUMULATE", self.accumulate);
        let b = input(b, "x", self.x.dtype).param("const int", "index");
        finish(b.param("float", "out"), BODY)
    }
}

/// Of 1024 tokens at a time, those that are wanted are listed in order. Several of them are read before
/// any is added, as one waits for memory as long as all. A thread has columns of its own, so sums need
/// no barrier.
const BODY: &str = r#"
  constexpr int STEPS = 4, AT_ONCE = 8;
  extern __shared__ __align__(16) float sums[];
  __shared__ int counts[8 * STEPS], wanted[256 * STEPS];
  const int own = blockIdx.x * BLOCK_ROWS, end = min(own + BLOCK_ROWS, ROWS);
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  for (int i = threadIdx.x; i < BLOCK_ROWS * COLUMNS; i += 256) sums[i] = 0.0f;
  u32 rows_found = 0;
  for (int first = 0; first < TOKENS; first += 256 * STEPS) {
    // Of a warp's 128 tokens, those of one step of 32 lie side by side.
    u32 found[STEPS];
    int row[STEPS];
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
      const int token = first + (warp * STEPS + s) * 32 + lane;
      row[s] = token < TOKENS ? index[token] : -1;
      found[s] = __ballot_sync(~0u, row[s] >= own && row[s] < end);
      if (lane == 0) counts[warp * STEPS + s] = __popc(found[s]);
    }
    if (!__syncthreads_or((int)(found[0] | found[1] | found[2] | found[3]))) continue;
    int before = lane < warp * STEPS ? counts[lane] : 0, all = counts[lane];
    before = __reduce_add_sync(~0u, before);
    all = __reduce_add_sync(~0u, all);
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
      const int token = first + (warp * STEPS + s) * 32 + lane;
      if (found[s] >> lane & 1) wanted[before + __popc(found[s] & ((1u << lane) - 1))] = token * BLOCK_ROWS + (row[s] - own);
      before += __popc(found[s]);
    }
    __syncthreads();
    for (int i = 0; i < all; i += AT_ONCE) {
      for (int column = threadIdx.x; column < COLUMNS; column += 256) {
        float v[AT_ONCE][1];
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++)
          if (i + j < all) read_x(1, v[j], (size_t)(wanted[i + j] / BLOCK_ROWS) * X_STRIDE + column);
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++)
          if (i + j < all) sums[wanted[i + j] % BLOCK_ROWS * COLUMNS + column] += v[j][0] * SCALE;
      }
    }
    for (int i = 0; i < all; i++) rows_found |= 1u << wanted[i] % BLOCK_ROWS;
    __syncthreads();
  }
  for (int row = own; row < end; row++) {
    if (ACCUMULATE && !(rows_found >> (row - own) & 1)) continue;
    for (int column = threadIdx.x; column < COLUMNS; column += 256) {
      float* const to = out + (size_t)row * COLUMNS + column;
      const float sum = sums[(row - own) * COLUMNS + column];
      *to = ACCUMULATE ? *to + sum : sum;
    }
  }
"#;
