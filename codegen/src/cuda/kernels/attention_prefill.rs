//! Attention of many tokens over the cache, on f16 tensor cores, with a running maximum and sum.
//!
//! A block is 128 queries of a head, 32 a warp where registers suffice: what is loaded of keys and
//! values then serves two instructions. Keys and values pass through shared memory in tiles of
//! positions, the next one while one is computed with. Keys and values of the tokens themselves are
//! in the cache already. Blocks of late tokens, which see most, come first.

use rabitc_rbx::SmArch;

use super::matrix::{EXP2, MATRIX_F16};
use crate::cuda::source::{ACTIVATIONS, Builder, CudaSpec, Source};

/// Attention of one layer; blocks go over query heads (x) and [`QUERIES`] tokens (y).
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
    /// Whether there are blocks for every multiprocessor twice.
    pub filled: bool,
}

/// Tokens of a block.
pub const QUERIES: usize = 128;
/// Multiprocessors of a large card.
const MULTIPROCESSORS: usize = 132;

impl AttentionPrefill {
    /// [`AttentionPrefill::filled`] for so many heads and tokens.
    pub fn fills(n_heads: usize, tokens: usize) -> bool {
        n_heads * tokens.div_ceil(QUERIES) >= 2 * MULTIPROCESSORS
    }
}

impl CudaSpec for AttentionPrefill {
    fn name(&self) -> String {
        format!(
            "attention_prefill_h{}_{}x{}_w{}_c{:08x}{}",
            self.n_heads,
            self.n_kv_heads,
            self.head_dim,
            self.window,
            self.softcap.to_bits(),
            if self.filled { "_filled" } else { "" }
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        let channels = self.head_dim.next_multiple_of(32);
        let row_bytes = (channels + 8) * 2;
        let shared = |positions: usize| (QUERIES + 4 * positions) * row_bytes;
        let (narrow, most) = (channels <= 128, arch.shared_bytes());
        // Instructions along the queries of a warp: two need two blocks a multiprocessor, which
        // hide each other's waits.
        let (tall, positions) = match narrow {
            true if self.filled && 2 * shared(64) <= most => (2, 64),
            true if shared(64) <= most => (1, 64),
            _ if shared(32) <= most => (1, 32),
            _ => (1, 16),
        };
        Builder::new(self.name(), arch, (QUERIES * 2 / tall) as u32)
            .min_blocks(tall as u32)
            .shared(shared(positions))
            .int("TALL", tall)
            .int("HEADS", self.n_heads)
            .int("GROUP", self.n_heads / self.n_kv_heads)
            .int("HEAD_DIM", self.head_dim)
            .int("STORED", self.head_dim.next_multiple_of(8))
            .int("CHANNELS", channels)
            .int("QUERIES", QUERIES)
            .int("POSITIONS", positions)
            .int("WINDOW", self.window)
            .float("CAP", self.softcap)
            .helper(ACTIVATIONS)
            .helper(MATRIX_F16)
            .helper(EXP2)
            .helper(TILES)
            .param("const u16", "queries")
            .param("const u16", "keys")
            .param("const u16", "values")
            .param("float", "out")
            .param("const State", "state")
            .body(BODY)
    }
}

const TILES: &str = r#"
__device__ __forceinline__ void load_matrices(u32* b, u32 row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3]) : "r"(row) : "memory");
}
__device__ __forceinline__ void load_transposed(u32* b, u32 row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3]) : "r"(row) : "memory");
}
// Copies 16 bytes, or zeros where there is nothing.
__device__ __forceinline__ void copy_async(u32 to, const u16* from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
}
__device__ __forceinline__ void copies_end() { asm volatile("cp.async.commit_group;\ncp.async.wait_group 0;" ::: "memory"); }
"#;

