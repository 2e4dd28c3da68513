//! The gradient of attention over whole sequences, on bf16 tensor cores.
//!
//! Two kernels, so that every sum has one owner: D = rowsum(dy ⊙ y) and dq, by queries; then dk and
//! dv, by positions, over all query heads that read them. P is computed again from the logarithms of
//! its sums (Dao, arXiv 2307.08691).

use rabitc_rbx::SmArch;

use super::attention::Heads;
use super::attention_tiles::{TILE, WARPS, at_once, by_queries, passing};
use super::{Layout, builder, finish, output};
use crate::cuda::source::{Builder, CudaSpec, Source};

/// Channels of the widest heads whose keys and values a warp holds in registers.
const MOST_HELD: usize = 128;

/// dq, and what the other kernel needs of every query: the logarithm of its sum to base 2 and
/// D = rowsum(dy ⊙ y), f32 `[rows, n_heads, 2]`. Blocks go over heads (x), sequences (y) and
/// [`TILE`] queries (z).
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionGradQueries {
    /// The heads.
    pub heads: Heads,
    /// Queries, keys, values and the result's gradient.
    pub operands: [Layout; 4],
    /// The attention's result.
    pub y: Layout,
    /// dq, dk and dv side by side.
    pub out: Layout,
}

/// dk and dv, given what the kernel of dq leaves; blocks go over key/value heads (x), sequences (y) and [`TILE`] positions (z).
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionGradPositions {
    /// The heads.
    pub heads: Heads,
    /// Queries, keys, values and the result's gradient.
    pub operands: [Layout; 4],
    /// dq, dk and dv side by side.
    pub out: Layout,
}

/// What both kernels begin with.
fn constants(name: String, arch: SmArch, heads: &Heads, operands: [Layout; 4]) -> Builder {
    let b = builder(name, arch, 32 * WARPS as u32);
    let mut b = heads
        .constants(b, passing(heads.channels(), 64))
        .helper(SLOPE);
    for (name, x) in ["Q", "K", "V", "DY"].into_iter().zip(operands) {
        b = heads.rows(b, name, x);
    }
    let names = ["q", "k", "v", "dy"].into_iter();
    names.fold(b, |b, name| b.param("const u16", name))
}

/// The result, which both kernels store a part of.
fn result(b: Builder, heads: &Heads, out: Layout) -> Builder {
    let b = b.int("OUT_STRIDE", out.stride);
    heads.stored(output(b, "out", out.dtype), out)
}

/// Bytes of shared memory that so many rows of a head take.
fn rows(heads: &Heads, rows: usize) -> usize {
    rows * (heads.channels() + 8) * 2
}

impl AttentionGradQueries {
    /// Blocks of a launch.
    pub fn grid(&self) -> [u32; 3] {
        let heads = &self.heads;
        let blocks = heads.seq_len.div_ceil(TILE);
        [heads.n_heads, heads.sequences(), blocks].map(|n| n as u32)
    }
}

impl CudaSpec for AttentionGradQueries {
    fn name(&self) -> String {
        let operands = Layout::words(&self.operands);
        let (heads, y, out) = (self.heads.word(), self.y.word(), self.out.word());
        format!("train_attention_grad_q_{heads}_{operands}_{y}_{out}")
    }

    fn source(&self, arch: SmArch) -> Source {
        let heads = &self.heads;
        let b = constants(self.name(), arch, heads, self.operands).helper(PULL_QUERIES);
        let b = b.min_blocks(at_once(heads.channels(), 4));
        let b = heads.rows(b, "Y", self.y).param("const u16", "y");
        let b = b.param("const float", "lse").param("float2", "parts");
        let b = result(b, heads, self.out);
        let staged = 4 * rows(heads, passing(heads.channels(), 64));
        finish(
            b.shared(staged),
            &by_queries(QUERIES_START, QUERIES_EACH, QUERIES_END),
        )
    }
}

impl AttentionGradPositions {
    /// Blocks of a launch.
    pub fn grid(&self) -> [u32; 3] {
        let heads = &self.heads;
        let blocks = heads.seq_len.div_ceil(TILE);
        [heads.n_kv_heads, heads.sequences(), blocks].map(|n| n as u32)
    }
}

