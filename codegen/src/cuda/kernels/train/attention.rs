//! Causal attention over whole sequences, on bf16 tensor cores, with a running maximum and sum.
//!
//! A block is 64 queries of a head of a sequence, 16 a warp; keys and values pass through shared
//! memory some at a time (Dao, arXiv 2307.08691).

use rabitc_rbx::SmArch;

use super::{Layout, builder, finish, output};
use crate::cuda::source::{ACTIVATIONS, Builder, CudaSpec, Source};

/// What attention and its gradient have in common. All matrices are bf16, in `[rows, heads ·
/// head_dim]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Channels of a head, at most [`MOST_CHANNELS`].
    pub head_dim: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// Positions that a token sees, itself included; 0 for all.
    pub window: usize,
    /// Bound of the scores; 0 for none.
    pub softcap: f32,
    /// Tokens of a sequence.
    pub seq_len: usize,
    /// Rows: whole sequences.
    pub rows: usize,
}

/// Channels that a head has at most.
pub const MOST_CHANNELS: usize = 256;

impl Heads {
    /// Sequences.
    pub fn sequences(&self) -> usize {
        self.rows / self.seq_len
    }

    /// Channels as matrix instructions need them.
    pub(super) fn channels(&self) -> usize {
        self.head_dim.next_multiple_of(16)
    }

    pub(super) fn word(&self) -> String {
        format!(
            "h{}_{}x{}_t{}of{}_w{}_c{:08x}_f{:08x}",
            self.n_heads,
            self.n_kv_heads,
            self.head_dim,
            self.seq_len,
            self.rows,
            self.window,
            self.softcap.to_bits(),
            self.scale.to_bits()
        )
    }

    /// The constants of a matrix: its stride, and whether pieces of 8 channels can be read at once.
    pub(super) fn rows(&self, b: Builder, name: &str, x: Layout) -> Builder {
        let whole = x.vector >= 8 && self.head_dim.is_multiple_of(8);
        b.int(&format!("{name}_STRIDE"), x.stride)
            .flag(&format!("{name}_WHOLE"), whole)
    }

    /// The constants, and what the kernels share.
    pub(super) fn constants(&self, b: Builder) -> Builder {
        b.int("HEADS", self.n_heads)
            .int("KV_HEADS", self.n_kv_heads)
            .int("GROUP", self.n_heads / self.n_kv_heads)
            .int("HEAD_DIM", self.head_dim)
            .int("CHANNELS", self.channels())
            .int("SEQ_LEN", self.seq_len)
            .int("WINDOW", self.window)
            .float("CAP", self.softcap)
            .float("SCALE", self.scale)
            .helper(ACTIVATIONS)
            .helper(MATRIX)
    }
}

/// Attention: y and ln Σ exp(score); blocks go over 64 queries (x), heads (y) and sequences (z).
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// The heads.
    pub heads: Heads,
    /// Queries, keys and values.
    pub qkv: [Layout; 3],
    /// The result, if it is asked for.
    pub y: Option<Layout>,
    /// Whether the logarithms are asked for, f32 `[rows, n_heads]`.
    pub lse: bool,
}

/// Queries of a block.
pub const QUERIES: usize = 64;

/// Rows of what passes through shared memory at once, twice: one part is read while the next one
/// arrives.
pub(super) fn passing(channels: usize) -> usize {
    if channels <= 64 { 64 } else { 32 }
}

impl Attention {
    /// Blocks of a launch.
    pub fn grid(&self) -> [u32; 3] {
        let heads = &self.heads;
        let queries = heads.seq_len.div_ceil(QUERIES);
        [queries, heads.n_heads, heads.sequences()].map(|n| n as u32)
    }
}

