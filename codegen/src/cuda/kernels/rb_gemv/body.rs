//! The text of the one-token product: what blocks, warps and lanes do.

/// Where this block works, and the request of its signs, which need not wait for the kernel ahead.
pub const BEGIN: &str = r#"
  extern __shared__ __align__(128) u8 shared[];
  float* const partial = (float*)(shared + PARTIAL_AT);  // [set][chunk warp][SUMS: row of the cluster]
  float* const g_rows = (float*)(shared + G_AT);
  float* const squares = (float*)(shared + SQUARES_AT);
  float* const inbox = (float*)(shared + INBOX_AT);
  float* const inbox_squares = (float*)(shared + INBOX_SQUARES_AT);
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, t = lane & 3;
  uint4* const ring = (uint4*)shared + warp * SLOTS * STEPS * 32 + lane;

  // This cluster's row tiles, this block's inputs, this warp's path and share of the inputs.
  const int split = blockIdx.x % SPLITS, cluster = blockIdx.x / SPLITS;
  const int first_cluster = $FIRST_CLUSTER;
  const int segment = $SEGMENT;
  const int begin = (cluster - first_cluster) * ($SEGMENT_TILES) / ($SEGMENT_CLUSTERS);
  const int tiles = (cluster - first_cluster + 1) * ($SEGMENT_TILES) / ($SEGMENT_CLUSTERS) - begin;
  const int first_tile = ($FIRST_TILE) + begin * SEGMENTS;
  const int segment_rows = $SEGMENT_ROWS;
  const int first_chunk = split * CHUNKS / SPLITS;
  const int chunks = (split + 1) * CHUNKS / SPLITS - first_chunk;
  const int set_warp = warp % SET_WARPS, chunk_warp = warp / SET_WARPS;
  // In a single round, planes go through where the warp's own sums will be.
  uint4* const staging = (ROUNDS == 1 ? (uint4*)(partial + (set_warp * CHUNK_WARPS + chunk_warp) * SUMS)
                                      : (uint4*)(shared + STAGING_AT) + warp * 32) + lane;

  if (NEXT_AT_ONCE) allow_next();
  const u32 inbox_full = (u32)__cvta_generic_to_shared(shared + INBOX_FULL_AT);
  if (SPLITS > 1) {
    if (threadIdx.x == 0) expect_stores(inbox_full, (SPLITS * OWNED * SEGMENTS + (NORM ? SPLITS : 0)) * 4);
    __syncwarp();
    cluster_begun();
  }
  if (ALL_WARPS > WARPS && warp >= WARPS) {
    // These only hold registers; they meet the others where those meet.
    if (SPLITS > 1) cluster_wait();
    __syncthreads();
    return;
  }

  // A round is one set of every warp and up to STEPS blocks of 256 inputs of it.
  auto set_of = [&](int round) { return set_warp + (SET_ROUNDS == 1 ? 0 : round % SET_ROUNDS * SET_WARPS); };
  auto chunk_of = [&](int round, int step) {
    return ((ROUNDS == 1 ? 0 : round / SET_ROUNDS * STEPS) + step) * CHUNK_WARPS + chunk_warp;
  };
  auto inside = [&](int round, int step) {
    return (SET_ROUNDS * SET_WARPS == SETS || set_of(round) < SETS) && (EVEN || chunk_of(round, step) < chunks);
  };
  auto signs_of = [&](int round) {
    const int set = set_of(round), row_tile = first_tile + set / PATHS;
    return signs + (((size_t)row_tile * CHUNKS + first_chunk + chunk_of(round, 0)) * PATHS + set % PATHS) * 512 + lane * 16;
  };
  constexpr int TILE_STRIDE = SEGMENTS * CHUNKS * PATHS * 512, STEP_STRIDE = CHUNK_WARPS * PATHS * 512;
  const u8* const first_signs = signs_of(0);
  const u32 ring_address = (u32)__cvta_generic_to_shared(ring);
  // Asks for the n-th row tile that goes through shared memory.
  auto request = [&](int n) {
    const int round = ROUNDS == 1 ? 0 : n / TILES, tile = n - round * TILES;
    if (n < ROUNDS * TILES && (tile < LEAST || tile < tiles)) {
      const u8* const from = ROUNDS == 1 ? first_signs : signs_of(round);
#pragma unroll
      for (int step = 0; step < STEPS; step++)
        if (inside(round, step))
          copy_async(ring_address + (n % SLOTS * STEPS + step) * 512, from + tile * TILE_STRIDE + step * STEP_STRIDE);
    }
    copies_end_group();
  };
  auto load_h = [&](int round, int step) {
    if (!inside(round, step)) return make_uint4(0, 0, 0, 0);
    const int set = segment * PATHS + set_of(round);
    return load_now(h + ((size_t)set * CHUNKS + first_chunk + chunk_of(round, step)) * 256 + first_input(lane));
  };
  uint4 early_h[STEPS];
