//! The first half of the product of several tokens, as CUDA C++: what is fetched, and x as planes.

/// Where everything is, and what can be fetched before the kernel ahead has ended.
pub const FETCH: &str = r#"
  extern __shared__ __align__(128) u8 shared[];
  u16* const h_here = (u16*)(shared + H_AT);         // [set][chunk][256]
  float* const g_rows = (float*)(shared + G_AT);     // [tile][path][16]
  int* const sums = (int*)(shared + SUMS_AT);        // Σ q of a set and token
  u32* const largest = (u32*)(shared + LARGEST_AT);  // max |u| of a set and token, as bits
  float* const squares = (float*)(shared + SQUARES_AT);  // of a chunk and token; the other blocks get their sums
  float* const inverse = (float*)(shared + INVERSE_AT);  // 1 / rms of a token
  float* const inbox = (float*)(shared + INBOX_AT);
  float* const inbox_squares = (float*)(shared + INBOX_SQUARES_AT);
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, t = lane & 3;
  u64* const h_ready = (u64*)(shared + READY_AT);
  u64* const g_ready = h_ready + 1;
  u64* const inbox_ready = h_ready + 2;
  u64* const ready = h_ready + 3;  // of every slot

  // This cluster's row tiles, this block's inputs.
  const int split = blockIdx.x % SPLITS, cluster = blockIdx.x / SPLITS;
  const int first_cluster = $FIRST_CLUSTER;
  const int segment = $SEGMENT;
  const int begin = (cluster - first_cluster) * CLUSTER_TILES;
  const int tiles = min(CLUSTER_TILES, ($SEGMENT_TILES) - begin);
  const int first_tile = ($FIRST_TILE) + begin;
  const int segment_rows = $SEGMENT_ROWS;
  const int first_chunk = split * CHUNKS / SPLITS;
  const int chunks = (split + 1) * CHUNKS / SPLITS - first_chunk;
  const u8* const stream = signs + ((size_t)first_tile * CHUNKS + first_chunk) * PATHS * 512;

  // A warp takes one item after the other: AT_ONCE row tiles, with paired segments all of the same
  // one, and one of PARTS shares of the inputs.
  constexpr int BETWEEN = GATE ? 2 : 1;
  auto tile_of = [&](int item, int r) {
    const int set = item / PARTS;
    return GATE ? (set >> 1) * (2 * AT_ONCE) + (set & 1) + 2 * r : set * AT_ONCE + r;
  };
  // A warp's slots take its items in turns.
  auto slot_of = [&](int item) { return item % WARPS * SLOTS + item / WARPS % SLOTS; };
  auto fetch = [&](int item) {
    const int first = tile_of(item, 0), begin_chunk = item % PARTS * PART_CHUNKS;
    if (first >= tiles) return;
    const int count = min(AT_ONCE, (tiles - first + BETWEEN - 1) / BETWEEN), slot = slot_of(item);
    const u32 bytes = max(0, min(PART_CHUNKS, chunks - begin_chunk)) * (PATHS * 512);
    barrier_expect(ready + slot, count * bytes);
    if (bytes == 0) return;
    for (int r = 0; r < count; r++)
      bulk_copy(shared + SIGNS_AT + (slot * AT_ONCE + r) * SLOT_BYTES,
                stream + ((size_t)(first + r * BETWEEN) * CHUNKS + begin_chunk) * (PATHS * 512), bytes, ready + slot);
  };

  allow_next();
  // How many tokens there are was known before the first kernel of the step.
  const int first_token = blockIdx.y * TOKENS;
  const int tokens = min(TOKENS, $COUNT - first_token);
  const u16* const h_from = h + ((size_t)segment * PATHS * CHUNKS + first_chunk) * 256;
  const float* const g_from = g + (size_t)first_tile * PATHS * 16;
  if (BULK) {
    if (warp == 0) {
      for (int i = lane; i < 3 + WARPS * SLOTS; i += 32) barrier_init(h_ready + i);
      barrier_inits_done();
    }
  } else {
    for (int i = threadIdx.x; i < SETS * chunks * 32; i += blockDim.x) {
      const int set = i / (chunks * 32), at = i % (chunks * 32);
      ((uint4*)h_here)[set * MOST_CHUNKS * 32 + at] = ((const uint4*)h_from)[(size_t)set * CHUNKS * 32 + at];
    }
    for (int i = threadIdx.x; i < tiles * PATHS * 16; i += blockDim.x) g_rows[i] = g_from[i];
  }
  for (int i = threadIdx.x; i < SETS * TOKENS; i += blockDim.x) sums[i] = largest[i] = 0;
  __syncthreads();
  if (SPLITS > 1) here_i_am();
  if (BULK && warp == WARPS) {
    // One warp fetches for all: a copy that the memory system has no room for yet keeps its thread
    // waiting. Scales are asked for before all signs: they are needed first.
    if (lane == 0) {
      barrier_expect(h_ready, SETS * chunks * 512);
      for (int set = 0; set < SETS; set++)
        bulk_copy(h_here + set * MOST_CHUNKS * 256, h_from + (size_t)set * CHUNKS * 256, chunks * 512, h_ready);
      barrier_expect(g_ready, tiles * PATHS * 64);
      bulk_copy(g_rows, g_from, tiles * PATHS * 64, g_ready);
      // Sums of all blocks of the cluster for the row tiles that this one finishes.
      const int wholes = tiles / BETWEEN, owned = (wholes - split + SPLITS - 1) / SPLITS * BETWEEN;
      barrier_expect(inbox_ready, owned * (SPLITS * PARTS * GROUPS_OF_TOKENS * HOLDERS * 16) + (NORM ? SPLITS * TOKENS * 4 : 0));
    }
    __syncwarp();
    for (int item = lane; item < WARPS * SLOTS; item += 32) fetch(item);
    __syncwarp();
    if (SPLITS > 1) all_are_here();
    return;
  }
  wait_for_previous();
