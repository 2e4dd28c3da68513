//! Attention of a few tokens over the cache, with everything between it and the projections.
//!
//! A cluster of blocks owns a key/value head; its blocks split the cached positions and combine
//! their maxima, sums and weighted values in shared memory. The last block has the new tokens too:
//! it computes their keys and values, appends them to the cache, and attends to them from shared
//! memory, so that no block waits for another's writes. Lanes hold eight channels each; as many
//! positions as fit share a warp.

use rabitc_rbx::SmArch;

use super::heads::Chains;
use crate::cuda::source::{Builder, CLUSTER, CudaSpec, NO_CLUSTER, REDUCTIONS, Source};

/// Attention of one layer; blocks are key/value heads times splits.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionDecode {
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Channels of a head; even, at most 256.
    pub head_dim: usize,
    /// Tokens at once, 1 to 8.
    pub tokens: usize,
    /// Blocks of a cluster.
    pub splits: usize,
    /// Factor on scores.
    pub scale: f32,
    /// Positions that a token sees, itself included; 0 for all.
    pub window: usize,
    /// Bound of the scores; 0 for none.
    pub softcap: f32,
    /// What happens to the heads first.
    pub chains: Chains,
}

const WARPS: usize = 4;

impl AttentionDecode {
    /// Blocks along x.
    pub fn grid(&self) -> usize {
        self.n_kv_heads * self.splits
    }

    fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    /// Query rows of a block: every token of every query head of the group.
    fn rows(&self) -> usize {
        self.group() * self.tokens
    }

    /// Query rows that pass over the cache together: bounded by registers.
    fn rows_at_once(&self) -> usize {
        self.rows().min(4)
    }

    /// Positions of a lane that are in flight together.
    fn batch(&self) -> usize {
        if self.rows_at_once() <= 2 { 8 } else { 4 }
    }

    fn padded(&self) -> usize {
        self.head_dim.next_multiple_of(8)
    }

    /// Lanes that share a position.
    fn lanes(&self) -> usize {
        (self.padded() / 8).next_power_of_two()
    }

    /// Bytes of shared memory.
    pub fn shared_bytes(&self) -> usize {
        self.floats().iter().sum::<usize>() * 4
    }

    /// Floats in shared memory: queries, new keys and values as f32, partial results of the warps,
    /// results of the splits.
    fn floats(&self) -> [usize; 5] {
        let row = self.padded() + 2;
        [
            self.rows() * self.padded(),
            self.tokens * self.padded(),
            self.tokens * self.padded(),
            WARPS * self.rows_at_once() * row,
            self.splits * self.rows().div_ceil(self.splits) * row,
        ]
    }
}

impl CudaSpec for AttentionDecode {
    fn name(&self) -> String {
        format!(
            "attention_decode_h{}_{}x{}_t{}_s{:08x}_w{}_c{:08x}_p{}_{}",
            self.n_heads,
            self.n_kv_heads,
            self.head_dim,
            self.tokens,
            self.scale.to_bits(),
            self.window,
            self.softcap.to_bits(),
            self.splits,
            self.chains.name()
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        let clusters = arch.has_clusters() && self.splits > 1;
        let b = Builder::new(self.name(), arch, (WARPS * 32) as u32)
            .min_blocks(if self.rows_at_once() <= 2 { 3 } else { 1 })
            .cluster(self.splits as u32)
            .shared(self.shared_bytes())
            .int("HEADS", self.n_heads)
            .int("GROUP", self.group())
            .int("HEAD_DIM", self.head_dim)
            .int("PADDED", self.padded())
            .int("LANES", self.lanes())
            .int("TOKENS", self.tokens)
            .int("SPLITS", self.splits)
            .int("ROWS", self.rows())
            .int("AT_ONCE", self.rows_at_once())
            .int("OWNED", self.rows().div_ceil(self.splits))
            .int("WARPS", WARPS)
            .int("BATCH", self.batch())
            .int("WINDOW", self.window)
            .float("SCALE", self.scale)
            .float("CAP", self.softcap)
            .helper(REDUCTIONS)
            .helper(crate::cuda::source::ACTIVATIONS)
            .helper(if clusters { CLUSTER } else { NO_CLUSTER })
            .helper(HALVES);
        self.chains
            .declare(b)
            .param("u16", "keys")
            .param("u16", "values")
            .param("float", "out")
            .param("const State", "state")
            .body(BODY)
    }
}

const HALVES: &str = r#"
__device__ __forceinline__ void unpack_f16(uint4 v, float* to) {
  const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; i++) { to[2 * i] = f16_to_f32((u16)words[i]); to[2 * i + 1] = f16_to_f32((u16)(words[i] >> 16)); }
}
"#;

