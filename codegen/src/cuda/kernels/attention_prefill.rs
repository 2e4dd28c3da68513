//! Attention of many tokens over the cache, on f16 tensor cores, with a running maximum and sum.
//!
//! A block is 64 queries of a head, 16 a warp; keys and values pass through shared memory 32
//! positions at a time. Keys and values of the tokens themselves are in the cache already.

use rabitc_rbx::SmArch;

use crate::cuda::source::{ACTIVATIONS, Builder, CudaSpec, Source};

/// Attention of one layer; blocks go over [`QUERIES`] tokens (x) and query heads (y).
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionPrefill {
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Channels of a head; even, at most 256.
    pub head_dim: usize,
    /// Positions that a token sees, itself included; 0 for all.
    pub window: usize,
    /// Bound of the scores; 0 for none.
    pub softcap: f32,
}

/// Tokens of a block.
pub const QUERIES: usize = 64;
const POSITIONS: usize = 32;

impl CudaSpec for AttentionPrefill {
    fn name(&self) -> String {
        format!(
            "attention_prefill_h{}_{}x{}_w{}_c{:08x}",
            self.n_heads,
            self.n_kv_heads,
            self.head_dim,
            self.window,
            self.softcap.to_bits()
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        let channels = self.head_dim.next_multiple_of(16);
        Builder::new(self.name(), arch, 128)
            .shared(2 * POSITIONS * (channels + 8) * 2)
            .int("HEADS", self.n_heads)
            .int("GROUP", self.n_heads / self.n_kv_heads)
            .int("HEAD_DIM", self.head_dim)
            .int("STORED", self.head_dim.next_multiple_of(8))
            .int("CHANNELS", channels)
            .int("QUERIES", QUERIES)
            .int("POSITIONS", POSITIONS)
            .int("WINDOW", self.window)
            .float("CAP", self.softcap)
            .helper(ACTIVATIONS)
            .helper(MATRIX)
            .param("const u16", "queries")
            .param("const u16", "keys")
            .param("const u16", "values")
            .param("float", "out")
            .param("const State", "state")
            .body(BODY)
    }
}

const MATRIX: &str = r#"
__device__ __forceinline__ void matrix_f16(float* d, const u32* a, u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void load_transposed(u32& b0, u32& b1, const u16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(b0), "=r"(b1) : "r"((u32)__cvta_generic_to_shared(row)));
}
__device__ __forceinline__ u32 pack_f16(float low, float high) { return f32_to_f16(low) | (u32)f32_to_f16(high) << 16; }
"#;

const BODY: &str = r#"
  extern __shared__ __align__(16) u16 staged[];
  constexpr int PITCH = CHANNELS + 8, STEPS = CHANNELS / 16, TILES = CHANNELS / 8, BLOCKS = POSITIONS / 8;
  u16* const key_rows = staged;
  u16* const value_rows = staged + POSITIONS * PITCH;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, row8 = lane >> 2, t = lane & 3;
  const int head = blockIdx.y, kv_head = head / GROUP, first_query = blockIdx.x * QUERIES;
  allow_next();
  wait_for_previous();
  const int tokens = state->tokens, start = state->start, capacity = state->capacity;
  const int query0 = first_query + warp * 16 + row8;

  u32 query[STEPS][4];
#pragma unroll
  for (int s = 0; s < STEPS; s++)
#pragma unroll
    for (int r = 0; r < 4; r++) {
      const int token = query0 + (r & 1) * 8, c = s * 16 + t * 2 + (r >> 1) * 8;
      query[s][r] = token < tokens && c < STORED ? *(const u32*)(queries + ((size_t)token * HEADS + head) * STORED + c) : 0;
    }
  float mix[TILES][4], most[2] = {-1e30f, -1e30f}, sum[2] = {0.0f, 0.0f};
#pragma unroll
  for (int i = 0; i < TILES; i++) mix[i][0] = mix[i][1] = mix[i][2] = mix[i][3] = 0.0f;