const BODY: &str = r#"
  extern __shared__ __align__(16) u16 staged[];
  constexpr int PITCH = CHANNELS * 2 + 16, STEPS = CHANNELS / 16, TILES = CHANNELS / 8, BLOCKS = POSITIONS / 8, TILE = POSITIONS * PITCH;
  constexpr int PIECES = CHANNELS / 8, THREADS = QUERIES * 2 / TALL;
  constexpr float LOG2_E = 1.4426950408889634f, NOTHING = -1e30f, INVERSE_CAP = 1.0f / (CAP > 0.0f ? CAP : 1.0f);
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, row8 = lane >> 2, t = lane & 3;
  const int head = blockIdx.x, kv_head = head / GROUP, first_query = (gridDim.y - 1 - blockIdx.y) * QUERIES;
  allow_next();
  wait_for_previous();
  const int tokens = state->tokens, start = state->start, capacity = state->capacity;

  const u32 tiles = (u32)__cvta_generic_to_shared(staged), query_rows = tiles + 4 * TILE;
  for (int i = threadIdx.x; i < QUERIES * PIECES; i += THREADS) {
    const int token = first_query + i / PIECES, c = i % PIECES * 8;
    const bool there = token < tokens && c < STORED;
    copy_async(query_rows + i / PIECES * PITCH + c * 2, queries + (there ? ((size_t)token * HEADS + head) * STORED + c : 0), there);
  }
  const int end = start + min(tokens, first_query + QUERIES);
  const int begin = WINDOW > 0 ? max(0, start + first_query + 1 - WINDOW) / POSITIONS * POSITIONS : 0;
  const u16* const k_rows = keys + (size_t)kv_head * capacity * STORED;
  const u16* const v_rows = values + (size_t)kv_head * capacity * STORED;
  auto fetch = [&](int first, u32 to) {
#pragma unroll 2
    for (int i = threadIdx.x; i < POSITIONS * PIECES; i += THREADS) {
      const int position = i / PIECES, c = i % PIECES * 8;
      const bool there = first + position < end && c < STORED;
      const u32 from = there ? (u32)(first + position) * STORED + c : 0;
      copy_async(to + position * PITCH + c * 2, k_rows + from, there);
      copy_async(to + TILE + position * PITCH + c * 2, v_rows + from, there);
    }
  };
  fetch(begin, tiles);

  float mix[TALL][TILES][4], most[TALL][2], sum[TALL][2];
#pragma unroll
  for (int m = 0; m < TALL; m++) {
    most[m][0] = most[m][1] = NOTHING;
    sum[m][0] = sum[m][1] = 0.0f;
#pragma unroll
    for (int i = 0; i < TILES; i++) mix[m][i][0] = mix[m][i][1] = mix[m][i][2] = mix[m][i][3] = 0.0f;
  }
  // Positions of the first and last query of the warp.
  const int low = start + first_query + warp * TALL * 16, high = low + TALL * 16 - 1;
  // A lane's row and half of 16 rows by 16 channels.
  const u32 place = (lane & 15) * PITCH + (lane >> 4) * 16, own_rows = query_rows + warp * TALL * 16 * PITCH + place;
  for (int first = begin, n = 0; first < end; first += POSITIONS, n ^= 1) {
    copies_end();
    __syncthreads();
    if (first + POSITIONS < end) fetch(first + POSITIONS, tiles + (n ^ 1) * 2 * TILE);
    if (first > high || (WINDOW > 0 && low - (first + POSITIONS - 1) >= WINDOW)) continue;
    const u32 key_rows = tiles + n * 2 * TILE + place, value_rows = key_rows + TILE;
    float score[TALL][BLOCKS][4];
#pragma unroll
    for (int m = 0; m < TALL; m++)
#pragma unroll
      for (int b = 0; b < BLOCKS; b++) score[m][b][0] = score[m][b][1] = score[m][b][2] = score[m][b][3] = 0.0f;
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
      u32 query[TALL][4];
#pragma unroll
      for (int m = 0; m < TALL; m++) load_matrices(query[m], own_rows + m * 16 * PITCH + s * 32);
#pragma unroll
      for (int b = 0; b < BLOCKS; b += 2) {
        u32 k[4];
        load_matrices(k, key_rows + b * 8 * PITCH + s * 32);
#pragma unroll
        for (int m = 0; m < TALL; m++) matrix_f16(score[m][b], query[m], k[0], k[2]);
#pragma unroll
        for (int m = 0; m < TALL; m++) matrix_f16(score[m][b + 1], query[m], k[1], k[3]);
      }
    }
    const bool masked = first + POSITIONS - 1 > low || (WINDOW > 0 && high - first >= WINDOW);
