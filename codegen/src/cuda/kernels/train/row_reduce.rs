//! From one pair of numbers a row to one number: the end of a loss.

use rabitc_rbx::SmArch;

use super::{builder, finish};
use crate::cuda::source::{CudaSpec, Source};

/// What becomes of the sums of the first numbers and of the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// The first, divided by the second, which counts as 1 if it is 0.
    Ratio,
    /// The second alone.
    Second,
}

/// Reduces `[rows, 2]`; one block.
#[derive(Clone, Debug, PartialEq)]
pub struct RowReduce {
    /// Rows.
    pub rows: usize,
    /// What is computed.
    pub reduce: Reduce,
}

impl CudaSpec for RowReduce {
    fn name(&self) -> String {
        let word = match self.reduce {
            Reduce::Ratio => "ratio",
            Reduce::Second => "second",
        };
        format!("row_reduce_{word}_{}", self.rows)
    }

    fn source(&self, arch: SmArch) -> Source {
        let b = builder(self.name(), arch, 1024)
            .int("ROWS", self.rows)
            .flag("RATIO", self.reduce == Reduce::Ratio)
            .param("const float2", "pairs")
            .param("float", "out");
        finish(b, BODY)
    }
}

const BODY: &str = r#"
  __shared__ double first[1024], second[1024];
  double a = 0.0, b = 0.0;
  for (int row = threadIdx.x; row < ROWS; row += 1024) { a += pairs[row].x; b += pairs[row].y; }
  first[threadIdx.x] = a;
  second[threadIdx.x] = b;
  for (int half = 512; half; half >>= 1) {
    __syncthreads();
    if (threadIdx.x < half) {
      first[threadIdx.x] += first[threadIdx.x + half];
      second[threadIdx.x] += second[threadIdx.x + half];
    }
  }
  if (threadIdx.x == 0) {
    if (RATIO) out[0] = (float)(first[0] / (second[0] == 0.0 ? 1.0 : second[0]));
    else out[0] = (float)second[0];
  }
"#;
