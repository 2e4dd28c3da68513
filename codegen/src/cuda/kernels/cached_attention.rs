//! What the kernels have in common that attend to a cache which the blocks of a cluster split.
//!
//! A cluster owns query heads of one key/value head. Each of its blocks computes weighted values of
//! its share of the positions, with the largest score and the sum of the weights; those of the
//! warps meet in its shared memory, those of the blocks in that of the block that finishes the row.
//! Weights are powers of two: log2(e) is part of the factor on scores.

use std::f32::consts::LOG2_E;

use super::heads::Chains;
use super::matrix::EXP2;
use crate::cuda::source::{ACTIVATIONS, Builder, CLUSTER, NO_CLUSTER, REDUCTIONS};
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
            .helper(if clusters { CLUSTER } else { NO_CLUSTER })
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

/// Results of warps and of blocks that become one.
const MERGE: &str = r#"
// The results of all warps for `rows` rows from row0 on, merged, in the memory of the block that
// finishes the row. A warp has AT_ONCE results.
template <int AT_ONCE> __device__ __forceinline__ void merge_warps(const float* partial, float* inbox, int row0, int rows, int split) {
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
    store_remote(inbox + (split * OWNED + row / SPLITS) * RESULT + c, row % SPLITS, c == PADDED ? highest : v);
  }
}
// The rows that this block finishes, of `rows`, from the results of all blocks; to(row) is where a
// row goes.
template <class To> __device__ __forceinline__ void merge_splits(const float* inbox, int rows, int split, To to) {
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
