//! The CUDA C++ of the product of several tokens, stage by stage.

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
  u64* const scales_ready = (u64*)(shared + READY_AT);
  u64* const ready = scales_ready + 1 + warp * SLOTS;
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
      if (warp == 0) barrier_init(scales_ready);
      barrier_inits_done();
      if (warp == 0) {
        barrier_expect(scales_ready, SETS * chunks * 512 + tiles * PATHS * 64);
        for (int set = 0; set < SETS; set++)
          bulk_copy(h_here + set * MOST_CHUNKS * 256, h_from + (size_t)set * CHUNKS * 256, chunks * 512, scales_ready);
        bulk_copy(g_rows, g_from, tiles * PATHS * 64, scales_ready);
      }
#pragma unroll
      for (int s = 0; s < SLOTS; s++) fetch(s);
    }
    __syncwarp();
  } else {
    for (int i = threadIdx.x; i < SETS * chunks * 32; i += WARPS * 32) {
      const int set = i / (chunks * 32), at = i % (chunks * 32);
      ((uint4*)h_here)[set * MOST_CHUNKS * 32 + at] = ((const uint4*)h_from)[(size_t)set * CHUNKS * 32 + at];
    }
    for (int i = threadIdx.x; i < tiles * PATHS * 16; i += WARPS * 32) g_rows[i] = g_from[i];
  }
  for (int i = threadIdx.x; i < SETS * TOKENS; i += WARPS * 32) sums[i] = largest[i] = 0;
  __syncthreads();
  if (BULK) barrier_wait(scales_ready, 0);
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
      store_planes<0>(to, q);
      if (PLANES == 16) store_planes<1>(to, q);
      const int all = __reduce_add_sync(~0u, (int)(sum - 8u * 0x4b400000u));
      if (lane == 0) atomicAdd(sums + set * TOKENS + token, all);
    }
  }
  __syncthreads();
  if (SPLITS > 1) cluster_wait();  // every block of the cluster runs: its memory can be written
"#;

/// The matrix instructions.
pub const COUNT: &str = r#"
  // Columns are COLUMNS tokens by planes STEPS apart. Steps go from the highest plane of each to the
  // lowest and multiply what is there, so that a lane ends with whole sums; the highest plane of all
  // counts negatively.
  const int plane_group = 2 * t / COLUMNS;
  const int first_factor = plane_group == 8 / COLUMNS - 1 ? -2 : 2;
  const float unit = (float)(2 << (plane_group * STEPS)) * (1.0f / LIMIT);
  for (int round = 0; tile_of(round, 0) < tiles; round++) {
    const int slot = round % SLOTS, part = part_of(round), set0 = GATE ? (tile_of(round, 0) & 1) * PATHS : 0;
    const int begin_chunk = part * PART_CHUNKS, end_chunk = min(chunks, begin_chunk + PART_CHUNKS);
    if (BULK) barrier_wait(ready + slot, (round / SLOTS) & 1);
    float total[GROUPS_OF_TOKENS][AT_ONCE][4];
#pragma unroll
    for (int k = 0; k < GROUPS_OF_TOKENS; k++)
#pragma unroll
      for (int r = 0; r < AT_ONCE; r++) total[k][r][0] = total[k][r][1] = total[k][r][2] = total[k][r][3] = 0.0f;
#pragma unroll 1
    for (int path = 0; path < PATHS; path++) {
#pragma unroll 1
      for (int first = begin_chunk; first < end_chunk; first += CHUNKS_AT_ONCE) {
        uint4 a[AT_ONCE][CHUNKS_AT_ONCE];
#pragma unroll
        for (int r = 0; r < AT_ONCE; r++)
#pragma unroll
          for (int c = 0; c < CHUNKS_AT_ONCE; c++) {
            const uint4* const words = BULK ? (const uint4*)(slots + (slot * AT_ONCE + r) * SLOT_BYTES) - begin_chunk * PATHS * 32
                                            : (const uint4*)(stream + (size_t)min(tile_of(round, r), tiles - 1) * (CHUNKS * PATHS * 512));
            a[r][c] = first + c < end_chunk ? words[((first + c) * PATHS + path) * 32 + lane] : make_uint4(0, 0, 0, 0);
          }
#pragma unroll
        for (int k = 0; k < GROUPS_OF_TOKENS; k++) {
          if (k > 0 && k * COLUMNS >= tokens) break;
          const u8* const planes = shared + PLANES_AT + ((first * SETS + set0 + path) * GROUPS_OF_TOKENS + k) * (STEPS * 256) + lane * 8;
          // Every other step has an accumulator of its own, so that instructions need not wait.
          int count[AT_ONCE][2][4], factor = first_factor;
#pragma unroll
          for (int r = 0; r < AT_ONCE; r++)
#pragma unroll
            for (int j = 0; j < 4; j++) count[r][0][j] = count[r][1][j] = 0;
#pragma unroll STEPS_UNROLLED
          for (int step = 0; step < STEPS; step += 2) {
#pragma unroll
            for (int c = 0; c < CHUNKS_AT_ONCE; c++)
#pragma unroll
              for (int odd = 0; odd < 2; odd++) {
                const uint2 b = *(const uint2*)(planes + c * (SETS * GROUPS_OF_TOKENS * STEPS * 256) + (step + odd) * 256);
#pragma unroll
                for (int r = 0; r < AT_ONCE; r++) count_common(count[r][odd], a[r][c], b);
              }
            if (step + 2 < STEPS) {
#pragma unroll
              for (int r = 0; r < AT_ONCE; r++)
#pragma unroll
                for (int j = 0; j < 4; j++) { count[r][0][j] *= 2 * factor; count[r][1][j] *= 4; }
              factor = 2;
            }
          }
          // Two tokens a lane.
          const int at = (set0 + path) * TOKENS + k * COLUMNS + 2 * t % COLUMNS;
          float scale[2], correction[2];
#pragma unroll
          for (int j = 0; j < 2; j++) {
            const float most = __uint_as_float(largest[at + j]);
            scale[j] = most * unit;
            correction[j] = first == 0 && plane_group == 0 ? most * (1.0f / LIMIT) * (float)sums[at + j] : 0.0f;
          }
#pragma unroll
          for (int r = 0; r < AT_ONCE; r++) {
            const int tile = min(tile_of(round, r), tiles - 1);
            const float* const g_here = g_rows + (tile * PATHS + path) * 16 + (lane >> 2);
#pragma unroll
            for (int j = 0; j < 4; j++)
              total[k][r][j] = fmaf(g_here[j >> 1 ? 8 : 0], fmaf(scale[j & 1], (float)(factor * count[r][0][j] + count[r][1][j]), -correction[j & 1]), total[k][r][j]);
          }
        }
      }
    }
    if (BULK && tile_of(round + SLOTS, 0) < tiles) {
      __syncwarp();
      if (lane == 0) fetch(round + SLOTS);
    }
#pragma unroll
    for (int r = 0; r < AT_ONCE; r++) {
      const int tile = tile_of(round, r);
      if (tile >= tiles) break;
      const int whole = GATE ? tile >> 1 : tile;
      const int owner = whole % SPLITS, local = GATE ? (whole / SPLITS) * 2 + (tile & 1) : whole / SPLITS;
      // Lanes that hold four sums each, two rows by two tokens, store them side by side.
      float4* const to = (float4*)inbox + ((split * PARTS + part) * FINISHED + local) * (GROUPS_OF_TOKENS * HOLDERS)
                         + (lane >> 2) * (COLUMNS / 2) + t % (COLUMNS / 2);
      const u32 remote = remote_address(to, owner);
#pragma unroll
      for (int k = 0; k < GROUPS_OF_TOKENS; k++) {
        // Lanes with the same tokens hold different planes.
#pragma unroll
        for (int o = COLUMNS / 2; o < 4; o *= 2)
#pragma unroll
          for (int j = 0; j < 4; j++) total[k][r][j] += __shfl_xor_sync(~0u, total[k][r][j], o);
        if (t < COLUMNS / 2) store_remote4(remote + k * (HOLDERS * 16), total[k][r]);
      }
    }
  }
