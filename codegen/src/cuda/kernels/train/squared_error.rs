//! The squared distance of two matrices, and its gradient.

use rabitc_ir::ops::squared_error::Normalize;
use rabitc_rbx::SmArch;

use super::{Layout, builder, finish, input, output};
use crate::cuda::source::{CudaSpec, REDUCTIONS, Source};

/// A warp a row. As the loss: two numbers, f32 `[rows, 2]`, the sums of which over all rows have the
/// loss as their ratio. As the gradient: 2 dloss (x − target) / divisor.
#[derive(Clone, Debug, PartialEq)]
pub struct SquaredError {
    /// One matrix.
    pub x: Layout,
    /// The other.
    pub target: Layout,
    /// What is divided by. With `Target`, a gradient has the energy of the target as a parameter.
    pub normalize: Normalize,
    /// Whether the loss is asked for.
    pub loss: bool,
    /// The gradient with respect to x, if it is asked for.
    pub gradient: Option<Layout>,
}

/// The number of a way to normalise, as the kernels know it.
fn code(normalize: Normalize) -> usize {
    match normalize {
        Normalize::Elements => 0,
        Normalize::Target => 1,
        Normalize::Rows => 2,
    }
}

impl SquaredError {
    /// Blocks of a launch.
    pub fn blocks(&self) -> usize {
        self.x.rows.div_ceil(8)
    }
}

impl CudaSpec for SquaredError {
    fn name(&self) -> String {
        let (x, target) = (self.x.word(), self.target.word());
        let gradient = self.gradient.map(|g| format!("_d{}", g.word()));
        format!(
            "squared_error_{x}_{target}_n{}{}{}",
            code(self.normalize),
            if self.loss { "" } else { "_no_loss" },
            gradient.unwrap_or_default()
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        let out = self.gradient.unwrap_or(self.x);
        let b = builder(self.name(), arch, 256)
            .int("V", Layout::common(&[self.x, self.target, out]).min(4))
            .int("ROWS", self.x.rows)
            .int("COLUMNS", self.x.columns)
            .int("X_STRIDE", self.x.stride)
            .int("TARGET_STRIDE", self.target.stride)
            .int("OUT_STRIDE", out.stride)
            .int("NORMALIZE", code(self.normalize))
            .flag("LOSS", self.loss)
            .helper(REDUCTIONS);
        let mut b = input(input(b, "x", self.x.dtype), "target", self.target.dtype);
        let mut body = BODY.to_string();
        if let Some(gradient) = self.gradient {
            let total = self.normalize == Normalize::Target;
            b = output(b.param("const float", "dloss"), "out", gradient.dtype);
            b = b.param_if(total, "const float", "total");
            body.push_str(GRADIENT);
        }
        finish(b.param_if(self.loss, "float2", "pairs"), &body)
    }
}

const BODY: &str = r#"
  const int row = blockIdx.x * 8 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
  if (row >= ROWS) return;
  const size_t x_row = (size_t)row * X_STRIDE, target_row = (size_t)row * TARGET_STRIDE;
  float distance = 0.0f, energy = 0.0f;
  if (LOSS || NORMALIZE == 2)
    for (int i = lane * V; i < COLUMNS; i += 32 * V) {
      float a[V], b[V];
      read_x(V, a, x_row + i);
      read_target(V, b, target_row + i);
#pragma unroll
      for (int j = 0; j < V; j++) { distance += (a[j] - b[j]) * (a[j] - b[j]); energy += b[j] * b[j]; }
    }
  distance = warp_sum(distance);
  energy = warp_sum(energy);
  if (LOSS && lane == 0) {
    if (NORMALIZE == 0) pairs[row] = make_float2(distance, COLUMNS);
    else if (NORMALIZE == 1) pairs[row] = make_float2(distance, energy);
    else pairs[row] = make_float2(distance / (energy == 0.0f ? 1.0f / ROWS : energy), 1.0f);
  }
"#;

const GRADIENT: &str = r#"
  const float divisor = NORMALIZE == 0 ? (float)ROWS * COLUMNS : NORMALIZE == 1 ? total[0] : energy * ROWS;
  const float factor = 2.0f * dloss[0] / (divisor == 0.0f ? 1.0f : divisor);
  for (int i = lane * V; i < COLUMNS; i += 32 * V) {
    float a[V], b[V];
    read_x(V, a, x_row + i);
    read_target(V, b, target_row + i);
#pragma unroll
    for (int j = 0; j < V; j++) a[j] = factor * (a[j] - b[j]);
    write_out(V, a, (size_t)row * OUT_STRIDE + i);
  }
"#;