impl CudaSpec for Attention {
    fn name(&self) -> String {
        format!(
            "train_attention_{}_{}{}{}",
            self.heads.word(),
            Layout::words(&self.qkv),
            self.y.map(|y| format!("_{}", y.word())).unwrap_or_default(),
            if self.lse { "_lse" } else { "" }
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        let positions = passing(self.heads.channels());
        let mut b = self.heads.constants(builder(self.name(), arch, 128));
        b = b
            .shared(4 * positions * (self.heads.channels() + 8) * 2)
            .int("QUERIES", QUERIES)
            .int("POSITIONS", positions)
            .flag("LSE", self.lse);
        for (name, x) in ["Q", "K", "V"].into_iter().zip(self.qkv) {
            b = b.int(&format!("{name}_STRIDE"), x.stride).flag(
                &format!("{name}_WHOLE"),
                x.vector >= 8 && self.heads.head_dim.is_multiple_of(8),
            );
        }
        b = b
            .param("const u16", "q")
            .param("const u16", "k")
            .param("const u16", "v");
        let mut body = BODY.to_string();
        if let Some(y) = self.y {
            b = output(b.int("Y_STRIDE", y.stride), "y", y.dtype);
            body = body.replace("$STORE", STORE);
        }
        finish(
            b.param_if(self.lse, "float", "lse"),
            &body.replace("$STORE", ""),
        )
    }
}

/// Matrix instructions on 16 × 16 by 16 × 8 bf16 elements, and what feeds them.
const MATRIX: &str = r#"
constexpr int PITCH = CHANNELS + 8, STEPS = CHANNELS / 16, TILES = CHANNELS / 8;
constexpr float LOG2E = 1.4426950409f;
__device__ __forceinline__ u32 shared_address(const u16* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void matrix_bf16(float* d, const u32* a, u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void load_four(u32* r, const u16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void load_four_transposed(u32* r, const u16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
// The 16 x 16 elements from `at` on as a left factor.
__device__ __forceinline__ void load_left(u32* a, const u16* at) {
  const int lane = threadIdx.x & 31;
  load_four(a, at + (lane & 15) * PITCH + (lane >> 4) * 8);
}
// d += left (16 rows, by steps of 16 channels) times the 8 rows at `rows`, transposed.
__device__ __forceinline__ void times_rows(float* d, const u32 (*left)[4], const u16* rows) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int s = 0; s + 1 < STEPS; s += 2) {
    u32 r[4];
    load_four(r, rows + (lane & 7) * PITCH + s * 16 + (lane >> 3) * 8);
    matrix_bf16(d, left[s], r[0], r[1]);
    matrix_bf16(d, left[s + 1], r[2], r[3]);
  }
  if (STEPS & 1) {
    const u16* const p = rows + (lane >> 2) * PITCH + (STEPS - 1) * 16 + (lane & 3) * 2;
    matrix_bf16(d, left[STEPS - 1], *(const u32*)p, *(const u32*)(p + 8));
  }
}
// d (all channels) += left (16 x 16) times the 16 rows at `rows`.
__device__ __forceinline__ void times_columns(float (*d)[4], const u32* left, const u16* rows) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int i = 0; i < TILES; i += 2) {
    u32 r[4];
    load_four_transposed(r, rows + (lane & 15) * PITCH + i * 8 + (lane >> 4) * 8);
    matrix_bf16(d[i], left, r[0], r[1]);
    matrix_bf16(d[i + 1], left, r[2], r[3]);
  }
}
// Two neighbouring blocks of 16 x 8 results as a left factor.
__device__ __forceinline__ void as_left(u32* a, const float* low, const float* high) {
  a[0] = pack_bf16(low[0], low[1]); a[1] = pack_bf16(low[2], low[3]);
  a[2] = pack_bf16(high[0], high[1]); a[3] = pack_bf16(high[2], high[3]);
}
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING> __device__ __forceinline__ void await() { asm volatile("cp.async.wait_group %0;" :: "n"(PENDING) : "memory"); }
// Rows first..first + ROWS of a head into shared memory, zeros beyond `end` and beyond the head.
template <int ROWS, bool WHOLE> __device__ __forceinline__ void stage(u16* to, const u16* from, size_t stride, int first, int end) {
  if constexpr (WHOLE) {
#pragma unroll 4
    for (int i = threadIdx.x; i < ROWS * (CHANNELS / 8); i += 128) {
      const int row = i / (CHANNELS / 8), c = i % (CHANNELS / 8) * 8;
      const bool there = first + row < end && c < HEAD_DIM;
      const u16* const source = there ? from + (first + row) * stride + c : from;
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(shared_address(to + row * PITCH + c)), "l"(source), "r"(there ? 16 : 0) : "memory");
    }
  } else {
    for (int i = threadIdx.x; i < ROWS * CHANNELS; i += 128) {
      const int row = i / CHANNELS, c = i % CHANNELS;
      const bool there = first + row < end && c < HEAD_DIM;
      to[row * PITCH + c] = there ? from[(first + row) * stride + c] : (u16)0;
    }
  }
}
// Two neighbours of row `row` of a head, zeros beyond it.
template <bool WHOLE> __device__ __forceinline__ u32 two(const u16* from, size_t stride, int row, int end, int c) {
  if (row >= end || c >= HEAD_DIM) return 0;
  const u16* const p = from + row * stride + c;
  if constexpr (WHOLE) return *(const u32*)p;
  return p[0] | (c + 1 < HEAD_DIM ? (u32)p[1] << 16 : 0u);
}
__device__ __forceinline__ float power2(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
__device__ __forceinline__ float bounded(float s) {
  s *= SCALE;
  return CAP > 0.0f ? CAP * tanh_exact(s / CAP) : s;
}
__device__ __forceinline__ bool sees(int query, int position) {
  return position <= query && (WINDOW == 0 || query - position < WINDOW);
}
"#;

const STORE: &str = r#"
    const float inverse = 1.0f / sum[half];
#pragma unroll
    for (int i = 0; i < TILES; i++)
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const int c = i * 8 + t * 2 + j;
        const float value[1] = {mix[i][half * 2 + j] * inverse};
        if (c < HEAD_DIM) write_y(1, value, (first_row + query) * Y_STRIDE + head * HEAD_DIM + c);
      }"#;