  const int last = start + min(tokens, first_query + QUERIES) - 1;
  const int begin = WINDOW > 0 ? max(0, start + first_query + 1 - WINDOW) / POSITIONS * POSITIONS : 0;
  const u16* const k_rows = keys + (size_t)kv_head * capacity * STORED;
  const u16* const v_rows = values + (size_t)kv_head * capacity * STORED;
  for (int first = begin; first <= last; first += POSITIONS) {
    __syncthreads();
    for (int i = threadIdx.x; i < POSITIONS * (CHANNELS / 8); i += 128) {
      const int position = i / (CHANNELS / 8), c = i % (CHANNELS / 8) * 8;
      const bool there = first + position <= last && c < STORED;
      const uint4 zero = make_uint4(0, 0, 0, 0);
      const size_t from = (size_t)(first + position) * STORED + c;
      *(uint4*)(key_rows + position * PITCH + c) = there ? *(const uint4*)(k_rows + from) : zero;
      *(uint4*)(value_rows + position * PITCH + c) = there ? *(const uint4*)(v_rows + from) : zero;
    }
    __syncthreads();
    float score[BLOCKS][4];
#pragma unroll
    for (int b = 0; b < BLOCKS; b++) {
      score[b][0] = score[b][1] = score[b][2] = score[b][3] = 0.0f;
#pragma unroll
      for (int s = 0; s < STEPS; s++) {
        const u16* row = key_rows + (b * 8 + row8) * PITCH + s * 16 + t * 2;
        matrix_f16(score[b], query[s], *(const u32*)row, *(const u32*)(row + 8));
      }
    }
    float highest[2] = {most[0], most[1]};
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int position = first + b * 8 + t * 2 + (j & 1), own = start + query0 + (j >> 1) * 8;
        float s = score[b][j];
        if (CAP > 0.0f) s = CAP * tanh_exact(s / CAP);
        const bool seen = position <= own && (WINDOW == 0 || own - position < WINDOW);
        score[b][j] = seen ? s : -1e30f;
        highest[j >> 1] = fmaxf(highest[j >> 1], score[b][j]);
      }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      highest[half] = fmaxf(highest[half], __shfl_xor_sync(~0u, highest[half], 1));
      highest[half] = fmaxf(highest[half], __shfl_xor_sync(~0u, highest[half], 2));
      const float keep = __expf(most[half] - highest[half]);
      most[half] = highest[half];
      sum[half] *= keep;
#pragma unroll
      for (int i = 0; i < TILES; i++) { mix[i][half * 2] *= keep; mix[i][half * 2 + 1] *= keep; }
    }
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const float e = score[b][j] > -1e29f ? __expf(score[b][j] - most[j >> 1]) : 0.0f;
        score[b][j] = e;
        sum[j >> 1] += e;
      }
#pragma unroll
    for (int b = 0; b < BLOCKS; b += 2) {
      const u32 weights[4] = {pack_f16(score[b][0], score[b][1]), pack_f16(score[b][2], score[b][3]),
                              pack_f16(score[b + 1][0], score[b + 1][1]), pack_f16(score[b + 1][2], score[b + 1][3])};
#pragma unroll
      for (int i = 0; i < TILES; i++) {
        u32 b0, b1;
        load_transposed(b0, b1, value_rows + (b * 8 + (lane & 15)) * PITCH + i * 8);
        matrix_f16(mix[i], weights, b0, b1);
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    sum[half] += __shfl_xor_sync(~0u, sum[half], 1);
    sum[half] += __shfl_xor_sync(~0u, sum[half], 2);
    const int token = query0 + half * 8;
    if (token >= tokens) continue;
    const float inverse = 1.0f / sum[half];
#pragma unroll
    for (int i = 0; i < TILES; i++)
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const int c = i * 8 + t * 2 + j;
        if (c < HEAD_DIM) out[((size_t)token * HEADS + head) * HEAD_DIM + c] = mix[i][half * 2 + j] * inverse;
      }
  }
"#;
