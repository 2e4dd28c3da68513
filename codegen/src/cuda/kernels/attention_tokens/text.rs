//! The CUDA C++ of attention of several tokens.

/// What brings operands of matrix instructions into form.
pub const TRANSPOSE: &str = r#"
// An 8 × 8 matrix of halves, two of row lane / 4 in every lane, to its transpose.
__device__ __forceinline__ u32 transposed(u32 v) {
  u32 to;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(to) : "r"(v));
  return to;
}
"#;

/// Queries and this block's new keys and values, from the projections.
pub const HEADS: &str = r#"
  extern __shared__ __align__(16) float shared[];
  float* const queries = shared;
  float* const new_keys = shared + KEYS_AT;
  float* const new_values = shared + VALUES_AT;
  float* const partial = shared + PARTIAL_AT;
  float* const inbox = shared + INBOX_AT;
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  const int kv_head = blockIdx.x / SPLITS, split = blockIdx.x % SPLITS;
  allow_next();
  const int start = state->start, capacity = state->capacity, tokens = min(TOKENS, state->tokens);
  __shared__ __align__(8) u64 arrived;
  if (threadIdx.x == 0) expect_results(&arrived, result_bytes(tokens * GROUP, split));
  say_started();
  // The cached positions that any of the tokens sees, and this block's share of them.
  const int visible = WINDOW > 0 ? max(0, start + 1 - WINDOW) : 0;
  const int each = ((start - visible + SPLITS - 1) / SPLITS + 15) & ~15;
  const int begin = min(start, visible + split * each), end = min(start, begin + each);
  u16* const k_rows = keys + (size_t)kv_head * capacity * PADDED;
  u16* const v_rows = values + (size_t)kv_head * capacity * PADDED;

  // Sixteen rows of keys or values: a lane has eight channels of rows g and g + 8 in every 32.
  auto load = [&](const u16* rows, int pitch, int count, uint4 (*to)[2]) {
#pragma unroll
    for (int s = 0; s < STEPS; s++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int channel = s * 32 + t * 8, row = half * 8 + g;
        to[s][half] = channel < PADDED && row < count ? *(const uint4*)(rows + (size_t)row * pitch + channel) : make_uint4(0, 0, 0, 0);
      }
  };
  // The first positions of every warp were cached by earlier steps: they need not wait.
  uint4 early_k[STEPS][2], early_v[STEPS][2];
  const int first_position = begin + warp * 16;
  if (EARLY) {
    load(k_rows + (size_t)first_position * PADDED, PADDED, end - first_position, early_k);
    load(v_rows + (size_t)first_position * PADDED, PADDED, end - first_position, early_v);
  }
  wait_for_previous();
  for (int row = warp; row < ROWS; row += WARPS) {
    const int token = row / GROUP, head = kv_head * GROUP + row % GROUP;
    if (token >= tokens) break;
    float* const to = queries + row * PITCH;
    load_q_head(q + (size_t)token * Q_STRIDE, q_bias, q_norm, q_rope, head, start + token, SCALE, to);
    round_row(to, 0);
  }
  // This block's new tokens.
  const int fresh_tokens = tokens > split ? (tokens - split + SPLITS - 1) / SPLITS : 0;
  for (int i = WARPS - 1 - warp; i < 2 * fresh_tokens; i += WARPS) {
    const int token = split + (i >> 1) * SPLITS, position = start + token;
    float* const to = (i & 1 ? new_values : new_keys) + (i >> 1) * PITCH;
    if (i & 1) load_v_head(v + (size_t)token * V_STRIDE, v_bias, v_norm, v_rope, kv_head, position, 1.0f, to);
    else load_k_head(k + (size_t)token * K_STRIDE, k_bias, k_norm, k_rope, kv_head, position, 1.0f, to);
    // What later steps will read is what this one reads.
    round_row(to, (i & 1 ? v_rows : k_rows) + (size_t)position * PADDED);
  }
  __syncthreads();
  wait_for_start();
"#;

