//! Planes of x, as CUDA C++.

/// Pieces of x that a warp loads together.
pub const MOST_AT_ONCE: usize = 4;

/// From whole numbers to bit planes.
pub const PLANES: &str = r#"
// a where the mask is set, b elsewhere.
__device__ __forceinline__ u32 pick(u32 mask, u32 a, u32 b) {
  u32 r;
  asm("lop3.b32 %0, %1, %2, %3, 0xca;" : "=r"(r) : "r"(mask), "r"(a), "r"(b));
  return r;
}
__device__ __forceinline__ float reciprocal(float v) { float r; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v)); return r; }
// Swaps the upper bits of every 2·S with the lower ones of another word, S words on.
template <int S, u32 LOWER> __device__ __forceinline__ void swap_bits(u32* w) {
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const int at = j / S * 2 * S + j % S;
    const u32 a = w[at], b = w[at + S];
    w[at] = pick(LOWER, a, b << S);
    w[at + S] = pick(LOWER, a >> S, b);
  }
}
// Transposes the 8 × 8 bits that each byte of eight words has.
__device__ __forceinline__ void transpose_bits(u32* w) {
  swap_bits<4, 0x0f0f0f0fu>(w);
  swap_bits<2, 0x33333333u>(w);
  swap_bits<1, 0x55555555u>(w);
}
// Offset of the column and step in which plane `p` of a token is counted.
__device__ __forceinline__ constexpr int plane_at(int p) {
  return (STEPS - 1 - p % STEPS) * 256 + p / STEPS * (COLUMNS * COLUMN_BYTES);
}
__device__ __forceinline__ void unpack_f16(uint4 v, float* to) {
  const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; i++) { to[2 * i] = f16_to_f32((u16)words[i]); to[2 * i + 1] = f16_to_f32((u16)(words[i] >> 16)); }
}
"#;

/// What does not need x: this comes before `wait_for_previous`.
pub const BEFORE: &str = r#"
  // Four lanes make planes of 128 inputs for a column of the matrix instruction: a lane those of 32 inputs,
  // whole words. A warp has eight columns: as many tokens, or fewer with several sets or stretches of 128
  // inputs of theirs. One scale serves all inputs of the block, so that the matrix instructions can add up
  // whole numbers.
  constexpr float LIMIT = PLANES == 16 ? 32700.0f : 127.0f;
  constexpr int OTHERS = 8 / COLUMNS, SETS_BESIDE = SETS % OTHERS == 0 ? OTHERS : SETS % 2 == 0 ? 2 : 1;
  constexpr int BESIDE = OTHERS / SETS_BESIDE, STRETCHES = (2 * MOST_CHUNKS + BESIDE - 1) / BESIDE * BESIDE;
  constexpr int X_UNITS = STRETCHES / BESIDE * GROUPS_OF_TOKENS, UNITS = X_UNITS * (SETS / SETS_BESIDE);
  constexpr int ROUNDS = (UNITS + WARPS - 1) / WARPS;
  constexpr int UNROLL = HELD ? ROUNDS : 1;
  const int column = lane >> 2, other = column / COLUMNS;
  auto set_of = [&](int i) { return (warp + i * WARPS) / X_UNITS * SETS_BESIDE + other % SETS_BESIDE; };
  auto token_of = [&](int i) { return (warp + i * WARPS) % X_UNITS % GROUPS_OF_TOKENS * COLUMNS + column % COLUMNS; };
  auto stretch_of = [&](int i) { return (warp + i * WARPS) % X_UNITS / GROUPS_OF_TOKENS * BESIDE + other / SETS_BESIDE; };
  // Whether a warp has anything to do, and a lane.
  auto is_there = [&](int i) { return warp + i * WARPS < UNITS && (warp + i * WARPS) % X_UNITS / GROUPS_OF_TOKENS * BESIDE < 2 * chunks; };
  auto lane_is_there = [&](int i) { return BESIDE <= 2 || stretch_of(i) < 2 * chunks; };
  // Scales lie ready in registers, where x is multiplied to them.
  float u_held[UNROLL][32];
  auto load_scales = [&](int i) {
    const u16* const from = h_here + set_of(i) * MOST_CHUNKS * 256 + min(stretch_of(i), 2 * chunks - 1) * 128 + t * 32;
#pragma unroll
    for (int k = 0; k < 4; k++) unpack_f16(((const uint4*)from)[k], u_held[HELD ? i : 0] + 8 * k);
  };
"#;

