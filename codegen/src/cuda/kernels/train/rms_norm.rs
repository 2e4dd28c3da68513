//! Root-mean-square normalisation of groups of channels.

use rabitc_ir::DType;
use rabitc_rbx::SmArch;

use super::{Layout, builder, finish, input, output};
use crate::cuda::source::{CudaSpec, REDUCTIONS, Source};

/// x / √(mean(x²) + eps) ⊙ w over each group; a warp or a block a group.
#[derive(Clone, Debug, PartialEq)]
pub struct RmsNorm {
    /// What is normalised.
    pub x: Layout,
    /// The weight's element type.
    pub weight: DType,
    /// The result.
    pub out: Layout,
    /// Channels of a group.
    pub group: usize,
    /// Added to the mean square.
    pub eps: f32,
    /// Multiply by 1 + w.
    pub unit_offset: bool,
}

/// Threads that share a group of so many channels.
pub(crate) fn lanes(group: usize) -> usize {
    if group <= 1024 { 32 } else { 256 }
}

/// The vector that groups of a matrix are read by.
pub(crate) fn vector(layouts: &[Layout], group: usize) -> usize {
    let mut vector = Layout::common(layouts).min(4);
    while !group.is_multiple_of(vector) {
        vector /= 2;
    }
    vector
}

impl RmsNorm {
    /// Blocks of a launch.
    pub fn blocks(&self) -> usize {
        let groups = self.x.rows * (self.x.columns / self.group);
        groups.div_ceil(256 / lanes(self.group))
    }
}

impl CudaSpec for RmsNorm {
    fn name(&self) -> String {
        format!(
            "train_rms_norm_{}_{}_{}_g{}_e{:08x}{}",
            self.x.word(),
            self.weight,
            self.out.word(),
            self.group,
            self.eps.to_bits(),
            if self.unit_offset { "_offset" } else { "" }
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        let b = builder(self.name(), arch, 256)
            .int("V", vector(&[self.x, self.out], self.group))
            .int("GROUP", self.group)
            .int("GROUPS", self.x.columns / self.group)
            .int("ALL", self.x.rows * (self.x.columns / self.group))
            .int("LANES", lanes(self.group))
            .int("X_STRIDE", self.x.stride)
            .int("OUT_STRIDE", self.out.stride)
            .float("EPS", self.eps)
            .float("OFFSET", if self.unit_offset { 1.0 } else { 0.0 })
            .helper(REDUCTIONS);
        let b = input(b, "x", self.x.dtype);
        let b = input(b, "weight", self.weight);
        finish(output(b, "out", self.out.dtype), BODY)
    }
}

const BODY: &str = r#"
  __shared__ float scratch[32];
  const int lane = threadIdx.x % LANES, group = blockIdx.x * (256 / LANES) + threadIdx.x / LANES;
  if (group >= ALL) return;
  const size_t from = (size_t)(group / GROUPS) * X_STRIDE + (group % GROUPS) * GROUP;
  const size_t to = (size_t)(group / GROUPS) * OUT_STRIDE + (group % GROUPS) * GROUP;
  float square = 0.0f;
  for (int i = lane * V; i < GROUP; i += LANES * V) {
    float v[V];
    read_x(V, v, from + i);
#pragma unroll
    for (int j = 0; j < V; j++) square += v[j] * v[j];
  }
  square = LANES == 32 ? warp_sum(square) : block_reduce<false>(square, scratch);
  const float scale = rsqrtf(square / GROUP + EPS);
  for (int i = lane * V; i < GROUP; i += LANES * V) {
    float v[V], w[1];
    read_x(V, v, from + i);
#pragma unroll
    for (int j = 0; j < V; j++) { read_weight(1, w, i + j); v[j] *= scale * (OFFSET + w[0]); }
    write_out(V, v, to + i);
  }
"#;
