//! Signs and planes to sums, as CUDA C++.

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
  for (int item = warp; tile_of(item, 0) < tiles; item += WARPS) {
    const int part = item % PARTS, set0 = GATE ? (tile_of(item, 0) & 1) * PATHS : 0;
    const int begin_chunk = part * PART_CHUNKS, end_chunk = min(chunks, begin_chunk + PART_CHUNKS);
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
            const uint4* const words = (const uint4*)(stream + (size_t)min(tile_of(item, r), tiles - 1) * (CHUNKS * PATHS * 512));
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
#pragma unroll
    for (int r = 0; r < AT_ONCE; r++) {
      const int tile = tile_of(item, r);
      if (tile >= tiles) break;
      // Lanes that hold four sums each, two rows by two tokens, store them side by side.
      float4* const to = (float4*)inbox + (part * FINISHED + tile) * (GROUPS_OF_TOKENS * HOLDERS)
                         + (lane >> 2) * (COLUMNS / 2) + t % (COLUMNS / 2);
#pragma unroll
      for (int k = 0; k < GROUPS_OF_TOKENS; k++) {
        // Lanes with the same tokens hold different planes.
#pragma unroll
        for (int o = COLUMNS / 2; o < 4; o *= 2)
#pragma unroll
          for (int j = 0; j < 4; j++) total[k][r][j] += __shfl_xor_sync(~0u, total[k][r][j], o);
        if (t < COLUMNS / 2) to[k * HOLDERS] = make_float4(total[k][r][0], total[k][r][1], total[k][r][2], total[k][r][3]);
      }
    }
  }
"#;