const BODY: &str = r#"
  extern __shared__ __align__(16) float shared[];
  constexpr int ROW = PADDED + 2, GROUPS = 32 / LANES;
  float* const queries = shared;
  // New keys and values are computed as f32 and rounded in place, row by row.
  float* const new_keys = queries + ROWS * PADDED;
  float* const new_values = new_keys + TOKENS * PADDED;
  float* const partial = new_values + TOKENS * PADDED;
  float* const inbox = partial + WARPS * AT_ONCE * ROW;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int kv_head = blockIdx.x / SPLITS, split = blockIdx.x % SPLITS;
  allow_next();
  if (SPLITS > 1) cluster_arrive();
  const int start = state->start, capacity = state->capacity;
  const int tokens = TOKENS == 1 ? 1 : min(TOKENS, state->tokens);
  // The cached positions that any of the tokens sees, and this block's share of them.
  const int visible = WINDOW > 0 ? max(0, start + 1 - WINDOW) : 0;
  const int each = ((start - visible + SPLITS - 1) / SPLITS + 7) & ~7;
  const int begin = min(start, visible + split * each), end = min(start, begin + each);
  u16* const k_rows = keys + (size_t)kv_head * capacity * PADDED;
  u16* const v_rows = values + (size_t)kv_head * capacity * PADDED;
  const int channel = (lane % LANES) * 8;
  const bool holds = channel < PADDED;
  const uint4 zero = make_uint4(0, 0, 0, 0);

  // The first positions of every lane were cached by earlier steps: they need not wait.
  uint4 early_k[BATCH], early_v[BATCH];
#pragma unroll
  for (int i = 0; i < BATCH; i++) {
    const int position = begin + (i * WARPS + warp) * GROUPS + lane / LANES;
    const bool there = holds && position < end;
    early_k[i] = there ? *(const uint4*)(k_rows + (size_t)position * PADDED + channel) : zero;
    early_v[i] = there ? *(const uint4*)(v_rows + (size_t)position * PADDED + channel) : zero;
  }
  wait_for_previous();

  for (int i = threadIdx.x; i < ROWS * PADDED; i += WARPS * 32) if (i % PADDED >= HEAD_DIM) queries[i] = 0.0f;
  for (int row = warp; row < ROWS; row += WARPS) {
    const int token = row / GROUP, head = kv_head * GROUP + row % GROUP;
    if (token < tokens)
      load_q_head(q + (size_t)token * Q_STRIDE, q_bias, q_norm, q_rope, head, start + token, SCALE, queries + row * PADDED);
  }
  const bool last = split == SPLITS - 1;
  if (last) {
    for (int i = (warp + WARPS - 1) % WARPS; i < 2 * tokens; i += WARPS) {
      const int token = i >> 1, position = start + token;
      float* const to = (i & 1 ? new_values : new_keys) + token * PADDED;
      if (i & 1) load_v_head(v + (size_t)token * V_STRIDE, v_bias, v_norm, v_rope, kv_head, position, 1.0f, to);
      else load_k_head(k + (size_t)token * K_STRIDE, k_bias, k_norm, k_rope, kv_head, position, 1.0f, to);
      __syncwarp();
      u16* const cached = (i & 1 ? v_rows : k_rows) + (size_t)position * PADDED;
      // What later steps will read is what this one reads.
      u16 rounded[(PADDED + 31) / 32];
#pragma unroll
      for (int p = 0; p < (PADDED + 31) / 32; p++) {
        const int c = p * 32 + lane;
        rounded[p] = c < HEAD_DIM ? f32_to_f16(to[c]) : 0;
        if (c < PADDED) cached[c] = rounded[p];
      }
      __syncwarp();
#pragma unroll
      for (int p = 0; p < (PADDED + 31) / 32; p++)
        if (p * 32 + lane < PADDED) ((u16*)to)[p * 32 + lane] = rounded[p];
    }
  }
  __syncthreads();
  if (SPLITS > 1) cluster_wait();

  for (int row0 = 0; row0 < ROWS; row0 += AT_ONCE) {
    float query[AT_ONCE][8], most[AT_ONCE], sum[AT_ONCE], mix[AT_ONCE][8];
#pragma unroll
    for (int r = 0; r < AT_ONCE; r++) {
      most[r] = -1e30f;
      sum[r] = 0.0f;
#pragma unroll
      for (int c = 0; c < 8; c++) {
        mix[r][c] = 0.0f;
        query[r][c] = holds && row0 + r < ROWS ? queries[(row0 + r) * PADDED + channel + c] : 0.0f;
      }
    }
    // A lane group attends to its positions, of which every lane has eight channels.
    auto attend = [&](const uint4* key, const uint4* value, const int* position) {
#pragma unroll
      for (int r = 0; r < AT_ONCE; r++) {
        const int own = start + (row0 + r) / GROUP;
        float score[BATCH], highest = most[r];
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
          float s = 0.0f, channels[8];
          unpack_f16(key[i], channels);
#pragma unroll
          for (int c = 0; c < 8; c++) s = fmaf(query[r][c], channels[c], s);
#pragma unroll
          for (int o = LANES / 2; o; o >>= 1) s += __shfl_xor_sync(~0u, s, o);
          if (CAP > 0.0f) s = CAP * tanh_exact(s / CAP);
          const bool seen = position[i] >= 0 && position[i] <= own && (WINDOW == 0 || own - position[i] < WINDOW);
          score[i] = seen ? s : -1e30f;
          highest = fmaxf(highest, score[i]);
        }
        const float keep = __expf(most[r] - highest);
        most[r] = highest;
        sum[r] *= keep;
#pragma unroll
        for (int c = 0; c < 8; c++) mix[r][c] *= keep;
#pragma unroll
        for (int i = 0; i < BATCH; i++) {
          const float e = score[i] > -1e29f ? __expf(score[i] - highest) : 0.0f;
          float channels[8];
          unpack_f16(value[i], channels);
          sum[r] += e;
#pragma unroll
          for (int c = 0; c < 8; c++) mix[r][c] = fmaf(e, channels[c], mix[r][c]);
        }
      }
    };
    for (int first = begin; first < end; first += BATCH * WARPS * GROUPS) {
      uint4 key[BATCH], value[BATCH];
      int position[BATCH];
#pragma unroll
      for (int i = 0; i < BATCH; i++) {
        position[i] = first + (i * WARPS + warp) * GROUPS + lane / LANES;
        const bool there = position[i] < end;
        key[i] = value[i] = zero;
        if (first == begin) { key[i] = early_k[i]; value[i] = early_v[i]; }
        else if (there && holds) {
          key[i] = *(const uint4*)(k_rows + (size_t)position[i] * PADDED + channel);
          value[i] = *(const uint4*)(v_rows + (size_t)position[i] * PADDED + channel);
        }
        if (!there) position[i] = -1;
      }
      attend(key, value, position);
    }
    if (last && warp * GROUPS * BATCH < tokens) {
      uint4 key[BATCH], value[BATCH];
      int position[BATCH];
#pragma unroll
      for (int i = 0; i < BATCH; i++) {
        const int token = (warp * GROUPS + lane / LANES) * BATCH + i;
        const bool there = token < tokens;
        position[i] = there ? start + token : -1;
        key[i] = there && holds ? *(const uint4*)((const u16*)(new_keys + token * PADDED) + channel) : zero;
        value[i] = there && holds ? *(const uint4*)((const u16*)(new_values + token * PADDED) + channel) : zero;
      }
      attend(key, value, position);
    }
    // Lane groups, then warps, then splits.
