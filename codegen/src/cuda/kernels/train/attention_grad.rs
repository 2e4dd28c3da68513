//! The gradient of attention over whole sequences, on bf16 tensor cores.
//!
//! Three kernels, so that every sum has one owner: D = rowsum(dy ⊙ y) of every row and head; dq,
//! by queries; dk and dv, by positions, over all query heads that read them. P is computed again
//! from the logarithms of its sums (Dao, arXiv 2307.08691).

use rabitc_rbx::SmArch;

use super::attention::Heads;
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

/// Rows of a block, 16 a warp.
pub const TILE: usize = 64;
/// Rows of what passes through shared memory at once.
const PASSING: usize = 32;

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
            .int("PASSING", PASSING)
            .int("OUT_STRIDE", self.out.stride);
        for (name, x) in ["Q", "K", "V", "DY"].into_iter().zip(self.operands) {
            let whole = x.vector >= 8 && self.heads.head_dim.is_multiple_of(8);
            b = b
                .int(&format!("{name}_STRIDE"), x.stride)
                .flag(&format!("{name}_WHOLE"), whole);
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
        let b = self.constants(arch).helper(SLOPE);
        match self.of_queries {
            true => finish(b.shared(2 * PASSING * row), QUERIES),
            false => finish(b.shared(2 * (PASSING + TILE) * row), POSITIONS),
        }
    }
}

/// The slope of a score with respect to q·k, from the score.
const SLOPE: &str = r#"
__device__ __forceinline__ float slope(float s) { return CAP > 0.0f ? SCALE * (1.0f - s / CAP * (s / CAP)) : SCALE; }
"#;

const QUERIES: &str = r#"
  extern __shared__ __align__(16) u16 staged[];
  constexpr int PITCH = CHANNELS + 8, STEPS = CHANNELS / 16, TILES = CHANNELS / 8, BLOCKS = PASSING / 8;
  u16* const key_rows = staged;
  u16* const value_rows = staged + PASSING * PITCH;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, row8 = lane >> 2, t = lane & 3;
  const int head = blockIdx.y, kv_head = head / GROUP, first_query = (gridDim.x - 1 - blockIdx.x) * TILE;
  const size_t first_row = (size_t)blockIdx.z * SEQ_LEN;
  const u16* const q_rows = q + first_row * Q_STRIDE + head * HEAD_DIM;
  const u16* const dy_rows = dy + first_row * DY_STRIDE + head * HEAD_DIM;
  const u16* const k_rows = k + first_row * K_STRIDE + kv_head * HEAD_DIM;
  const u16* const v_rows = v + first_row * V_STRIDE + kv_head * HEAD_DIM;
  const int query0 = first_query + warp * 16 + row8;

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
    logs[half] = lse[row * HEADS + head];
    means[half] = delta[row * HEADS + head];
  }
  float dq[TILES][4];