#pragma unroll
    for (int m = 0; m < TALL; m++) {
#pragma unroll
      for (int b = 0; CAP > 0.0f && b < BLOCKS; b++)
#pragma unroll
        for (int j = 0; j < 4; j++) score[m][b][j] = CAP * tanh_exact(score[m][b][j] * INVERSE_CAP);
      if (masked)
#pragma unroll
        for (int b = 0; b < BLOCKS; b++)
#pragma unroll
          for (int j = 0; j < 4; j++) {
            const int position = first + b * 8 + t * 2 + (j & 1), own = low + m * 16 + row8 + (j >> 1) * 8;
            if (position > own || (WINDOW > 0 && own - position >= WINDOW)) score[m][b][j] = NOTHING;
          }
      float base[2];
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float highest = most[m][half];
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) highest = fmaxf(highest, fmaxf(score[m][b][half * 2], score[m][b][half * 2 + 1]));
        highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
        // A row that has seen nothing yet must not count what it does not see as its largest.
        base[half] = highest > NOTHING ? highest * LOG2_E : 0.0f;
        const float keep = exp2_fast(fmaf(most[m][half], LOG2_E, -base[half]));
        most[m][half] = highest;
        sum[m][half] *= keep;
        // After the first tiles, the largest seldom changes.
        if (__any_sync(~0u, keep < 1.0f))
#pragma unroll
          for (int i = 0; i < TILES; i++) { mix[m][i][half * 2] *= keep; mix[m][i][half * 2 + 1] *= keep; }
      }
#pragma unroll
      for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
          score[m][b][j] = exp2_fast(fmaf(score[m][b][j], LOG2_E, -base[j >> 1]));
          sum[m][j >> 1] += score[m][b][j];
        }
    }
#pragma unroll
    for (int b = 0; b < BLOCKS; b += 2) {
      u32 weights[TALL][4];
#pragma unroll
      for (int m = 0; m < TALL; m++)
#pragma unroll
        for (int r = 0; r < 4; r++) weights[m][r] = pack_f16(score[m][b + (r >> 1)][(r & 1) * 2], score[m][b + (r >> 1)][(r & 1) * 2 + 1]);
#pragma unroll
      for (int i = 0; i < TILES; i += 2) {
        u32 v[4];
        load_transposed(v, value_rows + b * 8 * PITCH + i * 16);
#pragma unroll
        for (int m = 0; m < TALL; m++) matrix_f16(mix[m][i], weights[m], v[0], v[1]);
#pragma unroll
        for (int m = 0; m < TALL; m++) matrix_f16(mix[m][i + 1], weights[m], v[2], v[3]);
      }
    }
  }
#pragma unroll
  for (int m = 0; m < TALL; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float whole = sum[m][half];
      whole += __shfl_xor_sync(~0u, whole, 1);
      whole += __shfl_xor_sync(~0u, whole, 2);
      const int token = first_query + (warp * TALL + m) * 16 + half * 8 + row8;
      if (token >= tokens) continue;
      const float inverse = 1.0f / whole;
#pragma unroll
      for (int i = 0; i < TILES; i++)
#pragma unroll
        for (int j = 0; j < 2; j++) {
          const int c = i * 8 + t * 2 + j;
          if (c < HEAD_DIM) out[((size_t)token * HEADS + head) * HEAD_DIM + c] = mix[m][i][half * 2 + j] * inverse;
        }
    }
"#;
