//! The weight of a residual-binary layer, its cores derived on the way.

use rabitc_ir::DType;
use rabitc_ir::ops::effective_weight::Derive;
use rabitc_rbx::SmArch;

use super::{Layout, builder, finish, input, output};
use crate::cuda::source::{Builder, CudaSpec, Source};

/// What the kernels that derive cores have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cores {
    /// Binary paths.
    pub paths: usize,
    /// The latent weights `[d_out, d_in]`: one, or one a path.
    pub latent: Layout,
    /// Where the cores come from.
    pub derive: Derive,
}

impl Cores {
    /// Number of latent weights.
    pub fn latents(&self) -> usize {
        match self.derive {
            Derive::Residual => 1,
            Derive::Independent => self.paths,
        }
    }

    pub(super) fn word(&self) -> String {
        let derive = match self.derive {
            Derive::Residual => "residual",
            Derive::Independent => "independent",
        };
        format!("{derive}_k{}_{}", self.paths, self.latent.word())
    }

    /// Parameters g, h and the latent weights, and `READ_LATENTS`, which reads `w`.
    pub(super) fn params(&self, mut b: Builder) -> Builder {
        b = b
            .int("PATHS", self.paths)
            .int("LATENTS", self.latents())
            .int("D_OUT", self.latent.rows)
            .int("D_IN", self.latent.columns)
            .int("STRIDE", self.latent.stride)
            .flag("RESIDUAL", self.derive == Derive::Residual)
            .param("const float", "g")
            .param("const float", "h");
        let mut reads = String::from("#define READ_LATENTS(at)");
        for i in 0..self.latents() {
            b = input(b, &format!("latent{i}"), self.latent.dtype);
            reads.push_str(&format!(" read_latent{i}(V, w[{i}], at);"));
        }
        b.helper(&format!("{reads}\n")).helper(SIGN)
    }
}

/// The sign of path `i` at one place, and what it leaves to those after it: the arithmetic of
/// `derive_signs` of the IR, to the bit.
const SIGN: &str = r#"
__device__ __forceinline__ bool derive_sign(float& residual, float g, float h) {
  const bool positive = residual >= 0.0f;
  const float step = __fmul_rn(g, h);
  residual = __fsub_rn(residual, positive ? step : -step);
  return positive;
}
"#;

/// Ŵ = Σ_i g_i ⊙ B_i ⊙ h_i; a thread some elements of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct EffectiveWeight {
    /// The cores.
    pub cores: Cores,
    /// The result.
    pub out: Layout,
}

impl EffectiveWeight {
    fn vector(&self) -> usize {
        Layout::common(&[self.cores.latent, self.out])
    }

    /// Blocks of a launch.
    pub fn blocks(&self) -> usize {
        (self.out.rows * (self.out.columns / self.vector())).div_ceil(256)
    }
}

impl CudaSpec for EffectiveWeight {
    fn name(&self) -> String {
        format!("effective_weight_{}_{}", self.cores.word(), self.out.word())
    }

    fn source(&self, arch: SmArch) -> Source {
        let b = builder(self.name(), arch, 256)
            .int("V", self.vector())
            .int("OUT_STRIDE", self.out.stride);
        let b = self.cores.params(b);
        debug_assert!(matches!(self.out.dtype, DType::F32 | DType::BF16));
        finish(output(b, "out", self.out.dtype), BODY)
    }
}

const BODY: &str = r#"
  constexpr int GROUPS = D_IN / V;
  const size_t group = (size_t)blockIdx.x * 256 + threadIdx.x;
  if (group >= (size_t)D_OUT * GROUPS) return;
  const size_t row = group / GROUPS;
  const int column = (int)(group % GROUPS) * V;
  float w[LATENTS][V], sum[V];
  READ_LATENTS(row * STRIDE + column)
#pragma unroll
  for (int j = 0; j < V; j++) sum[j] = 0.0f;
#pragma unroll
  for (int path = 0; path < PATHS; path++) {
    const float scale = g[path * D_OUT + row];
#pragma unroll
    for (int j = 0; j < V; j++) {
      const float channel = h[path * D_IN + column + j];
      const bool positive = derive_sign(w[RESIDUAL ? 0 : path][j], scale, channel);
      const float step = scale * channel;
      sum[j] += positive ? step : -step;
    }
  }
  write_out(V, sum, row * OUT_STRIDE + column);
"#;
