//! The gradients of a norm: of its input, and of its weight.

use rabitc_ir::DType;
use rabitc_rbx::SmArch;

use super::rms_norm::{lanes, vector};
use super::{Layout, builder, finish, input, output};
use crate::cuda::source::{CudaSpec, REDUCTIONS, Source};

/// Blocks walk over the groups; each leaves its part of the weight's gradient, f32
/// `[blocks, group]`.
#[derive(Clone, Debug, PartialEq)]
pub struct RmsNormGrad {
    /// The norm's input.
    pub x: Layout,
    /// The gradient of its result.
    pub dy: Layout,
    /// The weight's element type, and the gradient of the input, if it is asked for.
    pub dx: Option<(DType, Layout)>,
    /// Whether the gradient of the weight is asked for.
    pub dweight: bool,
    /// Channels of a group.
    pub group: usize,
    /// Added to the mean square.
    pub eps: f32,
    /// Whether the norm multiplies by 1 + w.
    pub unit_offset: bool,
}

/// Blocks at most: each leaves a row to be summed.
const BLOCKS: usize = 528;

impl RmsNormGrad {
    /// Blocks of a launch.
    pub fn blocks(&self) -> usize {
        let groups = self.x.rows * (self.x.columns / self.group);
        groups.div_ceil(256 / lanes(self.group)).min(BLOCKS)
    }
}

impl CudaSpec for RmsNormGrad {
    fn name(&self) -> String {
        let dx = self
            .dx
            .map(|(weight, dx)| format!("_{weight}_{}", dx.word()));
        format!(
            "train_rms_norm_grad_{}_{}{}{}_g{}_e{:08x}{}",
            self.x.word(),
            self.dy.word(),
            dx.unwrap_or_default(),
            if self.dweight { "_dweight" } else { "" },
            self.group,
            self.eps.to_bits(),
            if self.unit_offset { "_offset" } else { "" }
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        let (weight, dx) = self.dx.unwrap_or((DType::F32, self.x));
        let vector = vector(&[self.x, self.dy, dx], self.group);
        let lanes = lanes(self.group);
        let b = builder(self.name(), arch, 256)
            .int("V", vector)
            .int("GROUP", self.group)
            .int("GROUPS", self.x.columns / self.group)
            .int("ALL", self.x.rows * (self.x.columns / self.group))
            .int("LANES", lanes)
            .int("PIECES", self.group.div_ceil(lanes * vector))
            .int("X_STRIDE", self.x.stride)
            .int("DY_STRIDE", self.dy.stride)
            .int("DX_STRIDE", dx.stride)
            .float("EPS", self.eps)
            .float("OFFSET", if self.unit_offset { 1.0 } else { 0.0 })
            .flag("DX", self.dx.is_some())
            .flag("DWEIGHT", self.dweight)
            .helper(REDUCTIONS);
        let mut b = input(input(b, "x", self.x.dtype), "dy", self.dy.dtype);
        if self.dx.is_some() {
            b = output(input(b, "weight", weight), "dx", dx.dtype);
        }
        let b = b.param_if(self.dweight, "float", "parts");
        let shared = if self.dweight { self.group * 4 } else { 0 };
        let body = match self.dx {
            Some(_) => BODY.replace("$PULL", PULL).replace("$DX", WRITE),
            None => BODY.replace("$PULL", "").replace("$DX", ""),
        };
        finish(b.shared(shared), &body)
    }
}

const PULL: &str = "
        float w[1];
        read_weight(1, w, i + j);
        pull[p][j] = d[j] * (OFFSET + w[0]);
        product += v[j] * pull[p][j];";

const WRITE: &str = "
      if (DX) {
        float out[V];
#pragma unroll
        for (int j = 0; j < V; j++) out[j] = scale * (pull[p][j] - xs[p][j] * shrink);
        write_dx(V, out, to + i);
      }";

const BODY: &str = r#"
  __shared__ float scratch[32];
  extern __shared__ __align__(16) float total[];
  const int lane = threadIdx.x % LANES, part = threadIdx.x / LANES;
  float sums[PIECES][V];
#pragma unroll
  for (int p = 0; p < PIECES; p++)
#pragma unroll
    for (int j = 0; j < V; j++) sums[p][j] = 0.0f;
  for (int first = blockIdx.x * (256 / LANES); first < ALL; first += gridDim.x * (256 / LANES)) {
    const int group = min(first + part, ALL - 1);
    const bool own = first + part < ALL;
    const size_t row = group / GROUPS, at = (group % GROUPS) * GROUP;
    const size_t from = row * X_STRIDE + at, by = row * DY_STRIDE + at, to = row * DX_STRIDE + at;
    float xs[PIECES][V], pull[PIECES][V], square = 0.0f, product = 0.0f;
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
      const int i = (p * LANES + lane) * V;
      if (i >= GROUP) continue;
      float v[V], d[V];
      read_x(V, v, from + i);
      read_dy(V, d, by + i);
#pragma unroll
      for (int j = 0; j < V; j++) {
        xs[p][j] = v[j];
        square += v[j] * v[j];$PULL
      }
    }
    if (LANES == 32) { square = warp_sum(square); product = warp_sum(product); }
    else { square = block_reduce<false>(square, scratch); product = block_reduce<false>(product, scratch); }
    const float scale = rsqrtf(square / GROUP + EPS), shrink = product / GROUP * scale * scale;
    if (!own) continue;
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
      const int i = (p * LANES + lane) * V;
      if (i >= GROUP) continue;
      if (DWEIGHT) {
        float d[V];
        read_dy(V, d, by + i);
#pragma unroll
        for (int j = 0; j < V; j++) sums[p][j] += d[j] * xs[p][j] * scale;
      }$DX
    }
  }
  if (!DWEIGHT) return;
  for (int i = threadIdx.x; i < GROUP; i += 256) total[i] = 0.0f;
  for (int turn = 0; turn < 256 / LANES; turn++) {
    __syncthreads();
    if (part == turn)
#pragma unroll
      for (int p = 0; p < PIECES; p++) {
        const int i = (p * LANES + lane) * V;
        if (i < GROUP)
#pragma unroll
          for (int j = 0; j < V; j++) total[i + j] += sums[p][j];
      }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < GROUP; i += 256) parts[(size_t)blockIdx.x * GROUP + i] = total[i];
"#;