/// x to planes in shared memory.
pub const QUANTISE: &str = r#"
  // x to shared memory: rows of 32 inputs with gaps, so that lanes which read different ones do not meet in a
  // bank. A warp takes 128 inputs of a token at a time.
  constexpr int X_ROW = STRETCHES * 4 * 36 + 16, PIECES = (TOKENS * STRETCHES + WARPS - 1) / WARPS;
  constexpr int AT_ONCE = (PIECES + (PIECES + MOST_AT_ONCE - 1) / MOST_AT_ONCE - 1) / ((PIECES + MOST_AT_ONCE - 1) / MOST_AT_ONCE);
  // Squares are added up for as long as the token stays the same.
  constexpr bool ONE_TOKEN = WARPS % TOKENS == 0;
  constexpr int SQUARES = ONE_TOKEN ? (WARPS / TOKENS < STRETCHES ? WARPS / TOKENS : STRETCHES) : STRETCHES;  // of a token
  float* const x_here = (float*)(shared + X_AT);
  float square[ONE_TOKEN ? 1 : PIECES];
  if (NORM) {
#pragma unroll
    for (int n = 0; n < (ONE_TOKEN ? 1 : PIECES); n++) square[n] = 0.0f;
  }
#pragma unroll
  for (int first = 0; first < PIECES; first += AT_ONCE) {
    float4 piece[AT_ONCE];
#pragma unroll
    for (int n = 0; n < AT_ONCE; n++) {
      const int i = warp + (first + n) * WARPS, token = i % TOKENS, input = i / TOKENS * 128 + lane * 4, at = first_chunk * 256 + input;
      const bool wanted = token < tokens && input < chunks * 256;
      const float* const from = x + (size_t)(first_token + token) * X_STRIDE + at;
      piece[n] = make_float4(0, 0, 0, 0);
      if (X_ALIGNED) {
        if (wanted && at < D_IN) piece[n] = *(const float4*)from;
      } else {
        if (wanted && at < D_IN) piece[n].x = from[0];
        if (wanted && at + 1 < D_IN) piece[n].y = from[1];
        if (wanted && at + 2 < D_IN) piece[n].z = from[2];
        if (wanted && at + 3 < D_IN) piece[n].w = from[3];
      }
    }
    if (first == 0) {
      // While x is on its way.
      barrier_wait(h_ready, 0);
      if (HELD) {
#pragma unroll
        for (int i = 0; i < ROUNDS; i++)
          if (is_there(i)) load_scales(i);
      }
    }
#pragma unroll
    for (int n = 0; n < AT_ONCE; n++) {
      const int i = warp + (first + n) * WARPS, input = i / TOKENS * 128 + lane * 4;
      const float4 v = piece[n];
      if (i < TOKENS * STRETCHES) *(float4*)(x_here + i % TOKENS * X_ROW + (input >> 5) * 36 + (input & 31)) = v;
      if (NORM && first + n < PIECES) {
        float& sum = square[ONE_TOKEN ? 0 : first + n];
        sum = fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, sum))));
      }
    }
  }
  workers_meet();
  inputs_are_here();
  auto scale_x = [&](int i) {
    const float4* const from = (const float4*)(x_here + token_of(i) * X_ROW + (stretch_of(i) * 4 + t) * 36);
    float* const u = u_held[HELD ? i : 0];
#pragma unroll
    for (int k = 0; k < 8; k++) {
      const float4 v = from[k];
      u[4 * k] *= v.x; u[4 * k + 1] *= v.y; u[4 * k + 2] *= v.z; u[4 * k + 3] *= v.w;
    }
  };
#pragma unroll UNROLL
  for (int i = 0; i < ROUNDS; i++) {
    if (!is_there(i)) continue;
    if (!HELD) load_scales(i);
    scale_x(i);
    const float* const u = u_held[HELD ? i : 0];
    float most[4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
      most[k] = fabsf(u[k]);
#pragma unroll
      for (int j = 4; j < 32; j += 4) most[k] = fmaxf(most[k], fabsf(u[j + k]));
    }
    float v = fmaxf(fmaxf(most[0], most[1]), fmaxf(most[2], most[3]));
    v = fmaxf(v, __shfl_xor_sync(~0u, v, 1));
    v = fmaxf(v, __shfl_xor_sync(~0u, v, 2));
    if (t == 0 && lane_is_there(i)) atomicMax(largest + set_of(i) * TOKENS + token_of(i), __float_as_uint(v));
  }
  workers_meet();
  if (NORM) {
#pragma unroll
    for (int n = 0; n < (ONE_TOKEN ? 1 : PIECES); n++) {
      const float sum = warp_sum(square[n]);
      if (n < TOKENS * STRETCHES / WARPS || warp + n * WARPS < TOKENS * STRETCHES) squares[warp + n * WARPS] = sum;
    }
  }
  // Adding 1.5 · 2^23 leaves the rounded number in the low bits; adding half the range as well makes it
  // positive. Numbers of a word are added up, shifted; the constants cancel what the exponents add to them.
  constexpr float ROUNDING = 12582912.0f;
