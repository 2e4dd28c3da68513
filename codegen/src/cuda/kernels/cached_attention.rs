//! What the kernels have in common that attend to a cache which the blocks of a cluster split.
//!
//! A cluster owns query heads of one key/value head. Each of its blocks computes weighted values of
//! its share of the positions, with the largest score and the sum of the weights; those of the
//! warps meet in its shared memory, those of the blocks in that of the block that finishes the row.
//! Weights are powers of two: log2(e) is part of the factor on scores.

use std::f32::consts::LOG2_E;

use super::heads::Chains;
use super::matrix::EXP2;
use crate::cuda::source::{ACTIVATIONS, Builder, REDUCTIONS};
use rabitc_rbx::SmArch;

/// Attention of one layer, whatever the number of tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct CachedAttention {
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Channels of a head; even, at most 256.
    pub head_dim: usize,
    /// Blocks of a cluster.
    pub splits: usize,
    /// Factor on scores.
    pub scale: f32,
    /// Positions that a token sees, itself included; 0 for all.
    pub window: usize,
    /// Bound of the scores; 0 for none.
    pub softcap: f32,
    /// What happens to the heads first.
    pub chains: Chains,
}

impl CachedAttention {
    /// Query heads that share a key/value head.
    pub fn group(&self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    /// Channels of a head in memory.
    pub fn padded(&self) -> usize {
        self.head_dim.next_multiple_of(8)
    }

    /// f32 elements of a result: weighted values, the largest score, the sum of the weights.
    pub fn result(&self) -> usize {
        self.padded() + 2
    }

    /// A name that encodes all of it, for kernels called `kind`.
    pub fn name(&self, kind: &str) -> String {
        format!(
            "{kind}_h{}_{}x{}_s{:08x}_w{}_c{:08x}_p{}_{}",
            self.n_heads,
            self.n_kv_heads,
            self.head_dim,
            self.scale.to_bits(),
            self.window,
            self.softcap.to_bits(),
            self.splits,
            self.chains.name()
        )
    }

    /// Constants, helpers and parameters for blocks of `warps` warps that have `rows` query rows.
    pub fn declare(&self, b: Builder, arch: SmArch, warps: usize, rows: usize) -> Builder {
        let clusters = arch.has_clusters() && self.splits > 1;
        let capped = self.softcap > 0.0;
        let b = b
            .cluster(self.splits as u32)
            .int("HEADS", self.n_heads)
            .int("GROUP", self.group())
            .int("HEAD_DIM", self.head_dim)
            .int("PADDED", self.padded())
            .int("RESULT", self.result())
            .int("SPLITS", self.splits)
            .int("WARPS", warps)
            .int("ROWS", rows)
            .int("OWNED", rows.div_ceil(self.splits))
            .int("WINDOW", self.window)
            .float("SCALE", self.scale * if capped { 1.0 } else { LOG2_E })
            .float("CAP", self.softcap)
            .float("CAP_LOG2", self.softcap * LOG2_E)
            .helper(REDUCTIONS)
            .helper(ACTIVATIONS)
            .helper(if clusters { SEND } else { KEEP })
            .helper(EXP2)
            .helper(SOFTMAX)
            .helper(MERGE)
            .helper(ROUND_ROW);
        self.chains
            .declare(b)
            .param("u16", "keys")
            .param("u16", "values")
            .param("float", "out")
            .param("const State", "state")
    }
}

/// Weights of scores.
const SOFTMAX: &str = r#"
// The score of what is not seen.
constexpr float NOTHING = -1e30f;
__device__ __forceinline__ float capped(float score) { return CAP > 0.0f ? CAP_LOG2 * tanh_exact(score / CAP) : score; }
// What scores are compared with: where nothing was seen, not what stands for nothing.
__device__ __forceinline__ float base_of(float highest) { return highest > NOTHING ? highest : 0.0f; }
"#;

/// Results go to the block of the cluster that finishes their row, whose barrier counts the bytes that
/// arrive. So only that block waits, and for nothing else. A barrier of the whole cluster with release
/// would wait for all memory of the card.
const SEND: &str = r#"
// One thread says how many bytes of results this block will get.
__device__ __forceinline__ void expect_results(u64* arrived, int bytes) {
  const u32 barrier = (u32)__cvta_generic_to_shared(arrived);
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(barrier) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void say_started() { asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); }
__device__ __forceinline__ void wait_for_start() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
__device__ __forceinline__ u32 address_in(int rank, const void* p) {
  u32 remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"((u32)__cvta_generic_to_shared(p)), "r"(rank));
  return remote;
}
__device__ __forceinline__ void send_result(float* to, int rank, float v, u64* arrived) {
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];"
               :: "r"(address_in(rank, to)), "r"(__float_as_uint(v)), "r"(address_in(rank, arrived)) : "memory");
}
__device__ __forceinline__ void wait_for_results(u64* arrived) {
  u32 done = 0;
  while (!done)
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], 0;\nselp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done) : "r"((u32)__cvta_generic_to_shared(arrived)) : "memory");
}
"#;

