//! Sums that blocks of a cluster hand each other, as CUDA text.
//!
//! A store into the shared memory of another block completes on a barrier there, so a block waits for
//! what it is sent and no block waits for all.

/// Stores that a barrier of the receiving block counts.
pub const EXCHANGE: &str = r#"
// Tells the cluster that this block runs. It publishes nothing but what `expect_stores` did.
__device__ __forceinline__ void cluster_begun() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
// Makes `barrier` wait for so many bytes.
__device__ __forceinline__ void expect_stores(u32 barrier, u32 bytes) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(barrier) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void store_async(float* p, int rank, float v, u32 barrier) {
  u32 to, counter;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"((u32)__cvta_generic_to_shared(p)), "r"(rank));
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(counter) : "r"(barrier), "r"(rank));
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" :: "r"(to), "f"(v), "r"(counter) : "memory");
}
__device__ __forceinline__ void wait_for_stores(u32 barrier) {
  u32 done;
  do {
    asm volatile("{\n .reg .pred p;\n mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], 0;\n selp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done) : "r"(barrier) : "memory");
  } while (!done);
}
"#;

/// The same names where a block is alone.
pub const NO_EXCHANGE: &str = r#"
__device__ __forceinline__ void cluster_begun() {}
__device__ __forceinline__ void expect_stores(u32, u32) {}
__device__ __forceinline__ void store_async(float* p, int, float v, u32) { *p = v; }
__device__ __forceinline__ void wait_for_stores(u32) {}
"#;
