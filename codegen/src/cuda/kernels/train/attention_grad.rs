//! The gradient of attention over whole sequences, on bf16 tensor cores.
//!
//! Three kernels, so that every sum has one owner: D = rowsum(dy ⊙ y) of every row and head; dq,
//! by queries; dk and dv, by positions, over all query heads that read them. P is computed again
//! from the logarithms of its sums (Dao, arXiv 2307.08691).

use rabitc_rbx::SmArch;

use super::attention::Heads;
use super::attention_tiles::{TILE, by_queries, passing};
use super::{Layout, builder, finish, input, output};
use crate::cuda::source::{Builder, CudaSpec, REDUCTIONS, Source};

/// D = rowsum(dy ⊙ y), f32 `[rows, n_heads]`; a warp a row and head.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionDelta {
    /// Channels of a head.
    pub head_dim: usize,
    /// The attention's result.
    pub y: Layout,
    /// Its gradient.
    pub dy: Layout,
}

impl AttentionDelta {
    /// Blocks of a launch.
    pub fn blocks(&self) -> usize {
        (self.y.rows * (self.y.columns / self.head_dim)).div_ceil(8)
    }
}

impl CudaSpec for AttentionDelta {
    fn name(&self) -> String {
        let (y, dy) = (self.y.word(), self.dy.word());
        format!("train_attention_delta_{y}_{dy}_d{}", self.head_dim)
    }

    fn source(&self, arch: SmArch) -> Source {
        let heads = self.y.columns / self.head_dim;
        let b = builder(self.name(), arch, 256)
            .int("HEAD_DIM", self.head_dim)
            .int("HEADS", heads)
            .int("ALL", self.y.rows * heads)
            .int("Y_STRIDE", self.y.stride)
            .int("DY_STRIDE", self.dy.stride)
            .helper(REDUCTIONS);
        let b = input(input(b, "y", self.y.dtype), "dy", self.dy.dtype);
        finish(b.param("float", "delta"), DELTA)
    }
}

const DELTA: &str = r#"
  const int i = blockIdx.x * 8 + (threadIdx.x >> 5), lane = threadIdx.x & 31;
  if (i >= ALL) return;
  const size_t row = i / HEADS, column = (i % HEADS) * HEAD_DIM;
  float sum = 0.0f;
  for (int c = lane; c < HEAD_DIM; c += 32) {
    float a[1], b[1];
    read_y(1, a, row * Y_STRIDE + column + c);
    read_dy(1, b, row * DY_STRIDE + column + c);
    sum += a[0] * b[0];
  }
  sum = warp_sum(sum);
  if (lane == 0) delta[i] = sum;
"#;

/// dq, or dk and dv; blocks go over [`TILE`] rows (x), their heads (y) and sequences (z).
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionGrad {
    /// The heads.
    pub heads: Heads,
    /// Queries, keys, values and the result's gradient.
    pub operands: [Layout; 4],
    /// dq, dk and dv side by side.
    pub out: Layout,
    /// Whether this is the kernel of dq.
    pub of_queries: bool,
}

impl AttentionGrad {
    /// Blocks of a launch.
    pub fn grid(&self) -> [u32; 3] {
        let heads = &self.heads;
        let own = if self.of_queries {
            heads.n_heads
        } else {
            heads.n_kv_heads
        };
        [heads.seq_len.div_ceil(TILE), own, heads.sequences()].map(|n| n as u32)
    }

    fn constants(&self, arch: SmArch) -> Builder {
        let b = self.heads.constants(builder(self.name(), arch, 128));
        let mut b = b
            .int("TILE", TILE)
            .int("PASSING", passing(self.heads.channels()))
            .int("OUT_STRIDE", self.out.stride);
        for (name, x) in ["Q", "K", "V", "DY"].into_iter().zip(self.operands) {
            b = self.heads.rows(b, name, x);
        }
        let names = ["q", "k", "v", "dy"].into_iter();
        let b = names.fold(b, |b, name| b.param("const u16", name));
        let b = b.param("const float", "lse").param("const float", "delta");
        output(b, "out", self.out.dtype)
    }
}