#pragma unroll
    for (int r = 0; r < AT_ONCE; r++) {
      float highest = most[r];
#pragma unroll
      for (int o = LANES; o < 32; o <<= 1) highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, o));
      const float keep = __expf(most[r] - highest);
      sum[r] *= keep;
#pragma unroll
      for (int c = 0; c < 8; c++) mix[r][c] *= keep;
#pragma unroll
      for (int o = LANES; o < 32; o <<= 1) {
        sum[r] += __shfl_xor_sync(~0u, sum[r], o);
#pragma unroll
        for (int c = 0; c < 8; c++) mix[r][c] += __shfl_xor_sync(~0u, mix[r][c], o);
      }
      float* const to = partial + (warp * AT_ONCE + r) * ROW;
      if (lane < LANES && holds) {
#pragma unroll
        for (int c = 0; c < 8; c++) to[channel + c] = mix[r][c];
      }
      if (lane == 0) { to[PADDED] = highest; to[PADDED + 1] = sum[r]; }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < AT_ONCE * ROW; i += WARPS * 32) {
      const int r = i / ROW, c = i % ROW, row = row0 + r;
      if (row >= ROWS) break;
      float highest = -1e30f, v = 0.0f;
#pragma unroll
      for (int w = 0; w < WARPS; w++) highest = fmaxf(highest, partial[(w * AT_ONCE + r) * ROW + PADDED]);
#pragma unroll
      for (int w = 0; w < WARPS; w++) {
        const float* from = partial + (w * AT_ONCE + r) * ROW;
        if (c != PADDED) v = fmaf(__expf(from[PADDED] - highest), from[c], v);
      }
      if (c == PADDED) v = highest;
      store_remote(inbox + (split * OWNED + row / SPLITS) * ROW + c, row % SPLITS, v);
    }
    __syncthreads();
  }
  if (SPLITS > 1) cluster_arrive();
  cluster_wait();
  for (int i = threadIdx.x; i < OWNED * HEAD_DIM; i += WARPS * 32) {
    const int row = i / HEAD_DIM * SPLITS + split, c = i % HEAD_DIM, token = row / GROUP;
    if (row >= ROWS || token >= tokens) break;
    float highest = -1e30f, v = 0.0f, all = 0.0f;
#pragma unroll
    for (int s = 0; s < SPLITS; s++) highest = fmaxf(highest, inbox[(s * OWNED + i / HEAD_DIM) * ROW + PADDED]);
#pragma unroll
    for (int s = 0; s < SPLITS; s++) {
      const float* from = inbox + (s * OWNED + i / HEAD_DIM) * ROW;
      const float e = __expf(from[PADDED] - highest);
      v = fmaf(e, from[c], v);
      all = fmaf(e, from[PADDED + 1], all);
    }
    out[((size_t)token * HEADS + kv_head * GROUP + row % GROUP) * HEAD_DIM + c] = v / all;
  }
"#;
