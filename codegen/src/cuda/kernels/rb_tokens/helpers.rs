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

/// Blocks of a cluster: they learn of each other, and send numbers into each other's shared memory, where
/// a barrier counts the bytes. An ordinary barrier of the cluster would first wait for all memory.
pub const REMOTE: &str = r#"
__device__ __forceinline__ void here_i_am() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
__device__ __forceinline__ void all_are_here() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
__device__ __forceinline__ u32 remote_address(const void* p, int rank) {
  u32 remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"((u32)__cvta_generic_to_shared(p)), "r"(rank));
  return remote;
}
__device__ __forceinline__ void send(u32 to, float v, u32 b) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" :: "r"(to), "f"(v), "r"(b) : "memory");
}
__device__ __forceinline__ void send4(u32 to, const float* v, u32 b) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1,%2,%3,%4}, [%5];"
               :: "r"(to), "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3]), "r"(b) : "memory");
}
__device__ __forceinline__ void all_is_sent(u64* b) { barrier_wait(b, 0); }
"#;

/// The same names where a block is alone.
pub const NO_REMOTE: &str = r#"
__device__ __forceinline__ void here_i_am() {}
__device__ __forceinline__ void all_are_here() {}
__device__ __forceinline__ u32 remote_address(const void* p, int) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void send(u32 to, float v, u32) { asm volatile("st.shared.f32 [%0], %1;" :: "r"(to), "f"(v) : "memory"); }
__device__ __forceinline__ void send4(u32 to, const float* v, u32) {
  asm volatile("st.shared.v4.f32 [%0], {%1,%2,%3,%4};" :: "r"(to), "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3]) : "memory");
}
__device__ __forceinline__ void all_is_sent(u64*) { workers_meet(); }
"#;

/// The warps that compute wait for each other; there may be one more.
pub const WORKERS: &str = r#"
__device__ __forceinline__ void workers_meet() { asm volatile("bar.sync 1, %0;" :: "n"(WARPS * 32) : "memory"); }
"#;

/// What follows the writing of planes that lanes read themselves.
pub const PLANES_OF_LANES: &str = "__device__ __forceinline__ void planes_are_written() {}\n__device__ __forceinline__ void inputs_are_here() {}\n";

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
  return (STEPS - 1 - p % STEPS) * 256 + p / STEPS * (COLUMNS * COLUMN_BYTES);
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
    offset = ((lane >> 2) & 3) * WORD_BYTES + (lane >> 4) * HALF_BYTES - (int)(i % STEPS) * 256 + i / STEPS * (COLUMNS * COLUMN_BYTES);
#pragma unroll
    for (int s = 0; s < 4; s++) step[s] = offset + (i ^ s) % QUAD * COLUMN_BYTES + (i ^ s) / QUAD * (SETS * GROUPS_OF_TOKENS * STEPS * 256);
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
