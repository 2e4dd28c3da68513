//! Attention of one token over the cache, with everything between it and the projections.
//!
//! A cluster of blocks owns up to four query heads of a key/value head; its blocks split the cached
//! positions and combine their maxima, sums and weighted values in shared memory. The cache is
//! copied to shared memory before the kernel ahead has ended, a stage of positions at a time. The
//! last block has the new token too: it computes its
//! key and value, appends them to the cache, and attends to them from shared memory, so that no
//! block waits for another's writes. Lanes hold eight channels each; as many positions as fit share
//! a warp.

use rabitc_rbx::SmArch;

use super::copies::{ASYNC_COPY, BULK_COPY};
use super::heads::Chains;
use super::planes::UNPACK_F16;
use crate::cuda::source::{
    ACTIVATIONS, Builder, CLUSTER, CudaSpec, NO_CLUSTER, REDUCTIONS, Source,
};

/// Query heads that a block has at most: bounded by registers.
const MOST_ROWS: usize = 4;
/// Groups of lanes' positions that a warp attends to together.
const BATCH: usize = 4;

/// Attention of one layer for one token.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionToken {
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Channels of a head; even, at most 256.
    pub head_dim: usize,
    /// Blocks of a cluster.
    pub splits: usize,
    /// Warps of a block.
    pub warps: usize,
    /// Stages of positions that are under way or in use.
    pub stages: usize,
    /// Factor on scores.
    pub scale: f32,
    /// Positions that a token sees, itself included; 0 for all.
    pub window: usize,
    /// Bound of the scores; 0 for none.
    pub softcap: f32,
    /// What happens to the heads first.
    pub chains: Chains,
}

impl AttentionToken {
    fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    /// Blocks that share a key/value head but not its query heads.
    fn row_groups(&self) -> usize {
        self.group().div_ceil(MOST_ROWS)
    }

    /// Query heads of a block at most.
    fn rows(&self) -> usize {
        self.group().div_ceil(self.row_groups())
    }

    /// Blocks along x.
    pub fn grid(&self) -> usize {
        self.n_kv_heads * self.row_groups() * self.splits
    }

    fn padded(&self) -> usize {
        self.head_dim.next_multiple_of(8)
    }

    /// Lanes that share a position.
    fn lanes(&self) -> usize {
        (self.padded() / 8).next_power_of_two()
    }

    /// Query heads that a block finishes at most.
    fn owned(&self) -> usize {
        self.rows().div_ceil(self.splits)
    }

    /// Positions of a stage.
    fn stage(&self) -> usize {
        self.warps * (32 / self.lanes()) * BATCH
    }

    /// Bytes of copied keys and values.
    fn ring_bytes(&self) -> usize {
        self.stages * self.stage() * self.padded() * 4
    }

    /// Bytes of shared memory: copies, barriers, queries, the new key and value, partial results of the
    /// warps, results of the splits.
    pub fn shared_bytes(&self) -> usize {
        let row = self.padded() + 2;
        let floats = (self.rows() + 2) * self.padded()
            + self.warps * self.rows() * row
            + self.splits * self.owned() * row;
        self.ring_bytes() + self.stages.next_multiple_of(2) * 8 + floats * 4
    }
}

