//! The most probable token, and the step to the next position, without the host.

use rabitc_rbx::SmArch;

use crate::cuda::source::{Builder, CudaSpec, Source};

/// Writes the index of the highest logit (the lowest of equals) as the next token, appends it to a
/// ring, and moves the state on by one position. One block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argmax {
    /// Logits.
    pub vocab: usize,
    /// Tokens that the ring holds.
    pub ring: usize,
}

impl CudaSpec for Argmax {
    fn name(&self) -> String {
        format!("argmax_{}_ring{}", self.vocab, self.ring)
    }

    fn source(&self, arch: SmArch) -> Source {
        Builder::new(self.name(), arch, 1024)
            .int("VOCAB", self.vocab)
            .int("RING", self.ring)
            .param("const float", "logits")
            .param("int", "ids")
            .param("int", "ring")
            .param("State", "state")
            .body(BODY)
    }
}

const BODY: &str = r#"
  __shared__ u64 best_of[32];
  allow_next();
  wait_for_previous();
  u64 best = 0;
#pragma unroll 8
  for (int i = threadIdx.x; i < VOCAB; i += 1024) {
    // Ordered like the floats, and among equals the lowest index is the highest key.
    const u32 bits = __float_as_uint(logits[i] + 0.0f);
    const u32 ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
    const u64 key = (u64)ordered << 32 | (u32)~i;
    best = max(best, key);
  }
#pragma unroll
  for (int o = 16; o; o >>= 1) best = max(best, __shfl_xor_sync(~0u, best, o));
  if ((threadIdx.x & 31) == 0) best_of[threadIdx.x >> 5] = best;
  __syncthreads();
  if (threadIdx.x < 32) {
    best = best_of[threadIdx.x];
#pragma unroll
    for (int o = 16; o; o >>= 1) best = max(best, __shfl_xor_sync(~0u, best, o));
    if (threadIdx.x == 0) {
      const int id = (int)~(u32)best;
      ids[0] = id;
      ring[state->start % RING] = id;
      state->start++;
    }
  }
"#;