"#;

/// x to planes in shared memory.
pub const QUANTISE: &str = r#"
  // A warp takes 256 inputs of four tokens, or 512 of two, for a set. One scale serves all inputs of
  // the block, so that the matrix instructions can add up whole numbers.
  constexpr float LIMIT = PLANES == 16 ? 32700.0f : 127.0f;
  const int SQUARES = chunks;  // of a token
  constexpr int QUADS = TOKENS / QUAD, UNITS = (MOST_CHUNKS + BESIDE - 1) / BESIDE * QUADS * SETS;
  constexpr int ROUNDS = (UNITS + WARPS - 1) / WARPS;
  constexpr bool HELD = ROUNDS <= (WARPS > 8 ? 1 : 3);  // whether registers hold u from one pass to the next
  constexpr int UNROLL = HELD ? ROUNDS : 1;
  float u_held[HELD ? ROUNDS : 1][4][8];
  auto set_of = [&](int i) { return (warp + i * WARPS) % SETS; };
  auto token_of = [&](int i, int b) { return (warp + i * WARPS) / SETS % QUADS * QUAD + b % QUAD; };
  auto chunk_of = [&](int i, int b) { return (warp + i * WARPS) / (SETS * QUADS) * BESIDE + b / QUAD; };
  auto load = [&](int i) {
#pragma unroll
    for (int b = 0; b < 4; b++) {
      const int input = (first_chunk + chunk_of(i, b)) * 256 + lane * 8;
      const bool there = chunk_of(i, b) < chunks && token_of(i, b) < tokens;
      const float* from = x + (size_t)(first_token + token_of(i, b)) * X_STRIDE + input;
      float* const v = u_held[HELD ? i : 0][b];
      if (X_ALIGNED) {
        const bool inside = there && input < D_IN;
        const float4 zero = make_float4(0, 0, 0, 0);
        const float4 low = inside ? *(const float4*)from : zero, high = inside ? *(const float4*)(from + 4) : zero;
        v[0] = low.x; v[1] = low.y; v[2] = low.z; v[3] = low.w; v[4] = high.x; v[5] = high.y; v[6] = high.z; v[7] = high.w;
      } else {
#pragma unroll
        for (int j = 0; j < 8; j++) v[j] = there && input + j < D_IN ? from[j] : 0.0f;
      }
    }
  };
  auto scale_by_h = [&](int i) {
#pragma unroll
    for (int c = 0; c < BESIDE; c++) {
      float by[8];
      unpack_f16(*(const uint4*)(h_here + (set_of(i) * MOST_CHUNKS + min(chunk_of(i, c * QUAD), chunks - 1)) * 256 + lane * 8), by);
#pragma unroll
      for (int b = c * QUAD; b < (c + 1) * QUAD; b++)
#pragma unroll
        for (int j = 0; j < 8; j++) u_held[HELD ? i : 0][b][j] *= by[j];
    }
  };
  if (HELD) {
#pragma unroll UNROLL
    for (int i = 0; i < ROUNDS; i++) load(i);
  }
  if (BULK) barrier_wait(h_ready, 0);
