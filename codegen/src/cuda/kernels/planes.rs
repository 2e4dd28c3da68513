//! Activation bit planes and the binary matrix instruction, as CUDA text.
//!
//! A lane quantises eight inputs to whole numbers in two's complement. Their bits are transposed so
//! that a byte is one plane of eight inputs, two steps across registers and one within; `ldmatrix`
//! then hands every lane the bytes that the matrix instruction wants of it. Column `2·r` of the
//! second operand is plane r, column `2·r + 1` plane r + 4, and in a second instruction those
//! planes + 8, so that lane t of four gets counts of planes t, t + 4, t + 8 and t + 12.

/// 16 rows × 256 signs by 256 × 8 plane bits: the number of inputs whose sign and plane bit are set.
pub const BINARY_MMA: &str = r#"
__device__ __forceinline__ void count_common(int* d, uint4 a, u32 b0, u32 b1, const int* c) {
  asm("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
      : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1), "r"(c[0]), "r"(c[1]), "r"(c[2]), "r"(c[3]));
}
"#;

/// From whole numbers to planes.
pub const PLANES: &str = r#"
// The first of the eight inputs of a block of 256 that a lane has: the order in which `planes_of`
// wants them.
__device__ __forceinline__ int first_input(int lane) {
  return (lane >> 4) * 128 + (lane & 6) * 16 + (lane & 1) * 8 + (lane & 8) * 2;
}
// Swaps the odd groups of bits of a with the even ones of b.
template <int BITS, u32 EVEN> __device__ __forceinline__ void swap_bits(u32& a, u32& b) {
  const u32 low = (a & EVEN) | ((b << BITS) & ~EVEN);
  b = ((a >> BITS) & EVEN) | (b & ~EVEN);
  a = low;
}
// The second operand of the matrix instruction for the numbers q[0..8], of which the low 16 bits
// count: planes 0..8 in x and y, 8..16 in z and w. `row` is the lane's place in 512 bytes of shared
// memory that only this warp uses.
__device__ __forceinline__ uint4 planes_of(const u32* q, uint4* row) {
  u32 r[4];
#pragma unroll
  for (int k = 0; k < 4; k++) r[k] = __byte_perm(q[k], q[k + 4], 0x5410);
  swap_bits<1, 0x55555555u>(r[0], r[1]);
  swap_bits<1, 0x55555555u>(r[2], r[3]);
  swap_bits<2, 0x33333333u>(r[0], r[2]);
  swap_bits<2, 0x33333333u>(r[1], r[3]);
#pragma unroll
  for (int k = 0; k < 4; k++) {
    const u32 swapped = (r[k] ^ (r[k] >> 12)) & 0x0000f0f0u;
    r[k] ^= swapped ^ (swapped << 12);
  }
  __syncwarp();
  *row = make_uint4(r[0], r[1], r[2], r[3]);
  __syncwarp();
  u32 m[4];
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3]) : "r"((u32)__cvta_generic_to_shared(row)) : "memory");
  return make_uint4(__byte_perm(m[0], m[1], 0x6420), __byte_perm(m[2], m[3], 0x6420),
                    __byte_perm(m[0], m[1], 0x7531), __byte_perm(m[2], m[3], 0x7531));
}
"#;

/// Eight halves to f32.
pub const UNPACK_F16: &str = r#"
__device__ __forceinline__ void unpack_f16(uint4 v, float* to) {
  const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; i++) { to[2 * i] = f16_to_f32((u16)words[i]); to[2 * i + 1] = f16_to_f32((u16)(words[i] >> 16)); }
}
"#;