impl CudaSpec for AttentionGrad {
    fn name(&self) -> String {
        format!(
            "train_attention_grad_{}_{}_{}_{}",
            if self.of_queries { "q" } else { "kv" },
            self.heads.word(),
            Layout::words(&self.operands),
            self.out.word()
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        let row = (self.heads.channels() + 8) * 2;
        let passing = 4 * passing(self.heads.channels()) * row;
        let b = self.constants(arch).helper(SLOPE);
        match self.of_queries {
            true => finish(b.shared(passing), &by_queries(PULLS, QUERIES)),
            false => finish(b.shared(passing + 2 * TILE * row), POSITIONS),
        }
    }
}

/// The slope of a score with respect to q·k, from the score.
const SLOPE: &str = r#"
__device__ __forceinline__ float slope(float s) { return CAP > 0.0f ? SCALE * (1.0f - s / CAP * (s / CAP)) : SCALE; }
"#;

/// What a block of dq reads of its queries.
const PULLS: &str = r#"
  const u16* const dy_rows = dy + first_row * DY_STRIDE + head * HEAD_DIM;
  u32 queries[STEPS][4], pulls[STEPS][4];
#pragma unroll
  for (int s = 0; s < STEPS; s++)
#pragma unroll
    for (int r = 0; r < 4; r++) {
      const int query = query0 + (r & 1) * 8, c = s * 16 + t * 2 + (r >> 1) * 8;
      queries[s][r] = two<Q_WHOLE>(q_rows, Q_STRIDE, query, SEQ_LEN, c);
      pulls[s][r] = two<DY_WHOLE>(dy_rows, DY_STRIDE, query, SEQ_LEN, c);
    }
  float logs[2], means[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const size_t row = first_row + min(query0 + half * 8, SEQ_LEN - 1);
    logs[half] = lse[row * HEADS + head] * LOG2E;
    means[half] = delta[row * HEADS + head];
  }
  float dq[TILES][4];
#pragma unroll
  for (int i = 0; i < TILES; i++) dq[i][0] = dq[i][1] = dq[i][2] = dq[i][3] = 0.0f;
"#;

/// dq, from each part of the positions. Scores are computed times log₂ e, as powers of two need them.
const QUERIES: &str = r#"
#pragma unroll
    for (int pair = 0; pair < BLOCKS; pair += 2) {
      if (first + pair * 8 > last_query) continue;
      float ds[2][4];
#pragma unroll
      for (int b = 0; b < 2; b++) {
        float score[4] = {0.0f, 0.0f, 0.0f, 0.0f}, dp[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        times_rows(score, queries, key_rows + (pair + b) * 8 * PITCH);
        times_rows(dp, pulls, value_rows + (pair + b) * 8 * PITCH);
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const int position = first + (pair + b) * 8 + t * 2 + (j & 1), own = query0 + (j >> 1) * 8;
          const float s = bounded(score[j]);
          ds[b][j] = sees(own, position) ? power2(s * LOG2E - logs[j >> 1]) * (dp[j] - means[j >> 1]) * slope(s) : 0.0f;
        }
      }
      u32 left[4];
      as_left(left, ds[0], ds[1]);
      times_columns(dq, left, key_rows + pair * 8 * PITCH);
    }
    __syncthreads();
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int query = query0 + half * 8;
    if (query >= SEQ_LEN) continue;
#pragma unroll
    for (int i = 0; i < TILES; i++)
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const int c = i * 8 + t * 2 + j;
        const float value[1] = {dq[i][half * 2 + j]};
        if (c < HEAD_DIM) write_out(1, value, (first_row + query) * OUT_STRIDE + head * HEAD_DIM + c);
      }
  }
"#;