#pragma unroll UNROLL
  for (int i = 0; i < ROUNDS; i++) {
    if (chunk_of(i, 0) >= chunks) continue;
    if (!HELD) load(i);
    float (*const u)[8] = u_held[HELD ? i : 0];
    if (NORM && set_of(i) == 0) {
      float square[4];
#pragma unroll
      for (int b = 0; b < 4; b++) {
        square[b] = 0.0f;
#pragma unroll
        for (int j = 0; j < 8; j++) square[b] = fmaf(u[b][j], u[b][j], square[b]);
        square[b] = warp_sum(square[b]);
      }
      if (lane < 4 && chunk_of(i, lane) < chunks) squares[chunk_of(i, lane) * TOKENS + token_of(i, lane)] = own(square, lane);
    }
    scale_by_h(i);
    u32 most[4];
#pragma unroll
    for (int b = 0; b < 4; b++) {
      float v = 0.0f;
#pragma unroll
      for (int j = 0; j < 8; j++) v = fmaxf(v, fabsf(u[b][j]));
      most[b] = __reduce_max_sync(~0u, __float_as_uint(v));
    }
    if (lane < 4) atomicMax(largest + set_of(i) * TOKENS + token_of(i, lane), own(most, lane));
  }
  workers_meet();
  inputs_are_here();
  const Exchange exchange(lane);
#pragma unroll UNROLL
  for (int i = 0; i < ROUNDS; i++) {
    if (chunk_of(i, 0) >= chunks) continue;
    if (!HELD) { load(i); scale_by_h(i); }
    float (*const u)[8] = u_held[HELD ? i : 0];
    u32 q[4][8];
    int sum[4];
#pragma unroll
    for (int b = 0; b < 4; b++) {
      const float most = __uint_as_float(largest[set_of(i) * TOKENS + token_of(i, b)]);
      const float inverse = most > SMALLEST ? LIMIT * reciprocal(most) : 0.0f;
      // Adding 1.5 · 2^23 leaves the rounded number in the lower bits.
      u32 all = 0;
#pragma unroll
      for (int j = 0; j < 8; j++) { q[b][j] = __float_as_uint(fmaf(u[b][j], inverse, 12582912.0f)); all += q[b][j]; }
      sum[b] = (int)(all - 8u * 0x4b400000u);
    }
#pragma unroll
    for (int b = 0; b < 4; b++) sum[b] = __reduce_add_sync(~0u, sum[b]);
    if (lane < 4) atomicAdd(sums + set_of(i) * TOKENS + token_of(i, lane), own(sum, lane));
    // Byte b of a word is of number b.
    u32 low[8], high[8];
#pragma unroll
    for (int j = 0; j < 8; j++) {
      const u32 first = __byte_perm(q[0][j], q[1][j], 0x5140), second = __byte_perm(q[2][j], q[3][j], 0x5140);
      low[j] = __byte_perm(first, second, 0x5410);
      high[j] = __byte_perm(first, second, 0x7632);
    }
    const int unit = (chunk_of(i, 0) * SETS + set_of(i)) * GROUPS_OF_TOKENS + token_of(i, 0) / COLUMNS;
    u8* const to = shared + PLANES_AT + unit * (STEPS * 256) + token_of(i, 0) % COLUMNS * COLUMN_BYTES;
    const bool all_chunks = chunk_of(i, 3) < chunks;
    store_planes<0>(to, low, exchange, all_chunks);
    if (PLANES == 16) store_planes<1>(to, high, exchange, all_chunks);
  }
  planes_are_written();
  workers_meet();
"#;