/// Scores and their maxima are held times log₂ e, so that powers of two do.
const BODY: &str = r#"
  extern __shared__ __align__(16) u16 staged[];
  constexpr int BLOCKS = POSITIONS / 8;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, row8 = lane >> 2, t = lane & 3;
  const int head = blockIdx.y, kv_head = head / GROUP, first_query = (gridDim.x - 1 - blockIdx.x) * QUERIES;
  const size_t first_row = (size_t)blockIdx.z * SEQ_LEN;
  const u16* const q_rows = q + first_row * Q_STRIDE + head * HEAD_DIM;
  const u16* const k_rows = k + first_row * K_STRIDE + kv_head * HEAD_DIM;
  const u16* const v_rows = v + first_row * V_STRIDE + kv_head * HEAD_DIM;
  const int query0 = first_query + warp * 16 + row8, last_query = first_query + warp * 16 + 15;
  const int end = min(SEQ_LEN, first_query + QUERIES);
  const int begin = WINDOW > 0 ? max(0, first_query + 1 - WINDOW) / POSITIONS * POSITIONS : 0;
  stage<POSITIONS, K_WHOLE>(staged, k_rows, K_STRIDE, begin, end);
  stage<POSITIONS, V_WHOLE>(staged + POSITIONS * PITCH, v_rows, V_STRIDE, begin, end);
  commit();

  u32 queries[STEPS][4];
#pragma unroll
  for (int s = 0; s < STEPS; s++)
#pragma unroll
    for (int r = 0; r < 4; r++)
      queries[s][r] = two<Q_WHOLE>(q_rows, Q_STRIDE, query0 + (r & 1) * 8, SEQ_LEN, s * 16 + t * 2 + (r >> 1) * 8);
  float mix[TILES][4], most[2] = {-1e30f, -1e30f}, sum[2] = {0.0f, 0.0f};
#pragma unroll
  for (int i = 0; i < TILES; i++) mix[i][0] = mix[i][1] = mix[i][2] = mix[i][3] = 0.0f;

  int turn = 0;
  for (int first = begin; first < end; first += POSITIONS, turn ^= 1) {
    const u16* const key_rows = staged + turn * 2 * POSITIONS * PITCH;
    const u16* const value_rows = key_rows + POSITIONS * PITCH;
    if (first + POSITIONS < end) {
      u16* const next = staged + (turn ^ 1) * 2 * POSITIONS * PITCH;
      stage<POSITIONS, K_WHOLE>(next, k_rows, K_STRIDE, first + POSITIONS, end);
      stage<POSITIONS, V_WHOLE>(next + POSITIONS * PITCH, v_rows, V_STRIDE, first + POSITIONS, end);
    }
    commit();
    await<1>();
    __syncthreads();
    float score[BLOCKS][4], highest[2] = {most[0], most[1]};
#pragma unroll
    for (int b = 0; b < BLOCKS; b++) {
      score[b][0] = score[b][1] = score[b][2] = score[b][3] = 0.0f;
      if (first + b * 8 <= last_query) times_rows(score[b], queries, key_rows + b * 8 * PITCH);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int position = first + b * 8 + t * 2 + (j & 1), own = query0 + (j >> 1) * 8;
        score[b][j] = sees(own, position) ? bounded(score[b][j]) * LOG2E : -1e30f;
        highest[j >> 1] = fmaxf(highest[j >> 1], score[b][j]);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      highest[half] = fmaxf(highest[half], __shfl_xor_sync(~0u, highest[half], 1));
      highest[half] = fmaxf(highest[half], __shfl_xor_sync(~0u, highest[half], 2));
      const float keep = power2(most[half] - highest[half]);
      most[half] = highest[half];
      sum[half] *= keep;
#pragma unroll
      for (int i = 0; i < TILES; i++) { mix[i][half * 2] *= keep; mix[i][half * 2 + 1] *= keep; }
    }
#pragma unroll
    for (int b = 0; b < BLOCKS; b++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const float e = score[b][j] > -1e29f ? power2(score[b][j] - most[j >> 1]) : 0.0f;
        score[b][j] = e;
        sum[j >> 1] += e;
      }
#pragma unroll
    for (int b = 0; b < BLOCKS; b += 2) {
      if (first + b * 8 > last_query) continue;
      u32 weights[4];
      as_left(weights, score[b], score[b + 1]);
      times_columns(mix, weights, value_rows + b * 8 * PITCH);
    }
    __syncthreads();
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    sum[half] += __shfl_xor_sync(~0u, sum[half], 1);
    sum[half] += __shfl_xor_sync(~0u, sum[half], 2);
    const int query = query0 + half * 8;
    if (query >= SEQ_LEN) continue;
    if (LSE && t == 0) lse[(first_row + query) * HEADS + head] = most[half] / LOG2E + logf(sum[half]);$STORE
  }
"#;