#pragma unroll
  for (int step = 0; step < STEPS; step++) early_h[step] = load_h(0, step);
  const u32 g_address = (u32)__cvta_generic_to_shared(g_rows);
  const float* const first_g = g + (size_t)first_tile * PATHS * 16;
  constexpr int G_COPIES = TILES * SEGMENTS * PATHS * 4;
#pragma unroll
  for (int n = 0; n < (G_COPIES + WARPS * 32 - 1) / (WARPS * 32); n++) {
    const int i = n * WARPS * 32 + threadIdx.x;
    if (i < tiles * SEGMENTS * PATHS * 4) copy_async(g_address + i * 16, first_g + i * 4);
  }
  copies_end_group();
#pragma unroll
  for (int n = 0; n < SLOTS; n++) {
    // What the kernel ahead reads queues behind signs under way: no more are than the memory needs.
    if (n >= UNDER_WAY) copies_wait<UNDER_WAY - 1>();
    request(n);
  }
  if (SPLITS > 1) cluster_wait();  // every block of the cluster runs: its memory can be written
  wait_for_previous();
"#;

/// Quantisation and counting.
pub const COUNT: &str = r#"
  // What the end needs of other tensors, asked for early.
  const int mine = threadIdx.x / (SEGMENTS * SHARE);
  float early_residual = 0.0f;
  if (RESIDUAL) {
    const int row = begin * 16 + (SPLITS > 1 ? split * OWNED + (int)threadIdx.x : mine);
    if ((SPLITS > 1 ? (int)threadIdx.x < OWNED : mine < TILES * 16) && row < min(segment_rows, (begin + tiles) * 16))
      early_residual = residual[($COLUMN) + row];
  }

  float square = 0.0f;
#pragma unroll 1
  for (int round = 0; round < ROUNDS; round++) {
    // One scale serves all inputs of a warp in a round, so that the matrix instructions can add up
    // whole numbers.
    float u[STEPS][8], most = 0.0f;
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
      const int input = (first_chunk + chunk_of(round, step)) * 256 + first_input(lane);
      const float* const from = x + input;
      if (X_ALIGNED) {
        const bool there = inside(round, step) && (D_IN % 256 == 0 || input < D_IN);
        const float4 zero = make_float4(0, 0, 0, 0);
        const float4 a = there ? *(const float4*)from : zero, b = there ? *(const float4*)(from + 4) : zero;
        u[step][0] = a.x; u[step][1] = a.y; u[step][2] = a.z; u[step][3] = a.w;
        u[step][4] = b.x; u[step][5] = b.y; u[step][6] = b.z; u[step][7] = b.w;
      } else {
#pragma unroll
        for (int i = 0; i < 8; i++) u[step][i] = inside(round, step) && input + i < D_IN ? from[i] : 0.0f;
      }
    }
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
      if (NORM && set_of(round) == 0) {
#pragma unroll
        for (int i = 0; i < 8; i++) square = fmaf(u[step][i], u[step][i], square);
      }
      float h8[8];
      unpack_f16(round == 0 ? early_h[step] : load_h(round, step), h8);
#pragma unroll
      for (int i = 0; i < 8; i++) {
        u[step][i] *= h8[i];
        most = fmaxf(most, fabsf(u[step][i]));
      }
    }
    most = __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(most)));
    if (!NEXT_AT_ONCE && round == 0) allow_next();
    const float inverse = most > 0.0f ? __fdividef((float)LIMIT, most) : 0.0f, unit = most * (1.0f / LIMIT);
    uint4 planes[STEPS];
    int sum = 0;
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
      // Adding 1.5 · 2^23 rounds to a whole number and leaves it in the low bits.
      u32 q[8];
#pragma unroll
      for (int i = 0; i < 8; i++) {
        q[i] = __float_as_uint(fmaf(u[step][i], inverse, 12582912.0f));
        sum += (int)q[i];
      }
      planes[step] = planes_of(q, staging);
    }
    sum -= (int)(STEPS * 8 * 0x4b400000u);
    const float correction = unit * (float)__reduce_add_sync(~0u, sum);

    // 2 Σ_{sign +} q − Σ q for the rows of a tile; the four lanes of a row hold different planes.
    const int set = set_of(round);
    float* const sums = partial + (set * CHUNK_WARPS + chunk_warp) * SUMS + (t & 1) * 8 + (lane >> 2);
    auto count = [&](int tile, const uint4* words) {
      int low[4] = {0, 0, 0, 0}, high[4] = {0, 0, 0, 0};
#pragma unroll
      for (int step = 0; step < STEPS; step++) {
        count_common(low, words[step], planes[step].x, planes[step].y, low);
        if (PLANES == 16) count_common(high, words[step], planes[step].z, planes[step].w, high);
      }
      int v[2];
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int top = t == 3 ? -16 : 16;
        int n = low[2 * half] + (PLANES == 16 ? 16 : top) * low[2 * half + 1];
        if (PLANES == 16) n += 256 * high[2 * half] + 256 * top * high[2 * half + 1];
        v[half] = n << t;
      }
      int whole = t & 1 ? v[1] : v[0];
      whole += __shfl_xor_sync(~0u, t & 1 ? v[0] : v[1], 1);
      whole += __shfl_xor_sync(~0u, whole, 2);
      if (t < 2 && (SET_ROUNDS * SET_WARPS == SETS || set < SETS)) {
        const float kept = 2.0f * unit * (float)whole - correction;
        sums[tile * 16] = round < SET_ROUNDS ? kept : sums[tile * 16] + kept;
      }
    };
    // The last requests may be empty: what is waited for is then what came before.
