//! The sum of the squares of a vector.

use rabitc_rbx::SmArch;

use super::{builder, finish};
use crate::cuda::source::{CudaSpec, Source};

/// [`BLOCKS`] blocks walk over the vector; each leaves its sum in f64. Parameters: the vector, f32
/// with a length that is a multiple of 4; that length divided by 4, u64; the sums.
#[derive(Clone, Debug, PartialEq)]
pub struct SquareNorm;

/// Blocks of a launch.
pub const BLOCKS: usize = 1056;

impl CudaSpec for SquareNorm {
    fn name(&self) -> String {
        "square_norm".into()
    }

    fn source(&self, arch: SmArch) -> Source {
        let b = builder(self.name(), arch, 256)
            .param("const float4", "x")
            .param("const u64", "quads")
            .param("double", "sums");
        finish(b, BODY)
    }
}

const BODY: &str = r#"
  __shared__ double parts[256];
  double sum = 0.0;
  for (size_t i = (size_t)blockIdx.x * 256 + threadIdx.x; i < *quads; i += (size_t)gridDim.x * 256) {
    const float4 v = x[i];
    sum += (double)(v.x * v.x + v.y * v.y) + (double)(v.z * v.z + v.w * v.w);
  }
  parts[threadIdx.x] = sum;
  for (int half = 128; half; half >>= 1) {
    __syncthreads();
    if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
  }
  if (threadIdx.x == 0) sums[blockIdx.x] = parts[0];
"#;