impl CudaSpec for AttentionGradPositions {
    fn name(&self) -> String {
        let operands = Layout::words(&self.operands);
        let (heads, out) = (self.heads.word(), self.out.word());
        format!("train_attention_grad_kv_{heads}_{operands}_{out}")
    }

    fn source(&self, arch: SmArch) -> Source {
        let heads = &self.heads;
        let held = heads.channels() <= MOST_HELD;
        let b = constants(self.name(), arch, heads, self.operands)
            .min_blocks(at_once(heads.channels(), 3))
            .flag("HELD", held)
            .helper(PULL_POSITIONS)
            .param("const float2", "parts");
        let passing = 4 * rows(heads, passing(heads.channels(), 64));
        let own = if held { 0 } else { 2 * rows(heads, TILE) };
        finish(result(b, heads, self.out).shared(passing + own), POSITIONS)
    }
}

/// The slope of a score with respect to q·k, from the score: a factor that all slopes have, and the
/// rest.
const SLOPE: &str = r#"
constexpr float STEEP = CAP > 0.0f ? 1.0f : SCALE;
__device__ __forceinline__ float slope(float s) { return CAP > 0.0f ? SCALE * (1.0f - s / CAP * (s / CAP)) : 1.0f; }
"#;

/// dq, from a part of the positions. `logs` are those of the sums to base 2, as powers of two need
/// them.
const PULL_QUERIES: &str = r#"
template <bool MASKED> __device__ __forceinline__ void pull(float (&dq)[TILES][4], const u32 (&queries)[STEPS][4], const u32 (&pulls)[STEPS][4],
    const float (&logs)[2], const float (&means)[2], const u16* key_rows, const u16* value_rows, int first, int own_query) {
  const int row8 = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3, last_query = own_query + 15;
#pragma unroll 1
  for (int pair = 0; pair < BLOCKS; pair += 2) {
    if (MASKED && first + pair * 8 > last_query) continue;
    float ds[2][4];
#pragma unroll
    for (int b = 0; b < 2; b++) {
      float score[4] = {0.0f, 0.0f, 0.0f, 0.0f}, dp[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      times_rows(score, queries, key_rows + (pair + b) * 8 * PITCH);
      times_rows(dp, pulls, value_rows + (pair + b) * 8 * PITCH);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const float s = scored(score[j]);
        const bool seen = !MASKED || sees(own_query + row8 + (j >> 1) * 8, first + (pair + b) * 8 + t * 2 + (j & 1));
        const float weight = power2(fmaf(s, EXPONENT, -logs[j >> 1]));
        ds[b][j] = seen ? weight * (dp[j] - means[j >> 1]) * slope(s) : 0.0f;
      }
    }
    u32 left[4];
    as_left(left, ds[0], ds[1]);
    times_columns(dq, left, key_rows + pair * 8 * PITCH);
  }
}
"#;

/// What a block of dq reads of its queries. Threads that share a row add up its D.
const QUERIES_START: &str = r#"
  u32 queries[STEPS][4], pulls[STEPS][4], results[STEPS][4];
  load_rows<Q_WHOLE>(queries, q_rows, Q_STRIDE, own_query);
  load_rows<DY_WHOLE>(pulls, dy + first_row * DY_STRIDE + head * HEAD_DIM, DY_STRIDE, own_query);
  load_rows<Y_WHOLE>(results, y + first_row * Y_STRIDE + head * HEAD_DIM, Y_STRIDE, own_query);
  float dq[TILES][4], logs[2], means[2] = {0.0f, 0.0f};
#pragma unroll
  for (int s = 0; s < STEPS; s++)
#pragma unroll
    for (int r = 0; r < 4; r++) {
      float a[2], b[2];
      split_bf16(a, results[s][r]);
      split_bf16(b, pulls[s][r]);
      means[r & 1] += a[0] * b[0] + a[1] * b[1];
    }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    means[half] += __shfl_xor_sync(~0u, means[half], 1);
    means[half] += __shfl_xor_sync(~0u, means[half], 2);
    const int query = query0 + half * 8;
    const size_t at = (first_row + min(query, SEQ_LEN - 1)) * HEADS + head;
    logs[half] = lse[at] * LOG2E;
    if (t == 0 && query < SEQ_LEN) parts[at] = make_float2(logs[half], means[half]);
  }
