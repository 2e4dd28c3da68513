//! The input of the residual-binary product of many tokens: after its prologue, in f16.

use rabitc_ir::ops::gate::Activation;
use rabitc_rbx::SmArch;

use crate::cuda::layout::TILE_INPUTS;
use crate::cuda::source::{ACTIVATIONS, Builder, CudaSpec, REDUCTIONS, Source};

/// What is done to x first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Before {
    /// Nothing.
    Nothing,
    /// An RMSNorm with this eps; its weight is part of h.
    Norm(f32),
    /// act(x) ⊙ up, whose tokens are so many f32 apart.
    Gate(Activation, usize),
}

/// Writes x of a token as f16, divided by its largest element, and that factor; a block is a token.
///
/// Inputs are ordered as a warp of the product reads them: within 256, 8 bytes for each j of 0..16
/// and t of 0..4, which hold inputs 32·t + j, 32·t + j + 16, 128 + 32·t + j, 128 + 32·t + j + 16.
#[derive(Clone, Debug, PartialEq)]
pub struct RbPrepare {
    /// Inputs.
    pub d_in: usize,
    /// f32 elements from one token of x to the next.
    pub x_stride: usize,
    /// What is done first.
    pub before: Before,
}

impl RbPrepare {
    /// f16 elements of a token.
    pub fn padded(&self) -> usize {
        self.d_in.next_multiple_of(TILE_INPUTS)
    }
}

impl CudaSpec for RbPrepare {
    fn name(&self) -> String {
        let before = match self.before {
            Before::Nothing => String::new(),
            Before::Norm(eps) => format!("_norm{:08x}", eps.to_bits()),
            Before::Gate(act, stride) => format!("_{}_u{stride}", act.name()),
        };
        format!("rb_prepare_{}_x{}{before}", self.d_in, self.x_stride)
    }

    fn source(&self, arch: SmArch) -> Source {
        let (eps, gate) = match self.before {
            Before::Norm(eps) => (Some(eps), None),
            Before::Gate(act, stride) => (None, Some((act, stride))),
            Before::Nothing => (None, None),
        };
        let act = gate.map_or("silu", |(act, _)| act.name());
        Builder::new(self.name(), arch, 256)
            .shared(self.padded() * 4)
            .int("D_IN", self.d_in)
            .int("PADDED", self.padded())
            .int("X_STRIDE", self.x_stride)
            .int("UP_STRIDE", gate.map_or(0, |(_, stride)| stride))
            .flag("NORM", eps.is_some())
            .flag("GATE", gate.is_some())
            .float("EPS", eps.unwrap_or(0.0))
            .helper(ACTIVATIONS)
            .helper(REDUCTIONS)
            .param("const float", "x")
            .param_if(gate.is_some(), "const float", "up")
            .param("u16", "halves")
            .param("float", "factor")
            .body(&BODY.replace("$ACT", act))
    }
}

const BODY: &str = r#"
  extern __shared__ float values[];
  __shared__ float scratch[32];
  allow_next();
  wait_for_previous();
  const size_t token = blockIdx.x;
  float square = 0.0f, most = 0.0f;
  for (int i = threadIdx.x; i < PADDED; i += blockDim.x) {
    float v = 0.0f;
    if (i < D_IN) {
      v = x[token * X_STRIDE + i];
      if (GATE) v = $ACT(v) * up[token * UP_STRIDE + i];
    }
    values[i] = v;
    square = fmaf(v, v, square);
    most = fmaxf(most, fabsf(v));
  }
  most = block_reduce<true>(most, scratch);
  float rms = 1.0f;
  if (NORM) rms = rsqrtf(block_reduce<false>(square, scratch) / D_IN + EPS);
  const float inverse = most > 0.0f ? 1.0f / most : 0.0f;
  if (threadIdx.x == 0) factor[token] = most * rms;
  __syncthreads();
  for (int i = threadIdx.x; i < PADDED; i += blockDim.x) {
    const int in_chunk = i & 255, j = in_chunk >> 4, t = (in_chunk >> 2) & 3, part = in_chunk & 3;
    const int from = (i & ~255) + (part >> 1) * 128 + t * 32 + (part & 1) * 16 + j;
    halves[token * PADDED + i] = f32_to_f16(values[from] * inverse);
  }
"#;
