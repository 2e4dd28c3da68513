//! The text of the kernel.

/// Barriers in shared memory, and the copies that are counted at them.
pub const BARRIERS: &str = r#"
__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void barrier_init(u64* b, int count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(shared_address(b)), "r"(count) : "memory"); }
__device__ __forceinline__ void barriers_ready() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void barrier_expect(u64* b, int bytes) { asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(shared_address(b)), "r"(bytes) : "memory"); }
__device__ __forceinline__ void barrier_wait(u64* b, u32 phase) {
  asm volatile("{\n.reg .pred p;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra DONE;\nbra AGAIN;\nDONE:\n}"
               :: "r"(shared_address(b)), "r"(phase) : "memory");
}
// Arrives at the barrier of that place in block `rank` of the cluster.
__device__ __forceinline__ void barrier_arrive(u64* b, int rank) {
  asm volatile("{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\nmbarrier.arrive.shared::cluster.b64 _, [remote];\n}"
               :: "r"(shared_address(b)), "r"(rank) : "memory");
}
__device__ __forceinline__ void copy_bulk(void* to, const void* from, int bytes, u64* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
               :: "r"(shared_address(to)), "l"(from), "r"(bytes), "r"(shared_address(barrier)) : "memory");
}
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
// Copies this block's share of a stage to the same place in all blocks of the cluster, and counts the
// bytes at each one's barrier.
__device__ __forceinline__ void fetch(u8* stage, const u8* from, int share, int rank, u64* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], %4;"
               :: "r"(shared_address(stage) + rank * share), "l"(from + rank * share), "r"(share), "r"(shared_address(barrier)), "h"((u16)((1 << BLOCKS) - 1)) : "memory");
}
#else
// Copies a stage; each block its own.
__device__ __forceinline__ void fetch(u8* stage, const u8* from, int share, int, u64* barrier) {
  copy_bulk(stage, from, share * BLOCKS, barrier);
}
#endif
"#;

/// Multiplication of a stage, in both forms. `$SUMS` and the names after it are filled in.
pub const MATRIX: &str = r#"
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
// Instructions of four warps, 64 rows by all tokens of the tile. They run on while other work goes on.
__device__ __forceinline__ void matrix_step(float* d, const u32* a, u64 b) {
  asm volatile("{\n.reg .pred p;\nsetp.eq.u32 p, 0, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n$TOKENSk16.f32.f16.f16 {"
      "$SUMS},"
      "{$A0,$A1,$A2,$A3}, $B, p, 1, 1, 0;\n}"
      : $OUTPUTS
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void hold(float* d) {
#pragma unroll
  for (int i = 0; i < TOKENS / 2; i++) asm volatile("" : "+f"(d[i]) :: "memory");
}
// Multiplies a stage: rows of 128 bytes, a token each, whose 16-byte pieces are swizzled.
__device__ __forceinline__ void multiply(float* d, const u32 (*a)[4], const u8* stage, int) {
  const u64 b = ((u64)0x40000040 << 32 | 0x10000) + ((shared_address(stage) & 0x3ffff) >> 4);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
  for (int step = 0; step < STEPS; step++) matrix_step(d, a[step], b + step * 2);
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits until no more than `LEFT` of the stages begun are unfinished.
template <int LEFT> __device__ __forceinline__ void multiplied() { asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(LEFT) : "memory"); }
#else
__device__ __forceinline__ void matrix_step(float* d, const u32* a, u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void hold(float*) {}
// Multiplies a stage: rows of 128 bytes, a token each, whose 16-byte pieces are swizzled.
__device__ __forceinline__ void multiply(float* d, const u32 (*a)[4], const u8* stage, int lane) {
  const u32 row = shared_address(stage) + ((lane >> 4) * 8 + (lane & 7)) * 128;
#pragma unroll
  for (int step = 0; step < STEPS; step++)
#pragma unroll
    for (int k = 0; k < TOKENS / 16; k++) {
      u32 b0, b1, b2, b3;
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(b0), "=r"(b1), "=r"(b2), "=r"(b3)
                   : "r"(row + k * 2048 + (((step * 2 + (lane >> 3 & 1)) ^ (lane & 7)) << 4)));
      matrix_step(d + k * 8, a[step], b0, b1);
      matrix_step(d + k * 8 + 4, a[step], b2, b3);
    }
}
template <int LEFT> __device__ __forceinline__ void multiplied() { __syncwarp(); }
#endif
"#;

/// What a lane reads of the layer, and the weights that it makes of it.
pub const FRAGMENTS: &str = r#"
// What a lane needs for its two rows: `low` and, 8 rows on in the instruction, `high`.
struct Lane {
  const u32* signs;
  int h[2];
  u32 share[PATHS][2];
  float most[2];
};
// Where a gate is computed, low rows are of the gate and high rows the same ones of the other half, so
// that a lane has both; two warps share two row tiles. Otherwise a warp has a row tile.
__device__ __forceinline__ const u32* signs_of(const uint4* signs, int tile, int lane) {
  const size_t first = (size_t)(GATE ? tile & ~1 : tile) * CHUNKS * PATHS * 32 + lane;
  return (const u32*)(signs + first) + (GATE ? tile & 1 : 0);
}
__device__ __forceinline__ void load_signs(uint4* bits, const u32* from, int chunk) {
#pragma unroll
  for (int path = 0; path < PATHS; path++) {
    const u32* low = from + (size_t)(chunk * PATHS + path) * 128;
    const u32* high = low + (size_t)CHUNKS * PATHS * 128;
    if (GATE) bits[path] = make_uint4(low[0], high[0], low[2], high[2]);
    else bits[path] = *(const uint4*)low;
  }
}
__device__ __forceinline__ void load_rows(Lane& own, const float* g, int first_segment, int tile, int lane) {
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int of = GATE ? (tile & ~1) + i : tile, row = (lane >> 2) + (GATE ? (tile & 1) * 8 : i * 8);
    const float* scales = g + of * PATHS * 16 + row;
    own.most[i] = largest(scales);
#pragma unroll
    for (int path = 0; path < PATHS; path++) own.share[path][i] = share_of(scales, path, own.most[i]);
    own.h[i] = (rows_of(of).segment - first_segment) * PATHS * 8 + (lane & 3) * 2;
  }
}
// The first of the segments whose input scales a block has.
__device__ __forceinline__ int first_segment_of(int tile) { return min(rows_of(min(tile, ALL_TILES - 1)).segment, SEGMENTS - BLOCK_SEGMENTS); }
// The weights of a stage, whose input scales are at `h`.
__device__ __forceinline__ void make_weights(u32 (*a)[4], const Lane& own, const uint4* bits, const uint4* h, int part) {
#pragma unroll
  for (int path = 0; path < PATHS; path++) {
    const uint4 *const lows = h + own.h[0] + path * 8, *const highs = h + own.h[1] + path * 8;
    const uint4 low[2] = {lows[0], lows[1]}, high[2] = {GATE ? highs[0] : low[0], GATE ? highs[1] : low[1]};
    const u32 words[4] = {bits[path].x, bits[path].y, bits[path].z, bits[path].w};
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
      const uint4 l = low[step >> 1], u = high[step >> 1];
      const u32 scales[4] = {step & 1 ? l.z : l.x, step & 1 ? u.z : u.x, step & 1 ? l.w : l.y, step & 1 ? u.w : u.y};
#pragma unroll
      for (int r = 0; r < 4; r++) {
        const int shift = 15 - part * STEPS - step;
        a[step][r] = path == 0 ? add_path<true>(0, words[r], shift, scales[r], own.share[0][r & 1])
                               : add_path<false>(a[step][r], words[r], shift, scales[r], own.share[path][r & 1]);
      }
    }
  }
}
"#;