#pragma unroll
  for (int i = 0; i < TILES; i++) dq[i][0] = dq[i][1] = dq[i][2] = dq[i][3] = 0.0f;
"#;

const QUERIES_EACH: &str =
    "pull<MASKED>(dq, queries, pulls, logs, means, key_rows, value_rows, first, own_query)";

const QUERIES_END: &str = r#"
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int query = query0 + half * 8;
    if (query >= SEQ_LEN) continue;
    const size_t at = (first_row + query) * OUT_STRIDE + head * HEAD_DIM;
#pragma unroll
    for (int i = 0; i < TILES; i++) {
      const float two[2] = {dq[i][half * 2] * STEEP, dq[i][half * 2 + 1] * STEEP};
      PUT(out, two, at, i * 8 + t * 2);
    }
  }
"#;

/// dk and dv, from a part of the queries. Scores are transposed: positions in rows, queries in
/// columns.
const PULL_POSITIONS: &str = r#"
struct Own { u32 keys[HELD ? STEPS : 1][4], values[HELD ? STEPS : 1][4]; const u16* key_rows, *value_rows; };
// d[b] += 16 positions (16 channels of them, held or at `left_rows`) times 16 queries, 8 in each b.
__device__ __forceinline__ void times_queries(float (*d)[4], const u32* held, const u16* left_rows, const u16* right_rows) {
  u32 right[4];
  load_four(right, right_rows);
  if constexpr (HELD) {
    matrix_bf16(d[0], held, right[0], right[1]);
    matrix_bf16(d[1], held, right[2], right[3]);
  } else {
    u32 left[4];
    load_left(left, left_rows);
    matrix_bf16(d[0], left, right[0], right[1]);
    matrix_bf16(d[1], left, right[2], right[3]);
  }
}
template <bool MASKED> __device__ __forceinline__ void pull(float (&dk)[TILES][4], float (&dv)[TILES][4], const Own& own,
    const float2* sums, const u16* query_rows, const u16* pull_rows, int first, int own_position) {
  const int lane = threadIdx.x & 31, row8 = lane >> 2, t = lane & 3;
#pragma unroll 1
  for (int pair = 0; pair < BLOCKS; pair += 2) {
    if (MASKED && first + pair * 8 + 15 < own_position) continue;
    float p[2][4], ds[2][4];
#pragma unroll
    for (int b = 0; b < 2; b++)
#pragma unroll
      for (int j = 0; j < 4; j++) p[b][j] = ds[b][j] = 0.0f;
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
      const int at = (pair * 8 + (lane >> 4) * 8 + (lane & 7)) * PITCH + s * 16 + (lane >> 3 & 1) * 8;
      times_queries(p, own.keys[HELD ? s : 0], own.key_rows + s * 16, query_rows + at);
      times_queries(ds, own.values[HELD ? s : 0], own.value_rows + s * 16, pull_rows + at);
    }
#pragma unroll
    for (int b = 0; b < 2; b++) {
      const int column = (pair + b) * 8 + t * 2;
      const float4 two = *(const float4*)(sums + column);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int query = first + column + (j & 1), position = own_position + row8 + (j >> 1) * 8;
        const float s = scored(p[b][j]);
        const bool seen = !MASKED || (query < SEQ_LEN && sees(query, position));
        const float weight = seen ? power2(fmaf(s, EXPONENT, (j & 1) ? -two.z : -two.x)) : 0.0f;
        p[b][j] = weight;
        ds[b][j] = seen ? weight * (ds[b][j] - ((j & 1) ? two.w : two.y)) * slope(s) : 0.0f;
      }
    }
    u32 left[4];
    as_left(left, p[0], p[1]);
    times_columns(dv, left, pull_rows + pair * 8 * PITCH);
    as_left(left, ds[0], ds[1]);
    times_columns(dk, left, query_rows + pair * 8 * PITCH);
  }
}
"#;

