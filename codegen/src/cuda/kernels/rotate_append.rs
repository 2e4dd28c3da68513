//! Heads of many tokens on their way into attention: queries in f16, keys and values into the cache.

use rabitc_rbx::SmArch;

use super::heads::Chains;
use crate::cuda::source::{Builder, CudaSpec, REDUCTIONS, Source};

/// A warp is a head of q, k or v of a token: blocks go over tokens (x) and 8 heads each (y).
#[derive(Clone, Debug, PartialEq)]
pub struct RotateAppend {
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Channels of a head; even.
    pub head_dim: usize,
    /// Factor on queries.
    pub scale: f32,
    /// What happens to the heads.
    pub chains: Chains,
}

/// Heads of a block.
const WARPS: usize = 8;

impl RotateAppend {
    /// Blocks along y.
    pub fn grid(&self) -> usize {
        (self.n_heads + 2 * self.n_kv_heads).div_ceil(WARPS)
    }

    /// Channels of a head in memory.
    pub fn padded(&self) -> usize {
        self.head_dim.next_multiple_of(8)
    }
}

impl CudaSpec for RotateAppend {
    fn name(&self) -> String {
        format!(
            "rotate_append_h{}_{}x{}_s{:08x}_{}",
            self.n_heads,
            self.n_kv_heads,
            self.head_dim,
            self.scale.to_bits(),
            self.chains.name()
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        let b = Builder::new(self.name(), arch, (WARPS * 32) as u32)
            .int("HEADS", self.n_heads)
            .int("KV_HEADS", self.n_kv_heads)
            .int("HEAD_DIM", self.head_dim)
            .int("PADDED", self.padded())
            .int("WARPS", WARPS)
            .float("SCALE", self.scale)
            .helper(REDUCTIONS);
        self.chains
            .declare(b)
            .param("u16", "queries")
            .param("u16", "keys")
            .param("u16", "values")
            .param("const State", "state")
            .body(BODY)
    }
}

const BODY: &str = r#"
  __shared__ float heads[WARPS][PADDED];
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, token = blockIdx.x;
  allow_next();
  wait_for_previous();
  int head = blockIdx.y * WARPS + warp;
  if (head >= HEADS + 2 * KV_HEADS) return;
  const int position = state->start + token;
  float* const values_of = heads[warp];
  u16* to;
  if (head < HEADS) {
    load_q_head(q + (size_t)token * Q_STRIDE, q_bias, q_norm, q_rope, head, position, SCALE, values_of);
    to = queries + ((size_t)token * HEADS + head) * PADDED;
  } else if (head < HEADS + KV_HEADS) {
    head -= HEADS;
    load_k_head(k + (size_t)token * K_STRIDE, k_bias, k_norm, k_rope, head, position, 1.0f, values_of);
    to = keys + ((size_t)head * state->capacity + position) * PADDED;
  } else {
    head -= HEADS + KV_HEADS;
    load_v_head(v + (size_t)token * V_STRIDE, v_bias, v_norm, v_rope, head, position, 1.0f, values_of);
    to = values + ((size_t)head * state->capacity + position) * PADDED;
  }
  __syncwarp();
  for (int i = lane; i < PADDED; i += 32) to[i] = i < HEAD_DIM ? f32_to_f16(values_of[i]) : 0;
"#;
