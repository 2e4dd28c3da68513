//! Attention of one token over the cache, with everything between it and the projections.
//!
//! A cluster of blocks owns up to four query heads of a key/value head; its blocks split the
//! positions. Every lane copies the keys and values that it will read, eight channels of a
//! position, into its own part of shared memory, the first of them before the kernel ahead has
//! ended: registers would leave no room for a second block beside that kernel. The block whose
//! share the new token is computes its key and value, appends them to the cache, and attends to
//! them from shared memory, so that no block waits for another's writes.

use rabitc_rbx::SmArch;

use super::cached_attention::CachedAttention;
use super::copies::ASYNC_COPY;
use super::planes::UNPACK_F16;
use crate::cuda::source::{Builder, CudaSpec, Source};

/// Attention of one layer for one token.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionDecode {
    /// The layer.
    pub over: CachedAttention,
}

const WARPS: usize = 4;
/// Query heads of a block at most: bounded by registers.
const MOST_ROWS: usize = 4;
/// Positions of a lane that are computed with together.
const BATCH: usize = 4;
/// Batches that are under way or in use.
const STAGES: usize = 2;

impl AttentionDecode {
    /// Blocks that share a key/value head but not its query heads.
    fn row_groups(&self) -> usize {
        self.over.group().div_ceil(MOST_ROWS)
    }

    /// Query heads of a block at most.
    fn rows(&self) -> usize {
        self.over.group().div_ceil(self.row_groups())
    }

    /// Blocks along x.
    pub fn grid(&self) -> usize {
        self.over.n_kv_heads * self.row_groups() * self.over.splits
    }

    /// Lanes that share a position.
    fn lanes(&self) -> usize {
        (self.over.padded() / 8).next_power_of_two()
    }

    /// Bytes of copied keys and values.
    fn ring_bytes(&self) -> usize {
        STAGES * BATCH * WARPS * 32 * 16 * 2
    }

    /// Floats in shared memory after the ring: queries, the new key and value, results of the warps,
    /// results of the splits.
    fn floats(&self) -> [usize; 5] {
        let (row, result, rows) = (self.over.padded(), self.over.result(), self.rows());
        let owned = rows.div_ceil(self.over.splits);
        [
            rows * row,
            row,
            row,
            WARPS * rows * result,
            self.over.splits * owned * result,
        ]
    }

    /// Bytes of shared memory.
    pub fn shared_bytes(&self) -> usize {
        self.ring_bytes() + self.floats().iter().sum::<usize>() * 4
    }
}

impl CudaSpec for AttentionDecode {
    fn name(&self) -> String {
        self.over.name("attention_decode")
    }

    fn source(&self, arch: SmArch) -> Source {
        let b = Builder::new(self.name(), arch, (WARPS * 32) as u32)
            .min_blocks(if self.rows() <= 2 { 4 } else { 2 })
            .shared(self.shared_bytes())
            .int("ROW_GROUPS", self.row_groups())
            .int("LANES", self.lanes())
            .int("BATCH", BATCH)
            .int("STAGES", STAGES)
            .int("RING_BYTES", self.ring_bytes())
            .helper(ASYNC_COPY)
            .helper(UNPACK_F16)
            .helper(LOAD_SHARED);
        self.over.declare(b, arch, WARPS, self.rows()).body(
            &[CACHE, HEADS, ATTEND, COMBINE]
                .concat()
                .replace("\n\n", "\n"),
        )
    }
}

const LOAD_SHARED: &str = r#"
__device__ __forceinline__ uint4 load_shared(u32 from) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(from) : "memory");
  return v;
}
"#;

/// Where this block works, and the copies of what earlier steps cached.
const CACHE: &str = r#"
  extern __shared__ __align__(16) u8 shared[];
  constexpr int GROUPS = 32 / LANES, COPY = WARPS * 32 * 16;
  float* const queries = (float*)(shared + RING_BYTES);
  // The new key and value are computed as f32 and rounded in place.
  float* const new_key = queries + ROWS * PADDED;
  float* const new_value = new_key + PADDED;
  float* const partial = new_value + PADDED;
  float* const inbox = partial + WARPS * ROWS * RESULT;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int split = blockIdx.x % SPLITS, kv_head = blockIdx.x / SPLITS / ROW_GROUPS;
  const int first_row = blockIdx.x / SPLITS % ROW_GROUPS * ROWS, rows = min(ROWS, GROUP - first_row);
  __shared__ __align__(8) u64 arrived;
  if (threadIdx.x == 0) expect_results(&arrived, result_bytes(rows, split));
  say_started();
  const int start = state->start, capacity = state->capacity;
  // The positions that the token sees, itself included, and this block's share of them, of which
  // every lane group has the same number.
  const int visible = WINDOW > 0 ? max(0, start + 1 - WINDOW) : 0;
  const int each = ((start - visible) / SPLITS / (WARPS * GROUPS) + 1) * WARPS * GROUPS;
  const int begin = min(start + 1, visible + split * each), end = min(start + 1, begin + each);
  u16* const k_rows = keys + (size_t)kv_head * capacity * PADDED;
  u16* const v_rows = values + (size_t)kv_head * capacity * PADDED;
  const int channel = lane % LANES * 8;
  const bool holds = channel < PADDED;
  const int first = begin + warp * GROUPS + lane / LANES;
  const u32 own = address_of(shared) + threadIdx.x * 16;
  // Batch n of a lane's positions; the new one is in no cache yet.
  auto fetch = [&](int n) {
#pragma unroll
    for (int i = 0; i < BATCH; i++) {
      const int position = first + (n * BATCH + i) * WARPS * GROUPS;
      const u32 to = own + (n % STAGES * BATCH + i) * 2 * COPY;
      if (!holds || position >= end || position == start) continue;
      copy_async(to, k_rows + (size_t)position * PADDED + channel);
      copy_async(to + COPY, v_rows + (size_t)position * PADDED + channel);
    }
    copies_end_group();
  };
  for (int n = 0; n < STAGES; n++) fetch(n);
  wait_for_previous();
  // Not before: the next kernel's copies would get ahead of the cache.
  allow_next();
