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

/// How the result lies in memory. The inputs of a token are in the order of the instructions that
/// read them, [`super::effective_weight::input_place`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Token after token; a lane finds its four inputs of an instruction together: `[step][lane][half][pair]`.
    Tokens,
    /// Units of so many tokens by [`UNIT_INPUTS`] inputs, `[unit of tokens][unit of inputs]`, that
    /// are copied to shared memory as they are. A unit is a row of 128 bytes a token, 16 inputs
    /// `[half][lane][pair]` an instruction; the 16-byte pieces of row r are swizzled, piece c at
    /// c ^ (r % 8).
    Units(usize),
}

/// Inputs of a unit: those of four instructions.
pub const UNIT_INPUTS: usize = 64;

/// Writes x of a token as f16, divided by its largest element, and that factor; a block is a token.
#[derive(Clone, Debug, PartialEq)]
pub struct RbPrepare {
    /// Inputs.
    pub d_in: usize,
    /// f32 elements from one token of x to the next.
    pub x_stride: usize,
    /// Whether four inputs of x may be loaded at once.
    pub x_aligned: bool,
    /// What is done first.
    pub before: Before,
    /// How the result is ordered.
    pub order: Order,
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
        let order = match self.order {
            Order::Tokens => String::new(),
            Order::Units(tokens) => format!("_units{tokens}"),
        };
        let aligned = if self.x_aligned { "v" } else { "" };
        format!(
            "rb_prepare_{}_x{}{aligned}{before}{order}",
            self.d_in, self.x_stride
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        let (eps, gate) = match self.before {
            Before::Norm(eps) => (Some(eps), None),
            Before::Gate(act, stride) => (None, Some((act, stride))),
            Before::Nothing => (None, None),
        };
        let unit_tokens = match self.order {
            Order::Tokens => None,
            Order::Units(tokens) => Some(tokens),
        };
        let act = gate.map_or("silu", |(act, _)| act.name());
        Builder::new(self.name(), arch, 256)
            .shared(self.padded() * 4)
            .int("D_IN", self.d_in)
            .int("PADDED", self.padded())
            .int("X_STRIDE", self.x_stride)
            .int("UP_STRIDE", gate.map_or(0, |(_, stride)| stride))
            .int("WIDE", if self.x_aligned { 4 } else { 1 })
            .flag("NORM", eps.is_some())
            .flag("GATE", gate.is_some())
            .flag("UNITS", unit_tokens.is_some())
            .int("UNIT_TOKENS", unit_tokens.unwrap_or(1))
            .int("UNIT_INPUTS", UNIT_INPUTS)
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
  for (int i = threadIdx.x * WIDE; i < PADDED; i += blockDim.x * WIDE) {
    float v[WIDE];
    if (WIDE == 4) *(float4*)v = i < D_IN ? *(const float4*)(x + token * X_STRIDE + i) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    else v[0] = i < D_IN ? x[token * X_STRIDE + i] : 0.0f;
#pragma unroll
    for (int n = 0; n < WIDE; n++) {
      if (GATE && i < D_IN) v[n] = $ACT(v[n]) * up[token * UP_STRIDE + i + n];
      values[i + n] = v[n];
      square = fmaf(v[n], v[n], square);
      most = fmaxf(most, fabsf(v[n]));
    }
  }
  most = block_reduce<true>(most, scratch);
  float rms = 1.0f;
  if (NORM) rms = rsqrtf(block_reduce<false>(square, scratch) / D_IN + EPS);
  const float inverse = most > 0.0f ? 1.0f / most : 0.0f;
  if (threadIdx.x == 0) factor[token] = most * rms;
  __syncthreads();
  for (int i = threadIdx.x * 8; i < PADDED; i += blockDim.x * 8) {
    // Eight inputs of a half, or of two lanes, of the same instruction.
    const int j = UNITS ? i >> 3 & 15 : i >> 4 & 15, rest = UNITS ? i >> 7 & 1 : i >> 3 & 1;
    u32 pairs[4];
#pragma unroll
    for (int n = 0; n < 4; n++) {
      const int half = UNITS ? rest : n & 1, lane = UNITS ? n : rest * 2 + (n >> 1);
      const float* from = values + (i & ~255) + half * 128 + lane * 32 + j;
      pairs[n] = f32_to_f16(from[0] * inverse) | (u32)f32_to_f16(from[16] * inverse) << 16;
    }
    size_t to = token * PADDED + i;
    if (UNITS) {
      const size_t unit = token / UNIT_TOKENS * (PADDED / UNIT_INPUTS) + (i & ~255) / UNIT_INPUTS + j / 4;
      const int row = token % UNIT_TOKENS, piece = (j % 4 * 2 + rest) ^ (row & 7);
      to = (unit * UNIT_TOKENS + row) * UNIT_INPUTS + piece * 8;
    }
    *(uint4*)(halves + to) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
  }
"#;
