//! What happens to a head of q, k or v between the projection and attention: bias, RMSNorm, RoPE.

use crate::cuda::source::Builder;
use crate::kernels::Float;

/// The steps for one of q, k and v.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chain {
    /// f32 elements from one token to the next.
    pub stride: usize,
    /// Form of the bias, if one is added.
    pub bias: Option<Float>,
    /// Form of the norm's weight, eps and unit offset, if each head is normalised.
    pub norm: Option<(Float, f32, bool)>,
    /// Whether pairs (i, i + head_dim / 2) are rotated.
    pub rope: bool,
}

impl Chain {
    /// A name that encodes the steps.
    pub fn name(&self) -> String {
        let bias = self
            .bias
            .map_or(String::new(), |f| format!("b{}", f.name()));
        let norm = self.norm.map_or(String::new(), |(f, eps, unit)| {
            format!(
                "n{}{:08x}{}",
                f.name(),
                eps.to_bits(),
                if unit { "u" } else { "" }
            )
        });
        let rope = if self.rope { "r" } else { "" };
        format!("{}{bias}{norm}{rope}", self.stride)
    }
}

/// The chains of q, k and v.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chains {
    /// Queries.
    pub q: Chain,
    /// Keys.
    pub k: Chain,
    /// Values; never rotated.
    pub v: Chain,
}

impl Chains {
    /// A name that encodes all three.
    pub fn name(&self) -> String {
        format!("q{}_k{}_v{}", self.q.name(), self.k.name(), self.v.name())
    }

    /// Declares the parameters and one function a chain, `load_q_head`, `load_k_head` and
    /// `load_v_head`, by which a warp reads a head of a token into f32 memory.
    pub fn declare(&self, mut b: Builder) -> Builder {
        b = b.helper(HEAD);
        for (word, chain) in [("q", &self.q), ("k", &self.k), ("v", &self.v)] {
            let (weight, eps, unit) = chain.norm.unwrap_or((Float::F32, 0.0, false));
            b = b
                .loader(
                    &format!("load_{word}_bias"),
                    chain.bias.unwrap_or(Float::F32),
                )
                .loader(&format!("load_{word}_norm"), weight)
                .param("const float", word)
                .param_if(chain.bias.is_some(), "const void", &format!("{word}_bias"))
                .param_if(chain.norm.is_some(), "const void", &format!("{word}_norm"))
                .param_if(chain.rope, "const float", &format!("{word}_rope"))
                .int(&format!("{}_STRIDE", word.to_uppercase()), chain.stride);
            let text = LOAD
                .replace("$WORD", word)
                .replace("$BIAS", &chain.bias.is_some().to_string())
                .replace("$NORM", &chain.norm.is_some().to_string())
                .replace("$ROPE", &chain.rope.to_string())
                .replace("$OFFSET", if unit { "1.0f" } else { "0.0f" })
                .replace("$EPS", &format!("{eps:e}f"));
            b = b.helper(&text);
        }
        b
    }
}

const HEAD: &str = r#"
constexpr int HALF = HEAD_DIM / 2, PAIRS = (HALF + 31) / 32;
"#;

/// A lane has pairs (i, i + HEAD_DIM / 2) for i = lane, lane + 32, …
const LOAD: &str = r#"
// A warp reads head `head` of a token at `position` and writes it, times `factor`, to `to`.
__device__ __forceinline__ void load_$WORD_head(const float* from, const void* bias, const void* norm, const float* rope,
                                               int head, int position, float factor, float* to) {
  const int lane = threadIdx.x & 31;
  float a[PAIRS], b[PAIRS], square = 0.0f;
#pragma unroll
  for (int p = 0; p < PAIRS; p++) {
    const int i = p * 32 + lane;
    a[p] = b[p] = 0.0f;
    if (i >= HALF) continue;
    a[p] = from[head * HEAD_DIM + i];
    b[p] = from[head * HEAD_DIM + i + HALF];
    if ($BIAS) {
      a[p] += load_$WORD_bias(bias, head * HEAD_DIM + i);
      b[p] += load_$WORD_bias(bias, head * HEAD_DIM + i + HALF);
    }
    square = fmaf(a[p], a[p], fmaf(b[p], b[p], square));
  }
  if ($NORM) {
    const float inverse = rsqrtf(warp_sum(square) / HEAD_DIM + $EPS);
#pragma unroll
    for (int p = 0; p < PAIRS; p++) {
      const int i = min(p * 32 + lane, HALF - 1);
      a[p] *= inverse * ($OFFSET + load_$WORD_norm(norm, i));
      b[p] *= inverse * ($OFFSET + load_$WORD_norm(norm, i + HALF));
    }
  }
#pragma unroll
  for (int p = 0; p < PAIRS; p++) {
    const int i = p * 32 + lane;
    if (i >= HALF) continue;
    if ($ROPE) {
      const float cosine = rope[(size_t)position * HEAD_DIM + i], sine = rope[(size_t)position * HEAD_DIM + HALF + i];
      const float rotated = a[p] * cosine - b[p] * sine;
      b[p] = b[p] * cosine + a[p] * sine;
      a[p] = rotated;
    }
    to[i] = a[p] * factor;
    to[i + HALF] = b[p] * factor;
  }
}
"#;
