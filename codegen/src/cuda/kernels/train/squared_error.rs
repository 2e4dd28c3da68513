//! The squared distance of two matrices, and its gradient.

use rabitc_ir::ops::squared_error::Normalize;
use rabitc_rbx::SmArch;

use super::{Layout, builder, finish, input, output};
use crate::cuda::source::{CudaSpec, REDUCTIONS, Source};

/// A warp a row: two numbers, f32 `[rows, 2]`, the sums of which over all rows have the loss as
/// their ratio.
#[derive(Clone, Debug, PartialEq)]
pub struct SquaredError {
    /// One matrix.
    pub x: Layout,
    /// The other.
    pub target: Layout,
    /// What is divided by.
    pub normalize: Normalize,
}

/// The number of a way to normalise, as the kernels know it.
fn code(normalize: Normalize) -> usize {
    match normalize {
        Normalize::Elements => 0,
        Normalize::Target => 1,
        Normalize::Rows => 2,
    }
}

impl CudaSpec for SquaredError {
    fn name(&self) -> String {
        let (x, target) = (self.x.word(), self.target.word());
        format!("squared_error_{x}_{target}_n{}", code(self.normalize))
    }

    fn source(&self, arch: SmArch) -> Source {
        let b = builder(self.name(), arch, 256)
            .int("V", Layout::common(&[self.x, self.target]).min(4))
            .int("ROWS", self.x.rows)
            .int("COLUMNS", self.x.columns)
            .int("X_STRIDE", self.x.stride)
            .int("TARGET_STRIDE", self.target.stride)
            .int("NORMALIZE", code(self.normalize))
            .helper(REDUCTIONS);
        let b = input(input(b, "x", self.x.dtype), "target", self.target.dtype);
        finish(b.param("float2", "pairs"), BODY)
    }
}

const BODY: &str = r#"
  const int row = blockIdx.x * 8 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
  if (row >= ROWS) return;
  float distance = 0.0f, energy = 0.0f;
  for (int i = lane * V; i < COLUMNS; i += 32 * V) {
    float a[V], b[V];
    read_x(V, a, (size_t)row * X_STRIDE + i);
    read_target(V, b, (size_t)row * TARGET_STRIDE + i);
#pragma unroll
    for (int j = 0; j < V; j++) { distance += (a[j] - b[j]) * (a[j] - b[j]); energy += b[j] * b[j]; }
  }
  distance = warp_sum(distance);
  energy = warp_sum(energy);
  if (lane == 0) {
    if (NORMALIZE == 0) pairs[row] = make_float2(distance, COLUMNS);
    else if (NORMALIZE == 1) pairs[row] = make_float2(distance, energy);
    else pairs[row] = make_float2(distance / (energy == 0.0f ? 1.0f / ROWS : energy), 1.0f);
  }
"#;

/// A warp a row: 2 dloss (x − target) / divisor.
#[derive(Clone, Debug, PartialEq)]
pub struct SquaredErrorGrad {
    /// One matrix.
    pub x: Layout,
    /// The other.
    pub target: Layout,
    /// The gradient with respect to the first.
    pub out: Layout,
    /// What is divided by. With `Target`, its energy is a parameter.
    pub normalize: Normalize,
}

impl CudaSpec for SquaredErrorGrad {
    fn name(&self) -> String {
        let words = Layout::words(&[self.x, self.target, self.out]);
        format!("squared_error_grad_{words}_n{}", code(self.normalize))
    }

    fn source(&self, arch: SmArch) -> Source {
        let b = builder(self.name(), arch, 256)
            .int("V", Layout::common(&[self.x, self.target, self.out]).min(4))
            .int("ROWS", self.x.rows)
            .int("COLUMNS", self.x.columns)
            .int("X_STRIDE", self.x.stride)
            .int("TARGET_STRIDE", self.target.stride)
            .int("OUT_STRIDE", self.out.stride)
            .int("NORMALIZE", code(self.normalize))
            .helper(REDUCTIONS);
        let b = input(input(b, "x", self.x.dtype), "target", self.target.dtype);
        let b = output(b.param("const float", "dloss"), "out", self.out.dtype);
        let total = self.normalize == Normalize::Target;
        finish(b.param_if(total, "const float", "total"), GRADIENT)
    }
}

const GRADIENT: &str = r#"
  const int row = blockIdx.x * 8 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
  if (row >= ROWS) return;
  float divisor = (float)ROWS * COLUMNS;
  if (NORMALIZE == 1) divisor = total[0];
  if (NORMALIZE == 2) {
    float energy = 0.0f;
    for (int i = lane * V; i < COLUMNS; i += 32 * V) {
      float b[V];
      read_target(V, b, (size_t)row * TARGET_STRIDE + i);
#pragma unroll
      for (int j = 0; j < V; j++) energy += b[j] * b[j];
    }
    divisor = warp_sum(energy) * ROWS;
  }
  const float factor = 2.0f * dloss[0] / (divisor == 0.0f ? 1.0f : divisor);
  for (int i = lane * V; i < COLUMNS; i += 32 * V) {
    float a[V], b[V];
    read_x(V, a, (size_t)row * X_STRIDE + i);
    read_target(V, b, (size_t)row * TARGET_STRIDE + i);
#pragma unroll
    for (int j = 0; j < V; j++) a[j] = factor * (a[j] - b[j]);
    write_out(V, a, (size_t)row * OUT_STRIDE + i);
  }
"#;
