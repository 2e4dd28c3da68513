//! The first half of the product of several tokens, as CUDA C++: what is fetched, and x as planes.

/// Where everything is, and what can be fetched before the kernel ahead has ended.
pub const FETCH: &str = r#"
  extern __shared__ __align__(128) u8 shared[];
  u16* const h_here = (u16*)(shared + H_AT);         // [set][chunk][256]
  float* const g_rows = (float*)(shared + G_AT);     // [tile][path][16]
  int* const sums = (int*)(shared + SUMS_AT);        // Σ q of a set and token
  u32* const largest = (u32*)(shared + LARGEST_AT);  // max |u| of a set and token, as bits
  float* const squares = (float*)(shared + SQUARES_AT);
  float* const inbox = (float*)(shared + INBOX_AT);
  float* const inbox_squares = (float*)(shared + INBOX_SQUARES_AT);
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, t = lane & 3;
  u64* const h_ready = (u64*)(shared + READY_AT);
  u64* const g_ready = h_ready + 1;
  u64* const ready = h_ready + 2 + warp * SLOTS;
  u8* const slots = shared + SIGNS_AT + warp * (SLOTS * AT_ONCE * SLOT_BYTES);

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
  auto tile_of = [&](int round, int r) {
    const int set = (warp + round * WARPS) / PARTS;
    return GATE ? (set >> 1) * (2 * AT_ONCE) + (set & 1) + 2 * r : set * AT_ONCE + r;
  };
  auto part_of = [&](int round) { return (warp + round * WARPS) % PARTS; };
  auto fetch = [&](int round) {
    const int first = tile_of(round, 0), part = part_of(round), begin_chunk = part * PART_CHUNKS;
    if (first >= tiles) return;
    const int count = min(AT_ONCE, (tiles - first + BETWEEN - 1) / BETWEEN), slot = round % SLOTS;
    const u32 bytes = max(0, min(PART_CHUNKS, chunks - begin_chunk)) * (PATHS * 512);
    barrier_expect(ready + slot, count * bytes);
    if (bytes == 0) return;
    for (int r = 0; r < count; r++)
      bulk_copy(slots + (slot * AT_ONCE + r) * SLOT_BYTES,
                stream + ((size_t)(first + r * BETWEEN) * CHUNKS + begin_chunk) * (PATHS * 512), bytes, ready + slot);
  };

  allow_next();
  if (SPLITS > 1) cluster_arrive();
  const u16* const h_from = h + ((size_t)segment * PATHS * CHUNKS + first_chunk) * 256;
  const float* const g_from = g + (size_t)first_tile * PATHS * 16;
  if (BULK) {
    if (lane == 0) {
#pragma unroll
      for (int s = 0; s < SLOTS; s++) barrier_init(ready + s);
      if (warp == 0) { barrier_init(h_ready); barrier_init(g_ready); }
      barrier_inits_done();
    }
    // Scales are asked for before all signs: they are needed first.
    if (threadIdx.x == 0) {
      barrier_expect(h_ready, SETS * chunks * 512);
      for (int set = 0; set < SETS; set++)
        bulk_copy(h_here + set * MOST_CHUNKS * 256, h_from + (size_t)set * CHUNKS * 256, chunks * 512, h_ready);
      barrier_expect(g_ready, tiles * PATHS * 64);
      bulk_copy(g_rows, g_from, tiles * PATHS * 64, g_ready);
    }
  } else {
    for (int i = threadIdx.x; i < SETS * chunks * 32; i += WARPS * 32) {
      const int set = i / (chunks * 32), at = i % (chunks * 32);
      ((uint4*)h_here)[set * MOST_CHUNKS * 32 + at] = ((const uint4*)h_from)[(size_t)set * CHUNKS * 32 + at];
    }
    for (int i = threadIdx.x; i < tiles * PATHS * 16; i += WARPS * 32) g_rows[i] = g_from[i];
  }
  for (int i = threadIdx.x; i < SETS * TOKENS; i += WARPS * 32) sums[i] = largest[i] = 0;
  __syncthreads();
  if (BULK && lane == 0) {
#pragma unroll
    for (int s = 0; s < SLOTS; s++) fetch(s);
  }
  __syncwarp();
  // How many tokens there are was known before the first kernel of the step.
  const int first_token = blockIdx.y * TOKENS;
  const int tokens = min(TOKENS, $COUNT - first_token);
  wait_for_previous();
"#;

