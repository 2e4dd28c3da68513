//! The gradients of a norm: of its input, and of its weight.

use rabitc_ir::DType;
use rabitc_rbx::SmArch;

use super::map::MapKernel;
use super::rms_norm::{indented, lanes, pieces, vector};
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
    /// A map whose first operand is the gradient of the input, which is not stored then.
    pub map: Option<MapKernel>,
}

/// Blocks at most: each leaves a row to be summed.
const BLOCKS: usize = 528;

impl RmsNormGrad {
    /// Blocks of a launch.
    pub fn blocks(&self) -> usize {
        let groups = self.x.rows * (self.x.columns / self.group);
        groups.div_ceil(256 / lanes(self.group)).min(BLOCKS)
    }

    fn vector(&self) -> usize {
        let dx = self.dx.map_or(self.x, |(_, dx)| dx);
        match &self.map {
            Some(map) => vector(&[self.x, self.dy], self.group).min(map.vector()),
            None => vector(&[self.x, self.dy, dx], self.group),
        }
    }
}

impl CudaSpec for RmsNormGrad {
    fn name(&self) -> String {
        let dx = self
            .dx
            .map(|(weight, dx)| format!("_{weight}_{}", dx.word()));
        let map = self.map.as_ref().map(|map| format!("_in_{}", map.word()));
        format!(
            "train_rms_norm_grad_{}_{}{}{}_g{}_e{:08x}{}{}",
            self.x.word(),
            self.dy.word(),
            dx.unwrap_or_default(),
            if self.dweight { "_dweight" } else { "" },
            self.group,
            self.eps.to_bits(),
            if self.unit_offset { "_offset" } else { "" },
            map.unwrap_or_default()
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        let (weight, dx) = self.dx.unwrap_or((DType::F32, self.x));
        let b = pieces(builder(self.name(), arch, 256), self.group, self.vector())
            .int("GROUPS", self.x.columns / self.group)
            .int("ALL", self.x.rows * (self.x.columns / self.group))
            .int("X_STRIDE", self.x.stride)
            .int("DY_STRIDE", self.dy.stride)
            .int("DX_STRIDE", dx.stride)
            .float("EPS", self.eps)
            .float("OFFSET", if self.unit_offset { 1.0 } else { 0.0 })
            .flag("DWEIGHT", self.dweight)
            .helper(REDUCTIONS);
        let mut b = input(input(b, "x", self.x.dtype), "dy", self.dy.dtype);
        if self.dx.is_some() {
            b = input(b, "weight", weight);
        }
        b = match (&self.map, self.dx) {
            (Some(map), _) => map.declare(b, 1),
            (None, Some(_)) => output(b, "dx", dx.dtype),
            (None, None) => b,
        };
        let b = b.param_if(self.dweight, "float", "parts");
        let shared = if self.dweight { self.group * 4 } else { 0 };
        let body = match self.dx {
            Some(_) => BODY
                .replace("$WEIGHT", WEIGHT)
                .replace("$AHEAD", &self.ahead())
                .replace("$PULL", PULL)
                .replace("$DX", &self.write()),
            None => BODY
                .replace("$WEIGHT", "")
                .replace("$PULL", "")
                .replace("$DX", ""),
        };
        finish(b.shared(shared), &body)
    }
}

const WEIGHT: &str = "
      float w[V];
      read_weight(V, w, i);$AHEAD";

const PULL: &str = "
        pull[p][j] = d[j] * (OFFSET + w[j]);
        product += v[j] * pull[p][j];";

const GRADIENT: &str = "
      float dx_here[V];
#pragma unroll
      for (int j = 0; j < V; j++) dx_here[j] = scale * (pull[p][j] - xs[p][j] * shrink);
";

const WRITE: &str = "      write_dx(V, dx_here, to + i);";

impl RmsNormGrad {
    /// What else the map reads is asked for before the sums are waited for.
    fn ahead(&self) -> String {
        let Some(map) = &self.map else {
            return String::new();
        };
        let place = "    const int column = (int)at + i;\n";
        let statements = indented(&(place.to_string() + &map.prefetches(1)));
        format!("\n{statements}")
    }

    /// What becomes of the gradient of the input.
    fn write(&self) -> String {
        let write = match &self.map {
            None => WRITE.to_string(),
            Some(map) => {
                let statements = map.statements(Some("dx_here"));
                let place = "    const int column = (int)at + i;\n";
                indented(&(place.to_string() + &statements))
            }
        };
        format!("{GRADIENT}{}", write.trim_end())
    }
}

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
      read_dy(V, d, by + i);$WEIGHT
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