#pragma unroll
  for (int i = 0; i < TILES; i++) dq[i][0] = dq[i][1] = dq[i][2] = dq[i][3] = 0.0f;

  const int end = min(SEQ_LEN, first_query + TILE);
  const int begin = WINDOW > 0 ? max(0, first_query + 1 - WINDOW) / PASSING * PASSING : 0;
  for (int first = begin; first < end; first += PASSING) {
    __syncthreads();
    stage<PASSING, K_WHOLE>(key_rows, k_rows, K_STRIDE, first, end);
    stage<PASSING, V_WHOLE>(value_rows, v_rows, V_STRIDE, first, end);
    __syncthreads();
    float ds[BLOCKS][4];
#pragma unroll
    for (int b = 0; b < BLOCKS; b++) {
      float score[4] = {0.0f, 0.0f, 0.0f, 0.0f}, dp[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
      for (int s = 0; s < STEPS; s++) {
        const int at = (b * 8 + row8) * PITCH + s * 16 + t * 2;
        matrix_bf16(score, queries[s], *(const u32*)(key_rows + at), *(const u32*)(key_rows + at + 8));
        matrix_bf16(dp, pulls[s], *(const u32*)(value_rows + at), *(const u32*)(value_rows + at + 8));
      }
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int position = first + b * 8 + t * 2 + (j & 1), own = query0 + (j >> 1) * 8;
        const float s = bounded(score[j]);
        ds[b][j] = sees(own, position) ? __expf(s - logs[j >> 1]) * (dp[j] - means[j >> 1]) * slope(s) : 0.0f;
      }
    }
#pragma unroll
    for (int b = 0; b < BLOCKS; b += 2) {
      const u32 left[4] = {pack_bf16(ds[b][0], ds[b][1]), pack_bf16(ds[b][2], ds[b][3]),
                           pack_bf16(ds[b + 1][0], ds[b + 1][1]), pack_bf16(ds[b + 1][2], ds[b + 1][3])};
#pragma unroll
      for (int i = 0; i < TILES; i++) {
        u32 b0, b1;
        load_transposed(b0, b1, key_rows + (b * 8 + (lane & 15)) * PITCH + i * 8);
        matrix_bf16(dq[i], left, b0, b1);
      }
    }
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
  constexpr int PITCH = CHANNELS + 8, STEPS = CHANNELS / 16, TILES = CHANNELS / 8, BLOCKS = PASSING / 8;
  __shared__ float logs[PASSING], means[PASSING];
  u16* const key_rows = staged;
  u16* const value_rows = key_rows + TILE * PITCH;
  u16* const query_rows = value_rows + TILE * PITCH;
  u16* const pull_rows = query_rows + PASSING * PITCH;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, row8 = lane >> 2, t = lane & 3;
  const int kv_head = blockIdx.y, first_position = blockIdx.x * TILE;
  const size_t first_row = (size_t)blockIdx.z * SEQ_LEN;
  stage<TILE, K_WHOLE>(key_rows, k + first_row * K_STRIDE + kv_head * HEAD_DIM, K_STRIDE, first_position, SEQ_LEN);
  stage<TILE, V_WHOLE>(value_rows, v + first_row * V_STRIDE + kv_head * HEAD_DIM, V_STRIDE, first_position, SEQ_LEN);
  const int position0 = first_position + warp * 16 + row8;
  float dk[TILES][4], dv[TILES][4];
#pragma unroll
  for (int i = 0; i < TILES; i++)
#pragma unroll
    for (int j = 0; j < 4; j++) dk[i][j] = dv[i][j] = 0.0f;

  const int begin = first_position / PASSING * PASSING;
  const int end = WINDOW > 0 ? min(SEQ_LEN, first_position + TILE - 1 + WINDOW) : SEQ_LEN;
  for (int head = kv_head * GROUP; head < (kv_head + 1) * GROUP; head++) {
    const u16* const q_rows = q + first_row * Q_STRIDE + head * HEAD_DIM;
    const u16* const dy_rows = dy + first_row * DY_STRIDE + head * HEAD_DIM;
    for (int first = begin; first < end; first += PASSING) {
      __syncthreads();
      stage<PASSING, Q_WHOLE>(query_rows, q_rows, Q_STRIDE, first, SEQ_LEN);
      stage<PASSING, DY_WHOLE>(pull_rows, dy_rows, DY_STRIDE, first, SEQ_LEN);
      if (threadIdx.x < PASSING) {
        const size_t row = first_row + min(first + (int)threadIdx.x, SEQ_LEN - 1);
        logs[threadIdx.x] = lse[row * HEADS + head];
        means[threadIdx.x] = delta[row * HEADS + head];
      }
      __syncthreads();
      float p[BLOCKS][4], ds[BLOCKS][4];
#pragma unroll
      for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int j = 0; j < 4; j++) p[b][j] = ds[b][j] = 0.0f;
#pragma unroll
      for (int s = 0; s < STEPS; s++) {
        u32 keys[4], values[4];
        const int own = (warp * 16 + (lane & 15)) * PITCH + s * 16;
        load_left(keys, key_rows + own);
        load_left(values, value_rows + own);
#pragma unroll
        for (int b = 0; b < BLOCKS; b++) {
          const int at = (b * 8 + row8) * PITCH + s * 16 + t * 2;
          matrix_bf16(p[b], keys, *(const u32*)(query_rows + at), *(const u32*)(query_rows + at + 8));
          matrix_bf16(ds[b], values, *(const u32*)(pull_rows + at), *(const u32*)(pull_rows + at + 8));
        }
      }
#pragma unroll
      for (int b = 0; b < BLOCKS; b++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const int column = b * 8 + t * 2 + (j & 1), query = first + column, position = position0 + (j >> 1) * 8;
          const float s = bounded(p[b][j]);
          const float weight = query < SEQ_LEN && sees(query, position) ? __expf(s - logs[column]) : 0.0f;
          p[b][j] = weight;
          ds[b][j] = weight > 0.0f ? weight * (ds[b][j] - means[column]) * slope(s) : 0.0f;
        }
#pragma unroll
      for (int b = 0; b < BLOCKS; b += 2) {
        const u32 weights[4] = {pack_bf16(p[b][0], p[b][1]), pack_bf16(p[b][2], p[b][3]),
                                pack_bf16(p[b + 1][0], p[b + 1][1]), pack_bf16(p[b + 1][2], p[b + 1][3])};
        const u32 slopes[4] = {pack_bf16(ds[b][0], ds[b][1]), pack_bf16(ds[b][2], ds[b][3]),
                               pack_bf16(ds[b + 1][0], ds[b + 1][1]), pack_bf16(ds[b + 1][2], ds[b + 1][3])};
#pragma unroll
        for (int i = 0; i < TILES; i++) {
          u32 b0, b1;
          const int at = (b * 8 + (lane & 15)) * PITCH + i * 8;
          load_transposed(b0, b1, pull_rows + at);
          matrix_bf16(dv[i], weights, b0, b1);
          load_transposed(b0, b1, query_rows + at);
          matrix_bf16(dk[i], slopes, b0, b1);
        }
      }
    }
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