/// The kernel. `$COUNT`, `$ACT` and `$OUT` are filled in.
pub const BODY: &str = r#"
  extern __shared__ __align__(1024) u8 staged[];
  constexpr int STAGE_BYTES = TOKENS * 128, ALL_STAGES = CHUNKS * STAGES_OF_CHUNK, AHEAD = STAGES > 2 ? STAGES - 2 : 1, H_BYTES = BLOCK_SEGMENTS * PATHS * 128;
  u8* const scales = staged + STAGES * STAGE_BYTES;
  u64* const full = (u64*)(scales + STAGES * H_BYTES);
  u64* const empty = full + STAGES;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, rank = blockIdx.x % BLOCKS;
  const int cluster = blockIdx.x / BLOCKS, clusters = gridDim.x / BLOCKS;
  if (threadIdx.x == 0) {
    for (int s = 0; s < STAGES; s++) { barrier_init(full + s, 1); barrier_init(empty + s, WARPS * BLOCKS); }
    barriers_ready();
  }
  allow_next();
  cluster_arrive();
  cluster_wait();
  wait_for_previous();
  const int tokens = state->$COUNT, tiles = ROW_GROUPS * ((tokens + TOKENS - 1) / TOKENS);

  // The first row tile of the block, and the warp's; a warp past the end does what the last one does.
  auto block_tile = [&](int tile) { return (tile % ROW_GROUPS * BLOCKS + rank) * WARPS; };
  auto tile_of = [&](int tile) { return min(block_tile(tile) + warp, ALL_TILES - 1); };
  // One thread fetches, AHEAD stages before they are multiplied, across tiles.
  struct { int tile, n, stage; u32 phase; } ahead = {cluster, 0, 0, 1};
  auto fetch_ahead = [&]() {
    if (ahead.tile >= tiles) return;
    barrier_wait(empty + ahead.stage, ahead.phase);
    barrier_expect(full + ahead.stage, STAGE_BYTES + H_BYTES);
    fetch(staged + ahead.stage * STAGE_BYTES, x + ((size_t)(ahead.tile / ROW_GROUPS) * ALL_STAGES + ahead.n) * STAGE_BYTES,
          STAGE_BYTES / BLOCKS, rank, full + ahead.stage);
    const int segment = first_segment_of(block_tile(ahead.tile));
#pragma unroll
    for (int s = 0; s < BLOCK_SEGMENTS; s++)
      copy_bulk(scales + ahead.stage * H_BYTES + s * PATHS * 128, h_steps + ((size_t)(segment + s) * ALL_STAGES + ahead.n) * PATHS * 128,
                PATHS * 128, full + ahead.stage);
    if (++ahead.stage == STAGES) { ahead.stage = 0; ahead.phase ^= 1; }
    if (++ahead.n == ALL_STAGES) { ahead.n = 0; ahead.tile += clusters; }
  };
  if (threadIdx.x == 0)
    for (int s = 0; s < AHEAD; s++) fetch_ahead();
  __syncwarp();

  int stage = 0;
  u32 phase = 0;
  Lane own;
  uint4 bits[PATHS], next[PATHS];
  if (cluster < tiles) load_signs(next, signs_of(signs, tile_of(cluster), lane), 0);
  for (int tile = cluster; tile < tiles; tile += clusters) {
    const int row_tile = tile_of(tile);
    own.signs = signs_of(signs, row_tile, lane);
    load_rows(own, g, first_segment_of(block_tile(tile)), row_tile, lane);
    float sum[TOKENS / 2];
#pragma unroll
    for (int i = 0; i < TOKENS / 2; i++) sum[i] = 0.0f;
    u32 weights[2][STEPS][4];
    int before = 0;
#pragma unroll 1
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
#pragma unroll
      for (int path = 0; path < PATHS; path++) bits[path] = next[path];
      if (chunk + 1 < CHUNKS) load_signs(next, own.signs, chunk + 1);
      else if (tile + clusters < tiles) load_signs(next, signs_of(signs, tile_of(tile + clusters), lane), 0);
#pragma unroll
      for (int part = 0; part < STAGES_OF_CHUNK; part++) {
        // Made while the stage before is multiplied; the one before that is done.
        barrier_wait(full + stage, phase);
        make_weights(weights[part & 1], own, bits, (const uint4*)(scales + stage * H_BYTES), part);
        multiply(sum, weights[part & 1], staged + stage * STAGE_BYTES, lane);
        multiplied<1>();
        if ((chunk > 0 || part > 0) && lane < BLOCKS) barrier_arrive(empty + before, lane);
        if (threadIdx.x == 0) fetch_ahead();
        __syncwarp();
        before = stage;
        if (++stage == STAGES) { stage = 0; phase ^= 1; }
      }
    }
    multiplied<0>();
    if (lane < BLOCKS) barrier_arrive(empty + before, lane);
    hold(sum);
    if (block_tile(tile) + warp >= ALL_TILES) continue;
    const Rows rows = rows_of(GATE ? row_tile & ~1 : row_tile);
    const int row = rows.first + (lane >> 2) + (GATE ? (row_tile & 1) * 8 : 0), column = rows.column + row;
    const int first_token = tile / ROW_GROUPS * TOKENS + (lane & 3) * 2;
    // Element j of the eight tokens k: the row, or 8 rows on; the token, or the next.
    auto there = [&](int k, int j) { return row + (j >> 1) * 8 < rows.count && first_token + k * 8 + (j & 1) < tokens; };
    auto place = [&](int k, int j, int stride) { return (size_t)(first_token + k * 8 + (j & 1)) * stride + column + (j >> 1) * 8; };
#pragma unroll
    for (int from = 0; from < TOKENS / 8; from += HELD) {
      float2 factors[HELD];
      float held[HELD][4];
#pragma unroll
      for (int i = 0; i < HELD; i++) {
        factors[i] = *(const float2*)(factor + first_token + (from + i) * 8);
#pragma unroll
        for (int j = 0; RESIDUAL && j < 4; j++) held[i][j] = there(from + i, j) ? residual[place(from + i, j, R_STRIDE)] : 0.0f;
      }
#pragma unroll
      for (int i = 0; i < HELD; i++) {
        float* const v = sum + (from + i) * 4;
#pragma unroll
        for (int j = 0; j < 4; j++) v[j] *= own.most[j >> 1] * (j & 1 ? factors[i].y : factors[i].x);
#pragma unroll
        for (int j = 0; j < (GATE ? 2 : 4); j++) {
          const float value = GATE ? $ACT(v[j]) * v[2 + j] : RESIDUAL ? v[j] + held[i][j] : v[j];
          if (there(from + i, j)) $OUT[place(from + i, j, OUT_STRIDE)] = value;
        }
      }
    }
  }
  // No block may end while the other still copies to it or arrives at its barriers.
  cluster_arrive();
  cluster_wait();
"#;