#pragma unroll UNROLL
  for (int i = 0; i < ROUNDS; i++) {
    if (!is_there(i)) continue;
    if (!HELD) { load_scales(i); scale_x(i); }
    const float* const u = u_held[HELD ? i : 0];
    const int set = set_of(i), token = token_of(i), stretch = stretch_of(i);
    const float most = __uint_as_float(largest[set * TOKENS + token]);
    const float inverse = most > SMALLEST ? LIMIT * reciprocal(most) : 0.0f;
    u32 w[PLANES], sum[2] = {0, 0};
    if (PLANES == 16) {
#pragma unroll
      for (int j = 0; j < 16; j++) {
        const u32 low = __float_as_uint(fmaf(u[j], inverse, ROUNDING + 32768.0f));
        w[j] = __float_as_uint(fmaf(u[j + 16], inverse, ROUNDING + 32768.0f - 0x4b40)) * 65536u + low;
        sum[j & 1] = __dp2a_lo(w[j], 0x0101u, sum[j & 1]);
      }
      int all = (int)(sum[0] + sum[1]) - (32 << (PLANES - 1));
      all += __shfl_xor_sync(~0u, all, 1);
      all += __shfl_xor_sync(~0u, all, 2);
      if (t == 0 && lane_is_there(i)) atomicAdd(sums + set * TOKENS + token, all);
      // Byte b of word j is the low byte of input 8 b + j, and of word 8 + j its high byte; the other way
      // round where a token's planes lie in two columns and the lanes of the other column are to store there.
      const bool swapped = COLUMNS < 8 && (other & 1);
      const u32 first = swapped ? 0x7351 : 0x6240, second = swapped ? 0x6240 : 0x7351;
#pragma unroll
      for (int j = 0; j < 8; j++) {
        const u32 a = w[j], b = w[j + 8];
        w[j] = __byte_perm(a, b, first);
        w[j + 8] = __byte_perm(a, b, second);
      }
      transpose_bits(w);
      transpose_bits(w + 8);
      if (COLUMNS < 8) w[7] ^= swapped ? ~0u : 0u;
      w[15] ^= swapped ? 0u : ~0u;
      u8* const to = shared + PLANES_AT + (((stretch >> 1) * SETS + set) * GROUPS_OF_TOKENS + token / COLUMNS) * (STEPS * 256)
                     + (stretch & 1) * HALF_BYTES + token % COLUMNS * COLUMN_BYTES + t * WORD_BYTES;
      u8* const to_first = to + (swapped ? plane_at(8) - plane_at(0) : 0), *const to_second = to + (swapped ? plane_at(0) - plane_at(8) : 0);
      if (lane_is_there(i)) {
#pragma unroll
        for (int p = 0; p < 8; p++) {
          *(u32*)(to_first + plane_at(p)) = w[p];
          *(u32*)(to_second + plane_at(8 + p)) = w[8 + p];
        }
      }
    } else {
#pragma unroll
      for (int j = 0; j < 8; j++) {
        const u32 low = __float_as_uint(fmaf(u[j], inverse, ROUNDING + 128.0f)) + __float_as_uint(fmaf(u[j + 8], inverse, ROUNDING + 128.0f)) * 256u;
        const u32 high = __float_as_uint(fmaf(u[j + 16], inverse, ROUNDING + 128.0f - 0x40)) + __float_as_uint(fmaf(u[j + 24], inverse, ROUNDING + 128.0f - 0x8b)) * 256u;
        w[j] = high * 65536u + low;
        sum[j & 1] = __dp4a(w[j], 0x01010101u, sum[j & 1]);
      }
      int all = (int)(sum[0] + sum[1]) - (32 << (PLANES - 1));
      all += __shfl_xor_sync(~0u, all, 1);
      all += __shfl_xor_sync(~0u, all, 2);
      if (t == 0 && lane_is_there(i)) atomicAdd(sums + set * TOKENS + token, all);
      transpose_bits(w);
      w[7] = ~w[7];
      u8* const to = shared + PLANES_AT + (((stretch >> 1) * SETS + set) * GROUPS_OF_TOKENS + token / COLUMNS) * (STEPS * 256)
                     + (stretch & 1) * HALF_BYTES + token % COLUMNS * COLUMN_BYTES + t * WORD_BYTES;
      if (lane_is_there(i)) {
#pragma unroll
        for (int p = 0; p < 8; p++) *(u32*)(to + plane_at(p)) = w[p];
      }
    }
  }
  planes_are_written();
"#;
