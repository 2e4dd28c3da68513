//! The second half of the product of several tokens, as CUDA C++: counts, and rows made of them.

/// The matrix instructions.
pub const COUNT: &str = r#"
  // Columns are COLUMNS tokens by planes STEPS apart, and steps go from the highest plane of each to
  // the lowest. A count c, read as a float, is the subnormal number c · 2^-149: one multiply-add
  // weights it by its plane and adds it up, and a power of two makes a whole number of the sum. The
  // highest plane of all counts negatively.
  const int plane_group = 2 * t / COLUMNS;
  const float first_weight = __uint_as_float((127 + 111 + STEPS - 1) << 23) * (plane_group == 8 / COLUMNS - 1 ? -1.0f : 1.0f);
  constexpr float WHOLE = 274877906944.0f;  // 2^(149 - 111)
  const float unit = (float)(2 << (plane_group * STEPS)) * (1.0f / LIMIT);
  if (SPLITS > 1) all_are_here();  // every block of the cluster runs: its memory can be written
  if (BULK) barrier_wait(g_ready, 0);
  for (int item = warp; tile_of(item, 0) < tiles; item += WARPS) {
    const int slot = slot_of(item), part = item % PARTS, set0 = GATE ? (tile_of(item, 0) & 1) * PATHS : 0;
    const int begin_chunk = part * PART_CHUNKS, end_chunk = min(chunks, begin_chunk + PART_CHUNKS);
    if (BULK) barrier_wait(ready + slot, item / (WARPS * SLOTS) & 1);
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
            const uint4* const words = BULK ? (const uint4*)(shared + SIGNS_AT + (slot * AT_ONCE + r) * SLOT_BYTES) - begin_chunk * PATHS * 32
                                            : (const uint4*)(stream + (size_t)min(tile_of(item, r), tiles - 1) * (CHUNKS * PATHS * 512));
            a[r][c] = first + c < end_chunk ? words[((first + c) * PATHS + path) * 32 + lane] : make_uint4(0, 0, 0, 0);
          }
#pragma unroll
        for (int k = 0; k < GROUPS_OF_TOKENS; k++) {
          if (k > 0 && k * COLUMNS >= tokens) break;
          const u8* const planes = shared + PLANES_AT + ((first * SETS + set0 + path) * GROUPS_OF_TOKENS + k) * (STEPS * 256) + lane * 8;
          float counted[AT_ONCE][4], weight = first_weight;
#pragma unroll
          for (int r = 0; r < AT_ONCE; r++) counted[r][0] = counted[r][1] = counted[r][2] = counted[r][3] = 0.0f;
          // Two steps at a time, so that instructions need not wait for each other.
#pragma unroll STEPS_UNROLLED
          for (int step = 0; step < STEPS; step += 2) {
            int count[2][AT_ONCE][4];
#pragma unroll
            for (int c = 0; c < CHUNKS_AT_ONCE; c++)
#pragma unroll
              for (int odd = 0; odd < 2; odd++) {
                const uint2 b = *(const uint2*)(planes + c * (SETS * GROUPS_OF_TOKENS * STEPS * 256) + (step + odd) * 256);
#pragma unroll
                for (int r = 0; r < AT_ONCE; r++) {
                  if (c == 0) count_first(count[odd][r], a[r][c], b);
                  else count_common(count[odd][r], a[r][c], b);
                }
              }
#pragma unroll
            for (int odd = 0; odd < 2; odd++) {
#pragma unroll
              for (int r = 0; r < AT_ONCE; r++)
#pragma unroll
                for (int j = 0; j < 4; j++) counted[r][j] = fmaf(__int_as_float(count[odd][r][j]), weight, counted[r][j]);
              weight = fabsf(weight) * 0.5f;
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
            const int tile = min(tile_of(item, r), tiles - 1);
            const float* const g_here = g_rows + (tile * PATHS + path) * 16 + (lane >> 2);
#pragma unroll
            for (int j = 0; j < 4; j++)
              total[k][r][j] = fmaf(g_here[j >> 1 ? 8 : 0], fmaf(scale[j & 1], counted[r][j] * WHOLE, -correction[j & 1]), total[k][r][j]);
          }
        }
      }
    }
    if (BULK && tile_of(item + WARPS * SLOTS, 0) < tiles) {
      __syncwarp();
      if (lane == 0) fetch(item + WARPS * SLOTS);
    }
