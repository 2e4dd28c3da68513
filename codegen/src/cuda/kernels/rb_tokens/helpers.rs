//! What the text of the product of several tokens begins with.

/// Copies that the memory system carries out; a barrier in shared memory says when they are there.
pub const BULK: &str = r#"
__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void barrier_init(u64* b) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(shared_address(b)) : "memory");
}
__device__ __forceinline__ void barrier_inits_done() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void barrier_expect(u64* b, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(shared_address(b)), "r"(bytes) : "memory");
}
__device__ __forceinline__ void bulk_copy(void* to, const void* from, u32 bytes, u64* b) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
               :: "r"(shared_address(to)), "l"(from), "r"(bytes), "r"(shared_address(b)) : "memory");
}
__device__ __forceinline__ void barrier_wait(u64* b, u32 parity) {
  u32 done;
  do {
    asm volatile("{\n .reg .pred p;\n mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n selp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done) : "r"(shared_address(b)), "r"(parity) : "memory");
  } while (!done);
}
"#;

/// The same names where nothing is copied in bulk.
pub const NO_BULK: &str = r#"
__device__ __forceinline__ void barrier_init(u64*) {}
__device__ __forceinline__ void barrier_inits_done() {}
__device__ __forceinline__ void barrier_expect(u64*, u32) {}
__device__ __forceinline__ void bulk_copy(void*, const void*, u32, u64*) {}
__device__ __forceinline__ void barrier_wait(u64*, u32) {}
"#;

/// Four numbers at once into the shared memory of another block of the cluster.
pub const REMOTE: &str = r#"
__device__ __forceinline__ u32 remote_address(const void* p, int rank) {
  u32 remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"((u32)__cvta_generic_to_shared(p)), "r"(rank));
  return remote;
}
__device__ __forceinline__ void store_remote4(u32 to, const float* v) {
  asm volatile("st.shared::cluster.v4.f32 [%0], {%1,%2,%3,%4};" :: "r"(to), "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3]) : "memory");
}
"#;

/// The same names where a block is alone.
pub const NO_REMOTE: &str = r#"
__device__ __forceinline__ u32 remote_address(const void* p, int) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void store_remote4(u32 to, const float* v) {
  asm volatile("st.shared.v4.f32 [%0], {%1,%2,%3,%4};" :: "r"(to), "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3]) : "memory");
}
"#;

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

/// Whole numbers to bit planes in the order of the matrix instruction's second operand.
pub const PLANES: &str = r#"
// a where the mask is set, b elsewhere: one instruction.
__device__ __forceinline__ constexpr u32 pick(u32 mask, u32 a, u32 b) { return (a & mask) | (b & ~mask); }
// Transposes an 8 × 8 matrix of bits; byte r of hi:lo is row r.
__device__ __forceinline__ void transpose_bits(u32& lo, u32& hi) {
  lo = pick(0xaa55aa55u, lo, pick(0x00ff00ffu, lo >> 7, lo << 7));
  hi = pick(0xaa55aa55u, hi, pick(0x00ff00ffu, hi >> 7, hi << 7));
  lo = pick(0xcccc3333u, lo, pick(0x0000ffffu, lo >> 14, lo << 14));
  hi = pick(0xcccc3333u, hi, pick(0x0000ffffu, hi >> 14, hi << 14));
  const u32 low = pick(0x0f0f0f0fu, lo, hi << 4);
  hi = pick(0xf0f0f0f0u, hi, lo >> 4);
  lo = low;
}
// Offset of the column and step in which plane `p` of a token is counted.
__device__ __forceinline__ constexpr int plane_at(int p) {
  return (STEPS - 1 - p % STEPS) * 256 + p / STEPS * (COLUMNS * 32);
}
// Stores the bits of byte `BYTE` of eight numbers of 16 bits, inputs 8·lane.., as planes 8·BYTE.. of
// a token. Lane 4·column + t of the instruction reads inputs 32·t.. and 128 + 32·t.. as two words
// side by side.
template <int BYTE> __device__ __forceinline__ void store_planes(u8* to, const u32* pairs) {
  constexpr u32 bytes = BYTE ? 0x7531u : 0x6420u;
  u32 lo = __byte_perm(pairs[0], pairs[1], bytes), hi = __byte_perm(pairs[2], pairs[3], bytes);
  transpose_bits(lo, hi);
#pragma unroll
  for (int p = 0; p < 8; p++) to[plane_at(8 * BYTE + p)] = (u8)((p < 4 ? lo : hi) >> (8 * (p & 3)));
}
__device__ __forceinline__ void unpack_f16(uint4 v, float* to) {
  const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; i++) { to[2 * i] = f16_to_f32((u16)words[i]); to[2 * i + 1] = f16_to_f32((u16)(words[i] >> 16)); }
}
"#;