/// x to planes in shared memory.
pub const QUANTISE: &str = r#"
  // A warp takes 256 inputs of a token for all sets. One scale serves all inputs of the block, so
  // that the matrix instructions can add up whole numbers.
  constexpr float LIMIT = PLANES == 16 ? 32700.0f : 127.0f;
  constexpr int PAIRS = (MOST_CHUNKS * TOKENS + WARPS - 1) / WARPS;
  constexpr bool HELD = PAIRS <= 6;  // whether registers hold the inputs from one pass to the next
  constexpr int UNROLL = HELD ? PAIRS : 1;
  float x_held[HELD ? PAIRS : 1][8];
  auto present = [&](int i) {
    const int pair = warp + i * WARPS;
    return pair / TOKENS < chunks && pair % TOKENS < tokens;
  };
  auto load = [&](int i) {
    const int pair = warp + i * WARPS, input = (first_chunk + pair / TOKENS) * 256 + lane * 8;
    const float* from = x + (size_t)(first_token + pair % TOKENS) * X_STRIDE + input;
    float* const v = x_held[HELD ? i : 0];
    if (X_ALIGNED) {
      const bool inside = input < D_IN;
      const float4 zero = make_float4(0, 0, 0, 0);
      const float4 a = inside ? *(const float4*)from : zero, b = inside ? *(const float4*)(from + 4) : zero;
      v[0] = a.x; v[1] = a.y; v[2] = a.z; v[3] = a.w; v[4] = b.x; v[5] = b.y; v[6] = b.z; v[7] = b.w;
    } else {
#pragma unroll
      for (int j = 0; j < 8; j++) v[j] = input + j < D_IN ? from[j] : 0.0f;
    }
  };
  auto scaled = [&](int i, int set, float* u) {
    unpack_f16(*(const uint4*)(h_here + (set * MOST_CHUNKS + (warp + i * WARPS) / TOKENS) * 256 + lane * 8), u);
#pragma unroll
    for (int j = 0; j < 8; j++) u[j] *= x_held[HELD ? i : 0][j];
  };
  if (HELD) {
#pragma unroll UNROLL
    for (int i = 0; i < PAIRS; i++) if (present(i)) load(i);
  }
  if (BULK) barrier_wait(h_ready, 0);
#pragma unroll UNROLL
  for (int i = 0; i < PAIRS; i++) {
    if (!present(i)) continue;
    if (!HELD) load(i);
    const int pair = warp + i * WARPS;
    if (NORM) {
      float square = 0.0f;
#pragma unroll
      for (int j = 0; j < 8; j++) square = fmaf(x_held[HELD ? i : 0][j], x_held[HELD ? i : 0][j], square);
      square = warp_sum(square);
      if (lane == 0) squares[pair] = square;
    }
#pragma unroll 2
    for (int set = 0; set < SETS; set++) {
      float u[8], most = 0.0f;
      scaled(i, set, u);
#pragma unroll
      for (int j = 0; j < 8; j++) most = fmaxf(most, fabsf(u[j]));
      const u32 bits = __reduce_max_sync(~0u, __float_as_uint(most));
      if (lane == 0) atomicMax(largest + set * TOKENS + pair % TOKENS, bits);
    }
  }
  __syncthreads();
#pragma unroll UNROLL
  for (int i = 0; i < PAIRS; i++) {
    if (!present(i)) continue;
    if (!HELD) load(i);
    const int pair = warp + i * WARPS, token = pair % TOKENS;
#pragma unroll 2
    for (int set = 0; set < SETS; set++) {
      float u[8];
      scaled(i, set, u);
      const float most = __uint_as_float(largest[set * TOKENS + token]);
      const float inverse = most > SMALLEST ? __fdividef(LIMIT, most) : 0.0f;
      // Adding 1.5 · 2^23 leaves the rounded number in the lower bits.
      u32 q[8], sum = 0;
#pragma unroll
      for (int j = 0; j < 8; j++) { q[j] = __float_as_uint(fmaf(u[j], inverse, 12582912.0f)); sum += q[j]; }
      const int unit = ((pair / TOKENS) * SETS + set) * GROUPS_OF_TOKENS + token / COLUMNS;
      u8* const to = shared + PLANES_AT + unit * (STEPS * 256) + token % COLUMNS * 32
                     + ((lane >> 2) & 3) * 8 + (lane >> 4) * 4 + (lane & 3);
      const u32 pairs[4] = {__byte_perm(q[0], q[1], 0x5410), __byte_perm(q[2], q[3], 0x5410),
                            __byte_perm(q[4], q[5], 0x5410), __byte_perm(q[6], q[7], 0x5410)};
      store_planes<0>(to, pairs);
      if (PLANES == 16) store_planes<1>(to, pairs);
      const int all = __reduce_add_sync(~0u, (int)(sum - 8u * 0x4b400000u));
      if (lane == 0) atomicAdd(sums + set * TOKENS + token, all);
    }
  }
  __syncthreads();
  if (SPLITS > 1) cluster_wait();  // every block of the cluster runs: its memory can be written
"#;