/// Scores are transposed: positions in rows, queries in columns.
const POSITIONS: &str = r#"
  extern __shared__ __align__(16) u16 staged[];
  constexpr int BLOCKS = PASSING / 8;
  __shared__ float logs[2][PASSING], means[2][PASSING];
  u16* const key_rows = staged;
  u16* const value_rows = key_rows + TILE * PITCH;
  u16* const passing = value_rows + TILE * PITCH;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, row8 = lane >> 2, t = lane & 3;
  const int kv_head = blockIdx.y, first_position = blockIdx.x * TILE;
  const size_t first_row = (size_t)blockIdx.z * SEQ_LEN;
  const int own_position = first_position + warp * 16, position0 = own_position + row8;
  const int begin = first_position / PASSING * PASSING;
  const int end = WINDOW > 0 ? min(SEQ_LEN, first_position + TILE - 1 + WINDOW) : SEQ_LEN;
  const int tiles = (end - begin + PASSING - 1) / PASSING, all = tiles * GROUP;
  // Tile i of the queries of all heads of the group, one head after the other.
  auto arrive = [&](int i) {
    const int head = kv_head * GROUP + i / tiles, first = begin + i % tiles * PASSING, turn = i & 1;
    u16* const to = passing + turn * 2 * PASSING * PITCH;
    stage<PASSING, Q_WHOLE>(to, q + first_row * Q_STRIDE + head * HEAD_DIM, Q_STRIDE, first, SEQ_LEN);
    stage<PASSING, DY_WHOLE>(to + PASSING * PITCH, dy + first_row * DY_STRIDE + head * HEAD_DIM, DY_STRIDE, first, SEQ_LEN);
    if (threadIdx.x < PASSING) {
      const size_t row = first_row + min(first + (int)threadIdx.x, SEQ_LEN - 1);
      logs[turn][threadIdx.x] = lse[row * HEADS + head] * LOG2E;
      means[turn][threadIdx.x] = delta[row * HEADS + head];
    }
  };
  stage<TILE, K_WHOLE>(key_rows, k + first_row * K_STRIDE + kv_head * HEAD_DIM, K_STRIDE, first_position, SEQ_LEN);
  stage<TILE, V_WHOLE>(value_rows, v + first_row * V_STRIDE + kv_head * HEAD_DIM, V_STRIDE, first_position, SEQ_LEN);
  arrive(0);
  commit();
  float dk[TILES][4], dv[TILES][4];
#pragma unroll
  for (int i = 0; i < TILES; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) dk[i][j] = dv[i][j] = 0.0f;

  for (int i = 0; i < all; i++) {
    if (i + 1 < all) arrive(i + 1);
    commit();
    await<1>();
    __syncthreads();
    const int first = begin + i % tiles * PASSING, turn = i & 1;
    const u16* const query_rows = passing + turn * 2 * PASSING * PITCH;
    const u16* const pull_rows = query_rows + PASSING * PITCH;
#pragma unroll
    for (int pair = 0; pair < BLOCKS; pair += 2) {
      if (first + pair * 8 + 15 < own_position) continue;
      float p[2][4], ds[2][4];
#pragma unroll
      for (int b = 0; b < 2; b++)
#pragma unroll
        for (int j = 0; j < 4; j++) p[b][j] = ds[b][j] = 0.0f;
#pragma unroll
      for (int s = 0; s < STEPS; s++) {
        u32 left[4], right[4];
        const int at = (pair * 8 + (lane & 15)) * PITCH + s * 16 + (lane >> 4) * 8;
        load_left(left, key_rows + warp * 16 * PITCH + s * 16);
        load_four(right, query_rows + at);
        matrix_bf16(p[0], left, right[0], right[2]);
        matrix_bf16(p[1], left, right[1], right[3]);
        load_left(left, value_rows + warp * 16 * PITCH + s * 16);
        load_four(right, pull_rows + at);
        matrix_bf16(ds[0], left, right[0], right[2]);
        matrix_bf16(ds[1], left, right[1], right[3]);
      }
#pragma unroll
      for (int b = 0; b < 2; b++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const int column = (pair + b) * 8 + t * 2 + (j & 1), query = first + column, position = position0 + (j >> 1) * 8;
          const float s = bounded(p[b][j]);
          const bool seen = query < SEQ_LEN && sees(query, position);
          const float weight = seen ? power2(s * LOG2E - logs[turn][column]) : 0.0f;
          p[b][j] = weight;
          ds[b][j] = seen ? weight * (ds[b][j] - means[turn][column]) * slope(s) : 0.0f;
        }
      u32 left[4];
      as_left(left, p[0], p[1]);
      times_columns(dv, left, pull_rows + pair * 8 * PITCH);
      as_left(left, ds[0], ds[1]);
      times_columns(dk, left, query_rows + pair * 8 * PITCH);
    }
    __syncthreads();
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const int position = position0 + half * 8;
    if (position >= SEQ_LEN) continue;
#pragma unroll
    for (int i = 0; i < TILES; i++)
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const int c = i * 8 + t * 2 + j;
        if (c >= HEAD_DIM) continue;
        const size_t at = (first_row + position) * OUT_STRIDE + (HEADS + kv_head) * HEAD_DIM + c;
        const float key[1] = {dk[i][half * 2 + j]}, value[1] = {dv[i][half * 2 + j]};
        write_out(1, key, at);
        write_out(1, value, at + KV_HEADS * HEAD_DIM);
      }
  }
"#;