/// One pass over the positions for sixteen query rows.
pub const SCORES: &str = r#"
  for (int row0 = 0; row0 < ROWS; row0 += ROWS_AT_ONCE) {
    float mix[STEPS][4][4], most[2] = {NOTHING, NOTHING}, sum[2] = {0.0f, 0.0f};
#pragma unroll
    for (int s = 0; s < STEPS; s++)
#pragma unroll
      for (int j = 0; j < 4; j++) mix[s][j][0] = mix[s][j][1] = mix[s][j][2] = mix[s][j][3] = 0.0f;
    const int own[2] = {start + (row0 + g) / GROUP, start + (row0 + g + 8) / GROUP};
    auto attend = [&](const uint4 (*key)[2], const uint4 (*value)[2], const u16* value_rows, int pitch, int position0, int between, int count) {
      float score[2][4] = {{0, 0, 0, 0}, {0, 0, 0, 0}};
#pragma unroll
      for (int s = 0; s < STEPS; s++) {
        const int channel = s * 32 + t * 8;
        const uint4 zero = make_uint4(0, 0, 0, 0);
        const u16* const query = (const u16*)(queries + (row0 + g) * PITCH) + channel;
        const uint4 a = channel < PADDED ? *(const uint4*)query : zero, b = channel < PADDED ? *(const uint4*)(query + 16 * PITCH) : zero;
        const u32 first[4] = {a.x, b.x, a.y, b.y}, second[4] = {a.z, b.z, a.w, b.w};
#pragma unroll
        for (int half = 0; half < 2; half++) {
          matrix_f16(score[half], first, key[s][half].x, key[s][half].y);
          matrix_f16(score[half], second, key[s][half].z, key[s][half].w);
        }
      }
      float highest[2] = {most[0], most[1]}, base[2];
#pragma unroll
      for (int half = 0; half < 2; half++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const int at = half * 8 + t * 2 + (j & 1), position = position0 + at * between, query_position = own[j >> 1];
          const bool seen = at < count && position <= query_position && (WINDOW == 0 || query_position - position < WINDOW);
          score[half][j] = seen ? capped(score[half][j]) : NOTHING;
          highest[j >> 1] = fmaxf(highest[j >> 1], score[half][j]);
        }
#pragma unroll
      for (int i = 0; i < 2; i++) {
        highest[i] = fmaxf(highest[i], __shfl_xor_sync(~0u, highest[i], 1));
        highest[i] = fmaxf(highest[i], __shfl_xor_sync(~0u, highest[i], 2));
        base[i] = base_of(highest[i]);
        const float keep = exp2_fast(most[i] - base[i]);
        most[i] = highest[i];
        sum[i] *= keep;
#pragma unroll
        for (int s = 0; s < STEPS; s++)
#pragma unroll
          for (int j = 0; j < 4; j++) { mix[s][j][2 * i] *= keep; mix[s][j][2 * i + 1] *= keep; }
      }
      u32 weight[4];
#pragma unroll
      for (int half = 0; half < 2; half++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
          float e[2];
#pragma unroll
          for (int j = 0; j < 2; j++) {
            e[j] = exp2_fast(score[half][2 * i + j] - base[i]);
            sum[i] += e[j];
          }
          weight[half * 2 + i] = pack_f16(e[0], e[1]);
        }
#pragma unroll
      for (int s = 0; s < STEPS; s++) {
        uint4 late[2];
        const int channel = s * 32 + t * 8;
        if (!EARLY) {
#pragma unroll
          for (int half = 0; half < 2; half++)
            late[half] = channel < PADDED && half * 8 + g < count ? *(const uint4*)(value_rows + (size_t)(half * 8 + g) * pitch + channel)
                                                                  : make_uint4(0, 0, 0, 0);
        }
        const uint4 low = EARLY ? value[EARLY ? s : 0][0] : late[0], high = EARLY ? value[EARLY ? s : 0][1] : late[1];
        matrix_f16(mix[s][0], weight, transposed(low.x), transposed(high.x));
        matrix_f16(mix[s][1], weight, transposed(low.y), transposed(high.y));
        matrix_f16(mix[s][2], weight, transposed(low.z), transposed(high.z));
        matrix_f16(mix[s][3], weight, transposed(low.w), transposed(high.w));
      }
    };
    if (EARLY && first_position < end) attend(early_k, early_v, 0, 0, first_position, 1, end - first_position);
    // What is left of the cache, then the new tokens.
    const int more = first_position + (EARLY ? WARPS * 16 : 0);
#pragma unroll 1
    for (int position = more;; position += WARPS * 16) {
      const bool fresh = position >= end;
      if (fresh && (warp != 0 || fresh_tokens == 0)) break;
      const u16* const key_rows = fresh ? (const u16*)new_keys : k_rows + (size_t)position * PADDED;
      const u16* const value_rows = fresh ? (const u16*)new_values : v_rows + (size_t)position * PADDED;
      const int pitch = fresh ? 2 * PITCH : PADDED, count = fresh ? fresh_tokens : end - position;
      uint4 key[STEPS][2], value[EARLY ? STEPS : 1][2];
      load(key_rows, pitch, count, key);
      if (EARLY) load(value_rows, pitch, count, value);
      attend(key, value, value_rows, pitch, fresh ? start + split : position, fresh ? SPLITS : 1, count);
      if (fresh) break;
    }
"#;

/// Warps, then splits.
pub const RESULTS: &str = r#"
    // A lane has eight channels of its rows in every 32.
#pragma unroll
    for (int i = 0; i < 2; i++) {
      sum[i] += __shfl_xor_sync(~0u, sum[i], 1);
      sum[i] += __shfl_xor_sync(~0u, sum[i], 2);
      float* const to = partial + (warp * ROWS_AT_ONCE + i * 8 + g) * RESULT;
#pragma unroll
      for (int s = 0; s < STEPS; s++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const int channel = s * 32 + t * 8 + j * 2;
          if (channel < PADDED) *(float2*)(to + channel) = make_float2(mix[s][j][2 * i], mix[s][j][2 * i + 1]);
        }
      if (t == 0) *(float2*)(to + PADDED) = make_float2(most[i], sum[i]);
    }
    __syncthreads();
    merge_warps<ROWS_AT_ONCE>(partial, inbox, row0, min(ROWS_AT_ONCE, tokens * GROUP - row0), split, &arrived);
    __syncthreads();
  }
  merge_splits(inbox, tokens * GROUP, split, &arrived, [&](int row) {
    return out + ((size_t)(row / GROUP) * HEADS + kv_head * GROUP + row % GROUP) * HEAD_DIM;
  });
"#;
