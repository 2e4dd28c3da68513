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
  // A lane makes planes of 32 inputs, whole words, for a token and a set; four lanes those of 128 inputs for a
  // column of the matrix instruction. A warp has eight columns: as many tokens, or fewer with several sets or
  // stretches of 128 inputs of theirs. One scale serves all inputs of the block, so that the matrix
  // instructions can add up whole numbers.
  constexpr float LIMIT = PLANES == 16 ? 32700.0f : 127.0f;
  constexpr int STRETCHES = (2 * MOST_CHUNKS + BESIDE - 1) / BESIDE * BESIDE;
  constexpr int X_UNITS = STRETCHES / BESIDE * GROUPS_OF_TOKENS, X_WARPS = WARPS / SET_WARPS;
  constexpr int X_ROUNDS = (X_UNITS + X_WARPS - 1) / X_WARPS, SETS_OF_WARP = SETS / (SETS_BESIDE * SET_WARPS);
  constexpr int ROUNDS_HELD = HELD ? X_ROUNDS : 1, SETS_HELD = HELD ? SETS_OF_WARP : 1;
  // Lanes whose sets differ read the same of x: as neighbours, at once.
  const int set_beside = lane % SETS_BESIDE, quarter = lane / SETS_BESIDE % 4;
  const int token_beside = lane / (4 * SETS_BESIDE) % COLUMNS, stretch_beside = lane / (4 * SETS_BESIDE * COLUMNS);
  auto x_unit = [&](int round) { return warp % X_WARPS + round * X_WARPS; };
  auto set_of = [&](int turn) { return (warp / X_WARPS * SETS_OF_WARP + turn) * SETS_BESIDE + set_beside; };
  auto token_of = [&](int round) { return x_unit(round) % GROUPS_OF_TOKENS * COLUMNS + token_beside; };
  auto stretch_of = [&](int round) { return x_unit(round) / GROUPS_OF_TOKENS * BESIDE + stretch_beside; };
  // Whether a warp has anything to do, and a lane.
  auto is_there = [&](int round) { return x_unit(round) < X_UNITS && x_unit(round) / GROUPS_OF_TOKENS * BESIDE < 2 * chunks; };
  auto lane_is_there = [&](int round) { return BESIDE <= 2 || stretch_of(round) < 2 * chunks; };
  // Scales lie ready in registers, where x is multiplied to them.
  float u_held[ROUNDS_HELD][SETS_HELD][32];
  auto load_scales = [&](int round, int turn, float* u) {
    const u16* const from = h_here + set_of(turn) * MOST_CHUNKS * 256 + min(stretch_of(round), 2 * chunks - 1) * 128 + quarter * 32;
#pragma unroll
    for (int k = 0; k < 4; k++) unpack_f16(((const uint4*)from)[k], u + 8 * k);
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
  constexpr int SQUARES = ONE_TOKEN && WARPS < TOKENS * STRETCHES ? WARPS / TOKENS : STRETCHES;  // sums of a token
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
        for (int round = 0; round < X_ROUNDS; round++) {
          if (!is_there(round)) continue;
#pragma unroll
          for (int turn = 0; turn < SETS_OF_WARP; turn++) load_scales(round, turn, u_held[HELD ? round : 0][HELD ? turn : 0]);
        }
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
  auto add_squares = [&]() {
#pragma unroll
    for (int n = 0; n < (ONE_TOKEN ? 1 : PIECES); n++) {
      const float sum = warp_sum(square[n]);
      if (n < TOKENS * STRETCHES / WARPS || warp + n * WARPS < TOKENS * STRETCHES) squares[warp + n * WARPS] = sum;
    }
  };
  auto multiply_x = [&](int round, float (*u)[32]) {
    const float4* const from = (const float4*)(x_here + token_of(round) * X_ROW + (stretch_of(round) * 4 + quarter) * 36);
#pragma unroll
    for (int k = 0; k < 8; k++) {
      const float4 v = from[k];
#pragma unroll
      for (int n = 0; n < SETS_HELD; n++) { u[n][4 * k] *= v.x; u[n][4 * k + 1] *= v.y; u[n][4 * k + 2] *= v.z; u[n][4 * k + 3] *= v.w; }
    }
  };
#pragma unroll ROUNDS_HELD
  for (int round = 0; round < X_ROUNDS; round++) {
    const bool squares_now = NORM && round == 0;
    if (!is_there(round)) {
      if (squares_now) add_squares();
      continue;
    }
    float (*const u)[32] = u_held[HELD ? round : 0];
#pragma unroll 1
    for (int first = 0; first < SETS_OF_WARP; first += SETS_HELD) {
      if (!HELD) load_scales(round, first, u[0]);
      multiply_x(round, u);
      if (squares_now && first == 0) add_squares();
#pragma unroll
      for (int n = 0; n < SETS_HELD; n++) {
        float most[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
          most[k] = fabsf(u[n][k]);
#pragma unroll
          for (int j = 4; j < 32; j += 4) most[k] = fmaxf(most[k], fabsf(u[n][j + k]));
        }
        const float v = fmaxf(fmaxf(most[0], most[1]), fmaxf(most[2], most[3]));
        if (lane_is_there(round)) atomicMax(largest + set_of(first + n) * TOKENS + token_of(round), __float_as_uint(v));
      }
    }
  }
  workers_meet();
  float factor[ROUNDS_HELD][SETS_HELD];
  auto load_factor = [&](int round, int turn) {
    const float most = __uint_as_float(largest[set_of(turn) * TOKENS + token_of(round)]);
    factor[HELD ? round : 0][HELD ? turn : 0] = most > SMALLEST ? LIMIT * reciprocal(most) : 0.0f;
  };
  if (HELD) {
#pragma unroll
    for (int round = 0; round < X_ROUNDS; round++)
#pragma unroll
      for (int turn = 0; turn < SETS_OF_WARP; turn++) load_factor(round, turn);
  }
  // Adding 1.5 · 2^23 leaves the rounded number in the low bits; adding half the range as well makes it
  // positive. Numbers of a word are added up, shifted; the constants cancel what the exponents add to them.
  constexpr float ROUNDING = 12582912.0f;
  // Where planes of a token lie in several columns, lanes of the same banks store different ones at a time.
  const bool swapped = PLANES == 16 && COLUMNS < 8 && ((SETS_BESIDE > 1 ? set_beside : stretch_beside) & 1);
#pragma unroll ROUNDS_HELD
  for (int round = 0; round < X_ROUNDS; round++) {
    if (!is_there(round)) continue;
#pragma unroll SETS_HELD
    for (int turn = 0; turn < SETS_OF_WARP; turn++) {
      float (*const held)[32] = u_held[HELD ? round : 0] + (HELD ? turn : 0);
      if (!HELD) { load_scales(round, turn, held[0]); multiply_x(round, held); load_factor(round, turn); }
      const float* const u = held[0];
      const float by = factor[HELD ? round : 0][HELD ? turn : 0];
      const int set = set_of(turn), token = token_of(round), stretch = stretch_of(round);
      u8* const to = shared + PLANES_AT + (((stretch >> 1) * SETS + set) * GROUPS_OF_TOKENS + token / COLUMNS) * (STEPS * 256)
                     + (stretch & 1) * HALF_BYTES + token % COLUMNS * COLUMN_BYTES + quarter * WORD_BYTES;
      u32 w[PLANES], sum[2] = {0, 0};
      if (PLANES == 16) {
#pragma unroll
        for (int j = 0; j < 16; j++) {
          const u32 low = __float_as_uint(fmaf(u[j], by, ROUNDING + 32768.0f));
          w[j] = __float_as_uint(fmaf(u[j + 16], by, ROUNDING + 32768.0f - 0x4b40)) * 65536u + low;
          sum[j & 1] = __dp2a_lo(w[j], 0x0101u, sum[j & 1]);
        }
        // Byte b of word j becomes the low byte of input 8·b + j, and of word 8 + j its high byte; the other
        // way round in lanes that begin with the higher planes.
        const u32 first = swapped ? 0x7351 : 0x6240, second = swapped ? 0x6240 : 0x7351;
#pragma unroll
        for (int j = 0; j < 8; j++) {
          const u32 a = w[j], b = w[j + 8];
          w[j] = __byte_perm(a, b, first);
          w[j + 8] = __byte_perm(a, b, second);
        }
      } else {
#pragma unroll
        for (int j = 0; j < 8; j++) {
          const u32 low = __float_as_uint(fmaf(u[j], by, ROUNDING + 128.0f)) + __float_as_uint(fmaf(u[j + 8], by, ROUNDING + 128.0f)) * 256u;
          const u32 high = __float_as_uint(fmaf(u[j + 16], by, ROUNDING + 128.0f - 0x40)) + __float_as_uint(fmaf(u[j + 24], by, ROUNDING + 128.0f - 0x8b)) * 256u;
          w[j] = high * 65536u + low;
          sum[j & 1] = __dp4a(w[j], 0x01010101u, sum[j & 1]);
        }
      }
      if (lane_is_there(round)) atomicAdd(sums + set * TOKENS + token, (int)(sum[0] + sum[1]) - (32 << (PLANES - 1)));
#pragma unroll
      for (int byte = 0; byte < PLANES / 8; byte++) {
        transpose_bits(w + 8 * byte);
        // The highest plane has the sign: positive numbers were made by adding to it.
        const bool is_high = (PLANES == 8) || (byte == 1) != swapped;
        w[8 * byte + 7] ^= is_high ? ~0u : 0u;
        u8* const there = to + (swapped ? plane_at(8 - 8 * byte) - plane_at(8 * byte) : 0);
        if (lane_is_there(round)) {
#pragma unroll
          for (int p = 0; p < 8; p++) *(u32*)(there + plane_at(8 * byte + p)) = w[8 * byte + p];
        }
      }
    }
  }
  planes_are_written();
"#;