/// The same names for a block that finishes all rows itself.
const KEEP: &str = r#"
__device__ __forceinline__ void expect_results(u64*, int) {}
__device__ __forceinline__ void say_started() {}
__device__ __forceinline__ void wait_for_start() {}
__device__ __forceinline__ void send_result(float* to, int, float v, u64*) { *to = v; }
__device__ __forceinline__ void wait_for_results(u64*) { __syncthreads(); }
"#;

/// Results of warps and of blocks that become one.
const MERGE: &str = r#"
// How many bytes of results a block gets for `rows` rows.
__device__ __forceinline__ int result_bytes(int rows, int split) {
  return max(0, rows - split + SPLITS - 1) / SPLITS * SPLITS * RESULT * 4;
}
// The results of all warps for `rows` rows from row0 on, merged, in the memory of the block that
// finishes the row. A warp has AT_ONCE results.
template <int AT_ONCE>
__device__ __forceinline__ void merge_warps(const float* partial, float* inbox, int row0, int rows, int split, u64* arrived) {
  for (int i = threadIdx.x; i < rows * RESULT; i += WARPS * 32) {
    const int r = i / RESULT, c = i % RESULT, row = row0 + r;
    float highest = NOTHING, v = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) highest = fmaxf(highest, partial[(w * AT_ONCE + r) * RESULT + PADDED]);
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
      const float* from = partial + (w * AT_ONCE + r) * RESULT;
      if (c != PADDED) v = fmaf(exp2_fast(from[PADDED] - highest), from[c], v);
    }
    send_result(inbox + (split * OWNED + row / SPLITS) * RESULT + c, row % SPLITS, c == PADDED ? highest : v, arrived);
  }
}
// The rows that this block finishes, of `rows`, from the results of all blocks; to(row) is where a
// row goes.
template <class To> __device__ __forceinline__ void merge_splits(const float* inbox, int rows, int split, u64* arrived, To to) {
  if (rows <= split) return;
  wait_for_results(arrived);
  for (int i = threadIdx.x; i < OWNED * HEAD_DIM; i += WARPS * 32) {
    const int row = i / HEAD_DIM * SPLITS + split, c = i % HEAD_DIM;
    if (row >= rows) break;
    float highest = NOTHING, v = 0.0f, all = 0.0f;
#pragma unroll
    for (int s = 0; s < SPLITS; s++) highest = fmaxf(highest, inbox[(s * OWNED + i / HEAD_DIM) * RESULT + PADDED]);
#pragma unroll
    for (int s = 0; s < SPLITS; s++) {
      const float* from = inbox + (s * OWNED + i / HEAD_DIM) * RESULT;
      const float e = exp2_fast(from[PADDED] - highest);
      v = fmaf(e, from[c], v);
      all = fmaf(e, from[PADDED + 1], all);
    }
    to(row)[c] = v / all;
  }
}
"#;

/// New keys and values as the cache holds them.
const ROUND_ROW: &str = r#"
// A warp rounds a row of f32 in shared memory to f16 in place, and writes it to `copy` if there is one.
__device__ __forceinline__ void round_row(float* row, u16* copy) {
  const int lane = threadIdx.x & 31;
  u16 rounded[(PADDED + 31) / 32];
  __syncwarp();
#pragma unroll
  for (int p = 0; p < (PADDED + 31) / 32; p++) {
    const int c = p * 32 + lane;
    rounded[p] = c < HEAD_DIM ? f32_to_f16(row[c]) : 0;
    if (copy && c < PADDED) copy[c] = rounded[p];
  }
  __syncwarp();
#pragma unroll
  for (int p = 0; p < (PADDED + 31) / 32; p++)
    if (p * 32 + lane < PADDED) ((u16*)row)[p * 32 + lane] = rounded[p];
}
"#;
