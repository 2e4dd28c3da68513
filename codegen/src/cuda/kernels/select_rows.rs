//! Rows by index.

use rabitc_rbx::SmArch;

use crate::cuda::source::{Builder, CudaSpec, Source};

/// out[r] = x[rows[r]]; a block is a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectRows {
    /// Columns.
    pub d: usize,
    /// f32 elements from one row of x to the next.
    pub x_stride: usize,
}

impl CudaSpec for SelectRows {
    fn name(&self) -> String {
        format!("select_rows_{}_x{}", self.d, self.x_stride)
    }

    fn source(&self, arch: SmArch) -> Source {
        Builder::new(self.name(), arch, 256)
            .int("D", self.d)
            .int("X_STRIDE", self.x_stride)
            .param("const float", "x")
            .param("const int", "rows")
            .param("float", "out")
            .body(BODY)
    }
}

const BODY: &str = r#"
  allow_next();
  wait_for_previous();
  const float* from = x + (size_t)rows[blockIdx.x] * X_STRIDE;
  for (int i = threadIdx.x; i < D; i += blockDim.x) out[(size_t)blockIdx.x * D + i] = from[i];
"#;