#pragma unroll UNROLL
    for (int i = 0; i < TILES; i += BATCH) {
      copies_wait<SLOTS - BATCH>();
      const int n = round * TILES + i;
      uint4 words[BATCH][STEPS];
#pragma unroll
      for (int j = 0; j < BATCH; j++)
#pragma unroll
        for (int step = 0; step < STEPS; step++) words[j][step] = ring[((n + j) % SLOTS * STEPS + step) * 32];
#pragma unroll
      for (int j = 0; j < BATCH; j++) {
        const int tile = i + j;
        if (i + j < TILES && (tile < LEAST || tile < tiles)) count(tile, words[j]);
      }
#pragma unroll
      for (int j = 0; j < BATCH; j++) {
        if (i + j >= TILES) break;
        if (ROUNDS * TILES > SLOTS) request(n + j + SLOTS);
        else copies_end_group();
      }
    }
  }
  if (NORM) {
    square = warp_sum(square);
    if (lane == 0 && set_warp == 0) squares[chunk_warp] = square;
  }
  __syncthreads();
"#;

/// Sums over warps, over the cluster, and what is done with them.
pub const FINISH: &str = r#"
  auto finish = [&](int row, float v, float up, float square, float residual_v) {
    if (NORM) {
      const float inverse = rsqrtf(square * (1.0f / D_IN) + EPS);
      v *= inverse;
      up *= inverse;
    }
    if (GATE) v = $ACT(v) * up;
    const size_t column = ($COLUMN) + row;
    if (RESIDUAL) v += residual_v;
    $OUT[column] = v;
  };
  float norm_square = 0.0f;
  if (NORM) {
#pragma unroll
    for (int w = 0; w < CHUNK_WARPS; w++) norm_square += squares[w];
  }

  // SHARE lanes add up a row of a segment; the segments of a row are neighbours.
  const int last_row = min(segment_rows - begin * 16, tiles * 16);
  for (int item = threadIdx.x; item < ITEMS; item += WARPS * 32) {
    const int row = item / (SEGMENTS * SHARE), in_segment = item / SHARE % SEGMENTS;
    const int tile = row >> 4, share = item % SHARE;
    float v = 0.0f;
    if (tile < tiles) {
#pragma unroll
      for (int i = 0; i < PATHS * CHUNK_WARPS; i += SHARE) {
        const int at = i + share;
        if (PATHS * CHUNK_WARPS % SHARE != 0 && at >= PATHS * CHUNK_WARPS) break;
        const int path = at / CHUNK_WARPS;
        v = fmaf(g_rows[((tile * SEGMENTS + in_segment) * PATHS + path) * 16 + (row & 15)],
                 partial[((in_segment * PATHS) * CHUNK_WARPS + at) * SUMS + row], v);
      }
    }
#pragma unroll
    for (int o = SHARE / 2; o; o >>= 1) v += __shfl_xor_sync(~0u, v, o);
    if (SPLITS > 1) {
      if (share == 0) store_async(inbox + (split * OWNED + row % OWNED) * SEGMENTS + in_segment, row / OWNED, v, inbox_full);
      continue;
    }
    const float up = GATE ? __shfl_xor_sync(~0u, v, SHARE) : 0.0f;
    if (share == 0 && in_segment == 0 && row < last_row)
      finish(begin * 16 + row, v, up, norm_square, !RESIDUAL || item < WARPS * 32 ? early_residual : residual[($COLUMN) + begin * 16 + row]);
  }
  if (SPLITS == 1) return;
  if (NORM && threadIdx.x < SPLITS) store_async(inbox_squares + split, threadIdx.x, norm_square, inbox_full);
  wait_for_stores(inbox_full);
  for (int i = threadIdx.x; i < OWNED; i += WARPS * 32) {
    const int row = split * OWNED + i;
    if (row >= last_row) break;
    float v = 0.0f, up = 0.0f;
    norm_square = 0.0f;
#pragma unroll
    for (int s = 0; s < SPLITS; s++) {
      v += inbox[(s * OWNED + i) * SEGMENTS];
      if (GATE) up += inbox[(s * OWNED + i) * SEGMENTS + 1];
      if (NORM) norm_square += inbox_squares[s];
    }
    finish(begin * 16 + row, v, up, norm_square, !RESIDUAL || i < WARPS * 32 ? early_residual : residual[($COLUMN) + begin * 16 + row]);
  }
"#;
