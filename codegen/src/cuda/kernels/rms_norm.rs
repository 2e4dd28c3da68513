//! RMSNorm over whole rows or over groups of channels.

use rabitc_rbx::SmArch;

use crate::cuda::source::{Builder, CudaSpec, REDUCTIONS, Source};
use crate::kernels::Float;

/// x / √(mean(x²) + eps) ⊙ w for each group of channels; a block is a row (x) and group (y).
#[derive(Clone, Debug, PartialEq)]
pub struct RmsNorm {
    /// Channels of a row.
    pub d: usize,
    /// Channels of a group; divides `d`.
    pub group: usize,
    /// f32 elements from one row of x to the next.
    pub x_stride: usize,
    /// Form of w.
    pub weight: Float,
    /// Added to the mean square.
    pub eps: f32,
    /// Multiply by 1 + w.
    pub unit_offset: bool,
    /// Whether another tensor is added to the result.
    pub residual: Option<usize>,
}

impl CudaSpec for RmsNorm {
    fn name(&self) -> String {
        let offset = if self.unit_offset { "_unit" } else { "" };
        let residual = self.residual.map_or(String::new(), |s| format!("_r{s}"));
        format!(
            "rms_norm_{}_g{}_x{}_{}_e{:08x}{offset}{residual}",
            self.d,
            self.group,
            self.x_stride,
            self.weight.name(),
            self.eps.to_bits()
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        let threads = self.group.next_multiple_of(32).clamp(32, 512) as u32;
        Builder::new(self.name(), arch, threads)
            .int("D", self.d)
            .int("GROUP", self.group)
            .int("X_STRIDE", self.x_stride)
            .int("R_STRIDE", self.residual.unwrap_or(0))
            .flag("RESIDUAL", self.residual.is_some())
            .float("EPS", self.eps)
            .float("OFFSET", if self.unit_offset { 1.0 } else { 0.0 })
            .loader("load_weight", self.weight)
            .helper(REDUCTIONS)
            .param("const float", "x")
            .param("const void", "weight")
            .param_if(self.residual.is_some(), "const float", "residual")
            .param("float", "out")
            .body(BODY)
    }
}

const BODY: &str = r#"
  __shared__ float scratch[32];
  allow_next();
  wait_for_previous();
  const int column = blockIdx.y * GROUP;
  const float* from = x + (size_t)blockIdx.x * X_STRIDE + column;
  float* to = out + (size_t)blockIdx.x * D + column;
  float square = 0.0f;
  for (int i = threadIdx.x; i < GROUP; i += blockDim.x) square = fmaf(from[i], from[i], square);
  const float inverse = rsqrtf(block_reduce<false>(square, scratch) / GROUP + EPS);
  for (int i = threadIdx.x; i < GROUP; i += blockDim.x) {
    float v = from[i] * inverse * (OFFSET + load_weight(weight, i));
    if (RESIDUAL) v += residual[(size_t)blockIdx.x * R_STRIDE + column + i];
    to[i] = v;
  }
"#;