/// A block walks over the queries that see its positions, of all heads of the group. Blocks that are
/// seen by most come first.
const POSITIONS: &str = r#"
  extern __shared__ __align__(16) u16 staged[];
  __shared__ __align__(16) float2 sums[2][PASSING];
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, row8 = lane >> 2, t = lane & 3;
  const int kv_head = blockIdx.x, first_position = blockIdx.z * TILE, own_position = first_position + warp * 16;
  const size_t first_row = (size_t)blockIdx.y * SEQ_LEN;
  const int begin = first_position / PASSING * PASSING;
  const int end = WINDOW > 0 ? min(SEQ_LEN, first_position + TILE - 1 + WINDOW) : SEQ_LEN;
  // The queries from `first` on of a head, to one of two places.
  auto arrive = [&](int head, int first, int turn) {
    u16* const to = staged + turn * 2 * PASSING * PITCH;
    stage<PASSING, Q_WHOLE, Q_STRIDE>(to, q + first_row * Q_STRIDE + head * HEAD_DIM, first, SEQ_LEN);
    stage<PASSING, DY_WHOLE, DY_STRIDE>(to + PASSING * PITCH, dy + first_row * DY_STRIDE + head * HEAD_DIM, first, SEQ_LEN);
    if (threadIdx.x < PASSING) {
      const int query = first + threadIdx.x;
      copy<8>((u32)__cvta_generic_to_shared(&sums[turn][threadIdx.x]), parts + (first_row + query) * HEADS + head, query < SEQ_LEN);
    }
    commit();
  };
  const u16* const k_rows = k + first_row * K_STRIDE + kv_head * HEAD_DIM;
  const u16* const v_rows = v + first_row * V_STRIDE + kv_head * HEAD_DIM;
  Own own;
  if constexpr (HELD) {
    load_rows<K_WHOLE>(own.keys, k_rows, K_STRIDE, own_position);
    load_rows<V_WHOLE>(own.values, v_rows, V_STRIDE, own_position);
  } else {
    u16* const key_rows = staged + 4 * PASSING * PITCH;
    stage<TILE, K_WHOLE, K_STRIDE>(key_rows, k_rows, first_position, SEQ_LEN);
    stage<TILE, V_WHOLE, V_STRIDE>(key_rows + TILE * PITCH, v_rows, first_position, SEQ_LEN);
    own.key_rows = key_rows + warp * 16 * PITCH;
    own.value_rows = own.key_rows + TILE * PITCH;
  }
  int head = kv_head * GROUP, first = begin, turn = 0;
  arrive(head, first, turn);
  float dk[TILES][4], dv[TILES][4];
#pragma unroll
  for (int i = 0; i < TILES; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) dk[i][j] = dv[i][j] = 0.0f;

  while (head < (kv_head + 1) * GROUP) {
    await<0>();
    __syncthreads();
    const bool same = first + PASSING < end;
    const int next_head = same ? head : head + 1, next = same ? first + PASSING : begin;
    if (next_head < (kv_head + 1) * GROUP) arrive(next_head, next, turn ^ 1);
    const int last = first + PASSING - 1;
    const u16* const query_rows = staged + turn * 2 * PASSING * PITCH;
    const u16* const pull_rows = query_rows + PASSING * PITCH;
    const bool seen = last >= own_position && (WINDOW == 0 || first - own_position - 15 < WINDOW);
    const bool whole = first >= own_position + 15 && last < SEQ_LEN && (WINDOW == 0 || last - own_position < WINDOW);
    if (whole) pull<false>(dk, dv, own, sums[turn], query_rows, pull_rows, first, own_position);
    else if (seen) pull<true>(dk, dv, own, sums[turn], query_rows, pull_rows, first, own_position);
    head = next_head;
    first = next;
    turn ^= 1;
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int position = own_position + row8 + half * 8;
    if (position >= SEQ_LEN) continue;
    const size_t at = (first_row + position) * OUT_STRIDE + (HEADS + kv_head) * HEAD_DIM;
#pragma unroll
    for (int i = 0; i < TILES; i++) {
      const float key[2] = {dk[i][half * 2] * STEEP, dk[i][half * 2 + 1] * STEEP};
      const float value[2] = {dv[i][half * 2], dv[i][half * 2 + 1]};
      PUT(out, key, at, i * 8 + t * 2);
      PUT(out, value, at + KV_HEADS * HEAD_DIM, i * 8 + t * 2);
    }
  }
"#;