"#;

/// Sums of the blocks of a cluster meet, and rows are finished.
pub const FINISH: &str = r#"
  if (NORM) {
    for (int i = threadIdx.x; i < SPLITS * TOKENS; i += WARPS * 32) {
      const int rank = i / TOKENS, token = i % TOKENS;
      float square = 0.0f;
      for (int chunk = 0; chunk < chunks; chunk++) square += squares[chunk * TOKENS + token];
      store_remote(inbox_squares + split * TOKENS + token, rank, square);
    }
  }
  if (SPLITS > 1) cluster_arrive();
  cluster_wait();
  constexpr int STEP = GATE ? 2 : 1, SOURCES = SPLITS * PARTS;
  float* const inverse = squares;  // 1 / rms of a token
  if (NORM) {
    if (threadIdx.x < TOKENS) {
      float square = 0.0f;
#pragma unroll
      for (int s = 0; s < SPLITS; s++) square += inbox_squares[s * TOKENS + threadIdx.x];
      inverse[threadIdx.x] = rsqrtf(square / D_IN + EPS);
    }
    __syncthreads();
  }
  // A thread has the sums of two rows and two tokens, as they were stored.
  for (int item = threadIdx.x; item < FINISHED / STEP * GROUPS_OF_TOKENS * HOLDERS; item += WARPS * 32) {
    const int holder = item % HOLDERS, k = item / HOLDERS % GROUPS_OF_TOKENS, local = item / (HOLDERS * GROUPS_OF_TOKENS);
    const int whole = local * SPLITS + split, tile = whole * STEP;
    const int row0 = (GATE ? begin / 2 + whole : begin + tile) * 16 + holder / (COLUMNS / 2);
    const int token0 = k * COLUMNS + holder % (COLUMNS / 2) * 2;
    if (tile >= tiles || token0 >= tokens) continue;
    float v[4] = {0.0f, 0.0f, 0.0f, 0.0f}, up[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    const float4* const from = (const float4*)inbox + (local * STEP * GROUPS_OF_TOKENS + k) * HOLDERS + holder;
#pragma unroll
    for (int s = 0; s < SOURCES; s++) {
      const float4 a = from[s * (FINISHED * GROUPS_OF_TOKENS * HOLDERS)];
      v[0] += a.x; v[1] += a.y; v[2] += a.z; v[3] += a.w;
      if (GATE) {
        const float4 b = from[(s * FINISHED + 1) * (GROUPS_OF_TOKENS * HOLDERS)];
        up[0] += b.x; up[1] += b.y; up[2] += b.z; up[3] += b.w;
      }
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const int row = row0 + (j >> 1) * 8, token = token0 + (j & 1);
      if (row >= segment_rows || token >= tokens) continue;
      const size_t column = ($COLUMN) + row;
      float result = v[j];
      if (NORM) result *= inverse[token];
      if (GATE) result = $ACT(result) * (NORM ? up[j] * inverse[token] : up[j]);
      if (RESIDUAL) result += residual[(size_t)(first_token + token) * R_STRIDE + column];
      $OUT[(size_t)(first_token + token) * OUT_STRIDE + column] = result;
    }
  }
"#;
