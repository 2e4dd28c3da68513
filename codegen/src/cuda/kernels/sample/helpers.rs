//! What drawing a token needs: remote memory, random numbers, running sums.

/// Reading the shared memory of another block of the cluster.
pub const REMOTE: &str = r#"
__device__ __forceinline__ u32 remote_address(const void* p, int rank) {
  u32 remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"((u32)__cvta_generic_to_shared(p)), "r"(rank));
  return remote;
}
__device__ __forceinline__ u64 load_remote(const u64* p, int rank) {
  u64 v;
  asm volatile("ld.shared::cluster.u64 %0, [%1];" : "=l"(v) : "r"(remote_address(p, rank)) : "memory");
  return v;
}
__device__ __forceinline__ u32 load_remote(const u32* p, int rank) {
  u32 v;
  asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(v) : "r"(remote_address(p, rank)) : "memory");
  return v;
}
"#;

pub const NO_REMOTE: &str = r#"
__device__ __forceinline__ u64 load_remote(const u64* p, int) { return *p; }
__device__ __forceinline__ u32 load_remote(const u32* p, int) { return *p; }
"#;

/// The options of a draw, as the host writes them, and the generator: ChaCha with 8 rounds, whose
/// key is the seed. Draw n of a seed is the n-th pair of words of its stream.
pub const RANDOM: &str = r#"
struct Sampling { float temperature, top_p, min_p, penalty; u32 top_k, seed[2]; u32 reserved; u64 draws; };

__device__ __forceinline__ void quarter_round(u32& a, u32& b, u32& c, u32& d) {
  a += b; d = __funnelshift_l(d ^ a, d ^ a, 16);
  c += d; b = __funnelshift_l(b ^ c, b ^ c, 12);
  a += b; d = __funnelshift_l(d ^ a, d ^ a, 8);
  c += d; b = __funnelshift_l(b ^ c, b ^ c, 7);
}
// A number in [0, 1) of 53 random bits.
__device__ __forceinline__ double uniform(u32 seed0, u32 seed1, u64 draw) {
  const u64 block = draw >> 3;
  const u32 in[16] = {0x61707865u, 0x3320646eu, 0x79622d32u, 0x6b206574u, seed0, seed1, 0, 0,
                      0, 0, 0, 0, (u32)block, (u32)(block >> 32), 0, 0};
  u32 x[16];
#pragma unroll
  for (int i = 0; i < 16; i++) x[i] = in[i];
#pragma unroll
  for (int round = 0; round < 4; round++) {
    quarter_round(x[0], x[4], x[8], x[12]);
    quarter_round(x[1], x[5], x[9], x[13]);
    quarter_round(x[2], x[6], x[10], x[14]);
    quarter_round(x[3], x[7], x[11], x[15]);
    quarter_round(x[0], x[5], x[10], x[15]);
    quarter_round(x[1], x[6], x[11], x[12]);
    quarter_round(x[2], x[7], x[8], x[13]);
    quarter_round(x[3], x[4], x[9], x[14]);
  }
  const int pair = (int)(draw & 7);
  u32 low = 0, high = 0;
#pragma unroll
  for (int i = 0; i < 8; i++)
    if (i == pair) { low = x[2 * i] + in[2 * i]; high = x[2 * i + 1] + in[2 * i + 1]; }
  return (double)(((u64)high << 32 | low) >> 11) * (1.0 / 9007199254740992.0);
}
"#;

/// Running sums and maxima over a block of 1024 threads.
pub const SUMS: &str = r#"
template <class T> __device__ __forceinline__ T warp_prefix(T v) {
#pragma unroll
  for (int o = 1; o < 32; o *= 2) {
    const T before = __shfl_up_sync(~0u, v, o);
    if ((threadIdx.x & 31) >= o) v += before;
  }
  return v;
}
// The sum of v over this thread and those before it. `scratch` has 32 elements.
template <class T> __device__ __forceinline__ T block_prefix(T v, T* scratch) {
  v = warp_prefix(v);
  __syncthreads();
  if ((threadIdx.x & 31) == 31) scratch[threadIdx.x >> 5] = v;
  __syncthreads();
  const T sums = warp_prefix(scratch[threadIdx.x & 31]);
  const int warp = threadIdx.x >> 5;
  const T before = __shfl_sync(~0u, sums, warp ? warp - 1 : 0);
  return warp ? v + before : v;
}
__device__ __forceinline__ u64 warp_largest(u64 v) {
#pragma unroll
  for (int o = 16; o; o >>= 1) v = max(v, __shfl_xor_sync(~0u, v, o));
  return v;
}
"#;