"#;

/// Queries, and the new key and value.
const HEADS: &str = r#"
  for (int i = threadIdx.x; i < ROWS * PADDED; i += WARPS * 32) if (i % PADDED >= HEAD_DIM) queries[i] = 0.0f;
  for (int row = warp; row < rows; row += WARPS)
    load_q_head(q, q_bias, q_norm, q_rope, kv_head * GROUP + first_row + row, start, SCALE, queries + row * PADDED);
  // The block of the first query heads appends for all of them.
  if (begin <= start && start < end && warp >= WARPS - 2) {
    if (warp == WARPS - 1) load_v_head(v, v_bias, v_norm, v_rope, kv_head, start, 1.0f, new_value);
    else load_k_head(k, k_bias, k_norm, k_rope, kv_head, start, 1.0f, new_key);
    // What later steps will read is what this one reads.
    u16* const copy = (warp == WARPS - 1 ? v_rows : k_rows) + (size_t)start * PADDED;
    round_row(warp == WARPS - 1 ? new_value : new_key, first_row == 0 ? copy : 0);
  }
  __syncthreads();
"#;

/// A lane group attends to its positions, of which every lane has eight channels.
const ATTEND: &str = r#"
  float query[ROWS][8], most[ROWS], sum[ROWS], mix[ROWS][8];
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    most[r] = NOTHING;
    sum[r] = 0.0f;
#pragma unroll
    for (int c = 0; c < 8; c++) {
      mix[r][c] = 0.0f;
      query[r][c] = holds && r < rows ? queries[r * PADDED + channel + c] : 0.0f;
    }
  }
  const int batches = (end - begin + BATCH * WARPS * GROUPS - 1) / (BATCH * WARPS * GROUPS);
#pragma unroll 1
  for (int n = 0; n < batches; n++) {
    copies_wait<STAGES - 1>();
    uint4 key[BATCH], value[BATCH];
    bool seen[BATCH];
#pragma unroll
    for (int i = 0; i < BATCH; i++) {
      const int position = first + (n * BATCH + i) * WARPS * GROUPS;
      const u32 from = own + (n % STAGES * BATCH + i) * 2 * COPY;
      seen[i] = position < end;
      key[i] = value[i] = make_uint4(0, 0, 0, 0);
      if (!holds || !seen[i]) continue;
      key[i] = load_shared(position == start ? address_of(new_key) + channel * 2 : from);
      value[i] = load_shared(position == start ? address_of(new_value) + channel * 2 : from + COPY);
    }
    fetch(n + STAGES);
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
        score[i] = seen[i] ? capped(score[i]) : NOTHING;
        highest = fmaxf(highest, score[i]);
      }
      const float base = base_of(highest), keep = exp2_fast(most[r] - base);
      most[r] = highest;
      sum[r] *= keep;
#pragma unroll
      for (int c = 0; c < 8; c++) mix[r][c] *= keep;
#pragma unroll
      for (int i = 0; i < BATCH; i++) {
        const float e = exp2_fast(score[i] - base);
        float channels[8];
        unpack_f16(value[i], channels);
        sum[r] += e;
#pragma unroll
        for (int c = 0; c < 8; c++) mix[r][c] = fmaf(e, channels[c], mix[r][c]);
      }
    }
  }
"#;

/// Lane groups, then warps, then splits.
const COMBINE: &str = r#"
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    float highest = most[r];
#pragma unroll
    for (int o = LANES; o < 32; o <<= 1) highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, o));
    const float keep = exp2_fast(most[r] - base_of(highest));
    sum[r] *= keep;
#pragma unroll
    for (int c = 0; c < 8; c++) mix[r][c] *= keep;
#pragma unroll
    for (int o = LANES; o < 32; o <<= 1) {
      sum[r] += __shfl_xor_sync(~0u, sum[r], o);
#pragma unroll
      for (int c = 0; c < 8; c++) mix[r][c] += __shfl_xor_sync(~0u, mix[r][c], o);
    }
    float* const to = partial + (warp * ROWS + r) * RESULT;
    if (lane < LANES && holds) {
#pragma unroll
      for (int c = 0; c < 8; c += 2) *(float2*)(to + channel + c) = make_float2(mix[r][c], mix[r][c + 1]);
    }
    if (lane == 0) { to[PADDED] = highest; to[PADDED + 1] = sum[r]; }
  }
  __syncthreads();
  // Every block of the cluster runs: its memory can be written.
  wait_for_start();
  merge_warps<ROWS>(partial, inbox, 0, rows, split, &arrived);
  merge_splits(inbox, rows, split, &arrived, [&](int row) { return out + (size_t)(kv_head * GROUP + first_row + row) * HEAD_DIM; });
"#;