#pragma unroll
    for (int r = 0; r < AT_ONCE; r++) {
      const int tile = tile_of(item, r);
      if (tile >= tiles) break;
      const int whole = GATE ? tile >> 1 : tile;
      const int owner = whole % SPLITS, local = GATE ? (whole / SPLITS) * 2 + (tile & 1) : whole / SPLITS;
      // Lanes that hold four sums each, two rows by two tokens, store them side by side.
      float4* const to = (float4*)inbox + ((split * PARTS + part) * FINISHED + local) * (GROUPS_OF_TOKENS * HOLDERS)
                         + (lane >> 2) * (COLUMNS / 2) + t % (COLUMNS / 2);
      const u32 remote = remote_address(to, owner), arrived = remote_address(inbox_ready, owner);
#pragma unroll
      for (int k = 0; k < GROUPS_OF_TOKENS; k++) {
        // Lanes with the same tokens hold different planes.
#pragma unroll
        for (int o = COLUMNS / 2; o < 4; o *= 2)
#pragma unroll
          for (int j = 0; j < 4; j++) total[k][r][j] += __shfl_xor_sync(~0u, total[k][r][j], o);
        if (t < COLUMNS / 2) send4(remote + k * (HOLDERS * 16), total[k][r], arrived);
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
      for (int i = 0; i < SQUARES; i++) square += squares[i * TOKENS + token];
      send(remote_address(inbox_squares + split * TOKENS + token, rank), square, remote_address(inbox_ready, rank));
    }
  }
  constexpr int STEP = GATE ? 2 : 1, SOURCES = SPLITS * PARTS;
  // A thread has the sums of two rows and two tokens, as they were stored: where, and which.
  struct Held { int from, tile, row, token; };
  auto held_by = [&](int item) {
    const int holder = item % HOLDERS, k = item / HOLDERS % GROUPS_OF_TOKENS, local = item / (HOLDERS * GROUPS_OF_TOKENS);
    const int whole = local * SPLITS + split, tile = whole * STEP;
    return Held{(local * STEP * GROUPS_OF_TOKENS + k) * HOLDERS + holder, tile,
                (GATE ? begin / 2 + whole : begin + tile) * 16 + holder / (COLUMNS / 2), k * COLUMNS + holder % (COLUMNS / 2) * 2};
  };
  auto there = [&](const Held& held, int j) {
    return held.tile < tiles && held.row + (j >> 1) * 8 < segment_rows && held.token + (j & 1) < tokens;
  };
  auto rest_of = [&](const Held& held, int j) {
    const size_t token = first_token + held.token + (j & 1);
    return there(held, j) ? residual[token * R_STRIDE + ($COLUMN) + held.row + (j >> 1) * 8] : 0.0f;
  };
  constexpr int ITEMS = FINISHED / STEP * GROUPS_OF_TOKENS * HOLDERS;
  // The first residuals come while the sums of other blocks do.
  float early[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  if (RESIDUAL && threadIdx.x < ITEMS) {
    const Held held = held_by(threadIdx.x);
#pragma unroll
    for (int j = 0; j < 4; j++) early[j] = rest_of(held, j);
  }
  all_is_sent(inbox_ready);
  if (NORM) {
    if (threadIdx.x < TOKENS) {
      float square = 0.0f;
#pragma unroll
      for (int s = 0; s < SPLITS; s++) square += inbox_squares[s * TOKENS + threadIdx.x];
      inverse[threadIdx.x] = rsqrtf(square / D_IN + EPS);
    }
    workers_meet();
  }
  for (int item = threadIdx.x; item < ITEMS; item += WARPS * 32) {
    const Held held = held_by(item);
    if (!there(held, 0)) continue;
    float v[4] = {0.0f, 0.0f, 0.0f, 0.0f}, up[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    const float4* const from = (const float4*)inbox + held.from;
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
      if (!there(held, j)) continue;
      const int token = held.token + (j & 1);
      float result = v[j];
      if (NORM) result *= inverse[token];
      if (GATE) result = $ACT(result) * (NORM ? up[j] * inverse[token] : up[j]);
      if (RESIDUAL) result += item < WARPS * 32 ? early[j] : rest_of(held, j);
      $OUT[(size_t)(first_token + token) * OUT_STRIDE + ($COLUMN) + held.row + (j >> 1) * 8] = result;
    }
  }
"#;