impl CudaSpec for AttentionToken {
    fn name(&self) -> String {
        format!(
            "attention_token_h{}_{}x{}_s{:08x}_w{}_c{:08x}_p{}w{}d{}_{}",
            self.n_heads,
            self.n_kv_heads,
            self.head_dim,
            self.scale.to_bits(),
            self.window,
            self.softcap.to_bits(),
            self.splits,
            self.warps,
            self.stages,
            self.chains.name()
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        let bulk = arch.has_clusters();
        let b = Builder::new(self.name(), arch, (self.warps * 32) as u32)
            .registers(if self.rows() == 1 { 80 } else { 168 })
            .cluster(self.splits as u32)
            .shared(self.shared_bytes())
            .int("HEADS", self.n_heads)
            .int("GROUP", self.group())
            .int("ROW_GROUPS", self.row_groups())
            .int("ROWS", self.rows())
            .int("OWNED", self.owned())
            .int("HEAD_DIM", self.head_dim)
            .int("PADDED", self.padded())
            .int("LANES", self.lanes())
            .int("SPLITS", self.splits)
            .int("WARPS", self.warps)
            .int("STAGE", self.stage())
            .int("STAGES", self.stages)
            .int("BATCH", BATCH)
            .int("RING_BYTES", self.ring_bytes())
            .int("WINDOW", self.window)
            .float("SCALE", self.scale)
            .float("CAP", self.softcap)
            .helper(REDUCTIONS)
            .helper(ACTIVATIONS)
            .helper(if bulk && self.splits > 1 {
                CLUSTER
            } else {
                NO_CLUSTER
            })
            .helper(ASYNC_COPY)
            .helper(if bulk { BULK_COPY } else { "" })
            .helper(UNPACK_F16);
        let copies = if bulk { BULK_CACHE } else { LANE_CACHE };
        self.chains
            .declare(b)
            .param("u16", "keys")
            .param("u16", "values")
            .param("float", "out")
            .param("const State", "state")
            .body(&[BEGIN, copies, HEADS, ATTEND, COMBINE].concat())
    }
}

/// Where this block works, and the copies, of what earlier steps cached.
const BEGIN: &str = r#"
  extern __shared__ __align__(128) u8 shared[];
  constexpr int ROW = PADDED + 2, GROUPS = 32 / LANES, STAGE_BYTES = STAGE * PADDED * 2;
  u64* const full = (u64*)(shared + RING_BYTES);
  float* const queries = (float*)(full + (STAGES + 1) / 2 * 2);
  float* const new_key = queries + ROWS * PADDED;
  float* const new_value = new_key + PADDED;
  float* const partial = new_value + PADDED;
  float* const inbox = partial + WARPS * ROWS * ROW;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int split = blockIdx.x % SPLITS, kv_head = blockIdx.x / SPLITS / ROW_GROUPS;
  const int first_row = blockIdx.x / SPLITS % ROW_GROUPS * ROWS, rows = min(ROWS, GROUP - first_row);
  const int first_head = kv_head * GROUP + first_row;
  allow_next();
  if (SPLITS > 1) cluster_arrive();
  // The positions that the token sees, and this block's share of them.
  const int start = state->start, capacity = state->capacity;
  const int visible = WINDOW > 0 ? max(0, start + 1 - WINDOW) : 0;
  const int each = (start - visible + SPLITS - 1) / SPLITS;
  const int begin = min(start, visible + split * each);
  const bool last = split == SPLITS - 1;
  const int end = last ? start + 1 : min(start, begin + each);
  u16* const k_rows = keys + (size_t)kv_head * capacity * PADDED;
  u16* const v_rows = values + (size_t)kv_head * capacity * PADDED;
  const int channel = lane % LANES * 8;
  const bool holds = channel < PADDED;
  const uint4 zero = make_uint4(0, 0, 0, 0);
  const int cached = min(end, start);
  // The place of a position in its stage, of those that a lane has.
  auto place_of = [&](int i) { return (i * WARPS + warp) * GROUPS + lane / LANES; };
"#;

/// The cache by bulk copies that one thread asks for.
const BULK_CACHE: &str = r#"
  auto fetch = [&](int n) {
    const int first = begin + n * STAGE, count = min(STAGE, cached - first);
    if (count <= 0) return;
    u8* const to = shared + n % STAGES * STAGE_BYTES * 2;
    barrier_expect(full + n % STAGES, count * PADDED * 4);
    copy_bulk(to, k_rows + (size_t)first * PADDED, count * PADDED * 2, full + n % STAGES);
    copy_bulk(to + STAGE_BYTES, v_rows + (size_t)first * PADDED, count * PADDED * 2, full + n % STAGES);
  };
  if (threadIdx.x == 0) {
    for (int n = 0; n < STAGES; n++) barrier_init(full + n, 1);
    barrier_inits_done();
    for (int n = 0; n < STAGES; n++) fetch(n);
  }
  auto await = [&](int n) { if (begin + n * STAGE < cached) barrier_wait(full + n % STAGES, n / STAGES & 1); };
  auto refill = [&](int n) {
    if (begin + (n + STAGES) * STAGE >= cached) return;
    __syncthreads();
    if (threadIdx.x == 0) fetch(n + STAGES);
  };
  wait_for_previous();
"#;

/// The cache by copies that every lane asks for itself: it reads nothing but what it copied.
const LANE_CACHE: &str = r#"
  auto fetch = [&](int n) {
#pragma unroll
    for (int i = 0; i < BATCH; i++) {
      const int position = begin + n * STAGE + place_of(i);
      const u32 to = address_of(shared) + n % STAGES * STAGE_BYTES * 2 + (place_of(i) * PADDED + channel) * 2;
      if (!holds || position >= cached) continue;
      copy_async(to, k_rows + (size_t)position * PADDED + channel);
      copy_async(to + STAGE_BYTES, v_rows + (size_t)position * PADDED + channel);
    }
    copies_end_group();
  };
  for (int n = 0; n < STAGES; n++) fetch(n);
  auto await = [&](int) { copies_wait<STAGES - 1>(); };
  auto refill = [&](int n) { fetch(n + STAGES); };
  wait_for_previous();
"#;

/// Queries, and the new key and value.
const HEADS: &str = r#"
  for (int i = threadIdx.x; i < ROWS * PADDED; i += WARPS * 32) if (i % PADDED >= HEAD_DIM) queries[i] = 0.0f;
  for (int row = warp; row < rows; row += WARPS)
    load_q_head(q, q_bias, q_norm, q_rope, first_head + row, start, SCALE, queries + row * PADDED);
  if (last && warp >= WARPS - 2) {
    const bool is_value = warp == WARPS - 1;
    float* const to = is_value ? new_value : new_key;
    if (is_value) load_v_head(v, v_bias, v_norm, v_rope, kv_head, start, 1.0f, to);
    else load_k_head(k, k_bias, k_norm, k_rope, kv_head, start, 1.0f, to);
    __syncwarp();
    // What later steps will read is what this one reads.
    u16* const to_cache = (is_value ? v_rows : k_rows) + (size_t)start * PADDED;
    u16 rounded[(PADDED + 31) / 32];
#pragma unroll
    for (int p = 0; p < (PADDED + 31) / 32; p++) {
      const int c = p * 32 + lane;
      rounded[p] = c < HEAD_DIM ? f32_to_f16(to[c]) : 0;
      if (c < PADDED && first_row == 0) to_cache[c] = rounded[p];
    }
    __syncwarp();
#pragma unroll
    for (int p = 0; p < (PADDED + 31) / 32; p++)
      if (p * 32 + lane < PADDED) ((u16*)to)[p * 32 + lane] = rounded[p];
  }
  __syncthreads();
"#;

/// Each lane group attends to its positions, of which every lane has eight channels.
const ATTEND: &str = r#"
  float query[ROWS][8], most[ROWS], sum[ROWS], mix[ROWS][8];
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    most[r] = -1e30f;
    sum[r] = 0.0f;
#pragma unroll
    for (int c = 0; c < 8; c++) {
      mix[r][c] = 0.0f;
      query[r][c] = holds && r < rows ? queries[r * PADDED + channel + c] : 0.0f;
    }
  }
  const int stages = (end - begin + STAGE - 1) / STAGE;
