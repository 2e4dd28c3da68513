//! The sums of the columns of a matrix.

use rabitc_rbx::SmArch;

use super::{Layout, builder, finish, input};
use crate::cuda::source::{CudaSpec, Source};

/// Sums chunks of rows; blocks go over [`COLUMNS`] columns (x) and chunks (y). The result is f32
/// `[chunks, columns]`; with several chunks it takes a second run over that.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnSum {
    /// The matrix.
    pub x: Layout,
    /// Rows of a chunk.
    pub chunk: usize,
}

/// Columns of a block.
pub const COLUMNS: usize = 32;

impl ColumnSum {
    /// Blocks of a launch.
    pub fn grid(&self) -> [u32; 3] {
        let columns = self.x.columns.div_ceil(COLUMNS) as u32;
        [columns, self.x.rows.div_ceil(self.chunk) as u32, 1]
    }
}

impl CudaSpec for ColumnSum {
    fn name(&self) -> String {
        format!("column_sum_{}_c{}", self.x.word(), self.chunk)
    }

    fn source(&self, arch: SmArch) -> Source {
        let b = builder(self.name(), arch, 256)
            .int("ROWS", self.x.rows)
            .int("COLUMNS", self.x.columns)
            .int("STRIDE", self.x.stride)
            .int("CHUNK", self.chunk);
        let b = input(b, "x", self.x.dtype).param("float", "out");
        finish(b, BODY)
    }
}

const BODY: &str = r#"
  __shared__ float parts[8][33];
  const int lane = threadIdx.x & 31, part = threadIdx.x >> 5, column = blockIdx.x * 32 + lane;
  const int first = blockIdx.y * CHUNK, end = min(ROWS, first + CHUNK);
  float sum = 0.0f;
  if (column < COLUMNS)
#pragma unroll 4
    for (int row = first + part; row < end; row += 8) {
      float v[1];
      read_x(1, v, (size_t)row * STRIDE + column);
      sum += v[0];
    }
  parts[part][lane] = sum;
  __syncthreads();
  if (part == 0 && column < COLUMNS) {
    for (int i = 1; i < 8; i++) sum += parts[i][lane];
    out[(size_t)blockIdx.y * COLUMNS + column] = sum;
  }
"#;
