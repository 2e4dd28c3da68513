//! What the text of the product of several tokens begins with.

/// 16 rows × 256 signs by 256 × 8 plane bits.
pub const COUNT_COMMON: &str = r#"
__device__ __forceinline__ void count_first(int* d, const uint4& a, const uint2& b) {
  asm volatile("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
               : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
               : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y), "r"(0));
}
__device__ __forceinline__ void count_common(int* d, const uint4& a, const uint2& b) {
  asm volatile("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b.x), "r"(b.y));
}
"#;

/// Numbers of four kinds, a warp's worth of each.
pub const FOURS: &str = r#"
// Of four numbers, the one that a lane stands for.
template <class T> __device__ __forceinline__ T own(const T* v, int lane) {
  const T low = lane & 1 ? v[1] : v[0], high = lane & 1 ? v[3] : v[2];
  return lane & 2 ? high : low;
}
__device__ __forceinline__ float reciprocal(float v) { float r; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v)); return r; }
"#;

/// Whole numbers to bit planes in the order of the matrix instruction's second operand.
pub const PLANES: &str = r#"
// a where the mask is set, b elsewhere: one instruction.
__device__ __forceinline__ constexpr u32 pick(u32 mask, u32 a, u32 b) { return (a & mask) | (b & ~mask); }
// Transposes the 8 × 8 bits that each byte of eight words has.
__device__ __forceinline__ void transpose_bits(u32* w) {
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const u32 a = w[j], b = w[j + 4];
    w[j] = pick(0x0f0f0f0fu, a, b << 4); w[j + 4] = pick(0x0f0f0f0fu, a >> 4, b);
  }
#pragma unroll
  for (int j = 0; j < 6; j += j == 1 ? 3 : 1) {
    const u32 a = w[j], b = w[j + 2];
    w[j] = pick(0x33333333u, a, b << 2); w[j + 2] = pick(0x33333333u, a >> 2, b);
  }
#pragma unroll
  for (int j = 0; j < 8; j += 2) {
    const u32 a = w[j], b = w[j + 1];
    w[j] = pick(0x55555555u, a, b << 1); w[j + 1] = pick(0x55555555u, a >> 1, b);
  }
}
// Offset of the column and step in which plane `p` of a token is counted.
__device__ __forceinline__ constexpr int plane_at(int p) {
  return (STEPS - 1 - p % STEPS) * 256 + p / STEPS * (COLUMNS * 32);
}
// How four lanes, which have eight inputs each of the same 32, make whole words of what they have: lane
// i gets plane i of four, and stores number i ^ s at step s, so that no two lanes meet in a bank.
struct Exchange {
  u32 first, second, lower, upper;  // bytes that are picked
  int offset, step[4];              // in bytes: of the lane, and of what it stores
  bool odd, upper_half;
  __device__ __forceinline__ Exchange(int lane) {
    const u32 i = lane & 3;
    odd = i & 1; upper_half = i & 2;
    const u32 own = odd ? 0x0404 : 0x4040;
    first = own | i * 0x0011 | (i ^ 1) * 0x1100;
    second = own | (i ^ 2) * 0x0011 | (i ^ 3) * 0x1100;
    lower = upper_half ? 0x1054 : 0x5410;
    upper = upper_half ? 0x3276 : 0x7632;
    // Lane 4·column + t of the instruction reads inputs 32·t.. and 128 + 32·t.. as two words side by side.
    offset = ((lane >> 2) & 3) * 8 + (lane >> 4) * 4 - (int)(i % STEPS) * 256 + i / STEPS * (COLUMNS * 32);
#pragma unroll
    for (int s = 0; s < 4; s++) step[s] = offset + (i ^ s) % QUAD * 32 + (i ^ s) / QUAD * (SETS * GROUPS_OF_TOKENS * STEPS * 256);
  }
  __device__ __forceinline__ bool is_beside(int s) const { return ((odd | upper_half << 1) ^ s) >= QUAD; }
};
// Stores bytes `BYTE` of the numbers as planes 8·BYTE.. of their tokens.
template <int BYTE> __device__ __forceinline__ void store_planes(u8* to, u32* w, const Exchange& e, bool all_chunks) {
  transpose_bits(w);
#pragma unroll
  for (int p = 0; p < 8; p += 4) {
    const u32 keep0 = e.odd ? w[p + 1] : w[p], keep1 = e.odd ? w[p + 3] : w[p + 2];
    const u32 got0 = __shfl_xor_sync(~0u, e.odd ? w[p] : w[p + 1], 1), got1 = __shfl_xor_sync(~0u, e.odd ? w[p + 2] : w[p + 3], 1);
    const u32 a = e.upper_half ? keep1 : keep0, b = e.upper_half ? got1 : got0;
    const u32 c = __shfl_xor_sync(~0u, e.upper_half ? keep0 : keep1, 2), d = __shfl_xor_sync(~0u, e.upper_half ? got0 : got1, 2);
    const u32 ab[2] = {__byte_perm(a, b, e.first), __byte_perm(a, b, e.second)};
    const u32 cd[2] = {__byte_perm(c, d, e.first), __byte_perm(c, d, e.second)};
#pragma unroll
    for (int s = 0; s < 4; s++)
      if (QUAD == 4 || all_chunks || !e.is_beside(s))
        *(u32*)(to + plane_at(8 * BYTE + p) + e.step[s]) = __byte_perm(ab[s >> 1], cd[s >> 1], s & 1 ? e.upper : e.lower);
  }
}
__device__ __forceinline__ void unpack_f16(uint4 v, float* to) {
  const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; i++) { to[2 * i] = f16_to_f32((u16)words[i]); to[2 * i + 1] = f16_to_f32((u16)(words[i] >> 16)); }
}
"#;