#pragma unroll 1
  for (int n = 0; n < stages; n++) {
    await(n);
    uint4 key[BATCH], value[BATCH];
    bool seen[BATCH];
#pragma unroll
    for (int i = 0; i < BATCH; i++) {
      const int position = begin + n * STAGE + place_of(i);
      const u32 from = address_of(shared) + n % STAGES * STAGE_BYTES * 2 + (place_of(i) * PADDED + channel) * 2;
      seen[i] = position < end;
      key[i] = value[i] = zero;
      if (!holds || position >= end) continue;
      key[i] = load_shared(position == start ? address_of(new_key) + channel * 2 : from);
      value[i] = load_shared(position == start ? address_of(new_value) + channel * 2 : from + STAGE_BYTES);
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      float score[BATCH], highest = most[r];
#pragma unroll
      for (int i = 0; i < BATCH; i++) {
        float channels[8];
        unpack_f16(key[i], channels);
        score[i] = 0.0f;
#pragma unroll
        for (int c = 0; c < 8; c++) score[i] = fmaf(query[r][c], channels[c], score[i]);
      }
#pragma unroll
      for (int o = LANES / 2; o; o >>= 1)
#pragma unroll
        for (int i = 0; i < BATCH; i++) score[i] += __shfl_xor_sync(~0u, score[i], o);
#pragma unroll
      for (int i = 0; i < BATCH; i++) {
        if (CAP > 0.0f) score[i] = CAP * tanh_exact(score[i] / CAP);
        if (!seen[i]) score[i] = -1e30f;
        highest = fmaxf(highest, score[i]);
      }
      const float keep = __expf(most[r] - highest);
      most[r] = highest;
      sum[r] *= keep;
#pragma unroll
      for (int c = 0; c < 8; c++) mix[r][c] *= keep;
#pragma unroll
      for (int i = 0; i < BATCH; i++) {
        const float e = seen[i] ? __expf(score[i] - highest) : 0.0f;
        float channels[8];
        unpack_f16(value[i], channels);
        sum[r] += e;
#pragma unroll
        for (int c = 0; c < 8; c++) mix[r][c] = fmaf(e, channels[c], mix[r][c]);
      }
    }
    refill(n);
  }
"#;

/// Lane groups, then warps, then splits.
const COMBINE: &str = r#"
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
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
    float* const to = partial + (warp * ROWS + r) * ROW;
    if (lane < LANES && holds) {
#pragma unroll
      for (int c = 0; c < 8; c += 2) *(float2*)(to + channel + c) = make_float2(mix[r][c], mix[r][c + 1]);
    }
    if (lane == 0) { to[PADDED] = highest; to[PADDED + 1] = sum[r]; }
  }
  __syncthreads();
  if (SPLITS > 1) cluster_wait();  // every block of the cluster runs: its memory can be written
  for (int i = threadIdx.x; i < rows * ROW; i += WARPS * 32) {
    const int r = i / ROW, c = i % ROW;
    float highest = -1e30f, v = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) highest = fmaxf(highest, partial[(w * ROWS + r) * ROW + PADDED]);
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
      const float* from = partial + (w * ROWS + r) * ROW;
      if (c != PADDED) v = fmaf(__expf(from[PADDED] - highest), from[c], v);
    }
    if (c == PADDED) v = highest;
    store_remote(inbox + (split * OWNED + r / SPLITS) * ROW + c, r % SPLITS, v);
  }
  if (SPLITS > 1) cluster_arrive();
  cluster_wait();
  for (int i = threadIdx.x; i < OWNED * HEAD_DIM; i += WARPS * 32) {
    const int r = i / HEAD_DIM * SPLITS + split, c = i % HEAD_DIM;
    if (r >= rows) break;
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
    out[(size_t)(first_head + r) * HEAD_DIM + c] = v / all;
  }
"#;
