//! What a block loads, and x as planes, as CUDA C++.

/// Where everything else is, and what does not depend on x.
pub const FETCH: &str = r#"
  float* const squares = (float*)(shared + SQUARES_AT);  // of a chunk and token
  float* const inverse = (float*)(shared + INVERSE_AT);  // 1 / rms of a token
  float* const inbox = (float*)(shared + INBOX_AT);
  float* const inbox_squares = (float*)(shared + INBOX_SQUARES_AT);
  u64* const inbox_ready = 0;  // blocks are alone
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, t = lane & 3;

  // This block's row tiles.
  constexpr int SPLITS = 1, split = 0, first_chunk = 0, chunks = CHUNKS, MOST_CHUNKS = CHUNKS;
  const int cluster = blockIdx.x, first_cluster = $FIRST_CLUSTER;
  const int segment = $SEGMENT;
  const int begin = (cluster - first_cluster) * BLOCK_TILES;
  const int tiles = min(BLOCK_TILES, ($SEGMENT_TILES) - begin);
  const int first_tile = ($FIRST_TILE) + begin;
  const int segment_rows = $SEGMENT_ROWS;
  const u8* const stream = signs + (size_t)first_tile * (CHUNKS * PATHS * 512);

  // A warp takes one item after the other: AT_ONCE row tiles, with paired segments all of the same
  // one, and one of PARTS shares of the inputs.
  auto tile_of = [&](int item, int r) {
    const int set = item / PARTS;
    return GATE ? (set >> 1) * (2 * AT_ONCE) + (set & 1) + 2 * r : set * AT_ONCE + r;
  };

  const int first_token = blockIdx.y * TOKENS;
  const int tokens = min(TOKENS, $COUNT - first_token);
  const u16* const h_from = h + (size_t)segment * (PATHS * CHUNKS * 256);
  const float* const g_from = g + (size_t)first_tile * PATHS * 16;
  for (int i = threadIdx.x; i < SETS * CHUNKS * 32; i += blockDim.x) ((uint4*)h_here)[i] = ((const uint4*)h_from)[i];
  for (int i = threadIdx.x; i < tiles * PATHS * 16; i += blockDim.x) g_rows[i] = g_from[i];
  for (int i = threadIdx.x; i < SETS * TOKENS; i += blockDim.x) sums[i] = largest[i] = 0;
  __syncthreads();
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
    u8* const to = shared + PLANES_AT + unit * (STEPS * 256) + token_of(i, 0) % COLUMNS * 32;
    const bool all_chunks = chunk_of(i, 3) < chunks;
    store_planes<0>(to, low, exchange, all_chunks);
    if (PLANES == 16) store_planes<1>(to, high, exchange, all_chunks);
  }
  workers_meet();
"#;
