//! Attention of 2 to 16 tokens over the cache, on matrix units, with everything between it and the
//! projections.
//!
//! As for one token, a cluster of blocks owns a key/value head and its blocks split the cached
//! positions. They take turns at the new tokens too: a block computes, appends and attends to the
//! keys and values of every SPLITS-th, so that no block waits for another's writes. The rows
//! of a matrix instruction are the queries of all tokens and of all heads that share the
//! key/value head, so that the cache is read once for up to sixteen of them. Keys and values go from
//! memory to registers as they lie: the order of the channels in an instruction is free, and values
//! are transposed on the way.

mod text;

use rabitc_rbx::SmArch;

use super::heads::Chains;
use crate::cuda::source::{
    ACTIVATIONS, Builder, CLUSTER, CudaSpec, NO_CLUSTER, REDUCTIONS, Source,
};

/// Attention of one layer; blocks are key/value heads times splits.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionTokens {
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Channels of a head; even, at most 256.
    pub head_dim: usize,
    /// Tokens at once, up to 16.
    pub tokens: usize,
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

const WARPS: usize = 4;
/// Query rows of a matrix instruction.
const ROWS_AT_ONCE: usize = 16;

impl AttentionTokens {
    /// Blocks along x.
    pub fn grid(&self) -> usize {
        self.n_kv_heads * self.splits
    }

    /// Query rows of a block: every token of every query head of the group.
    fn rows(&self) -> usize {
        self.n_heads / self.n_kv_heads * self.tokens
    }

    fn padded(&self) -> usize {
        self.head_dim.next_multiple_of(8)
    }

    /// f32 elements from one row in shared memory to the next, which keep neighbours apart.
    fn pitch(&self) -> usize {
        self.padded() + 4
    }

    /// Results of a row that meet: its values, their largest score and the sum of their weights.
    fn result(&self) -> usize {
        self.padded() + 2
    }

    /// New tokens of a block at most.
    fn fresh(&self) -> usize {
        self.tokens.div_ceil(self.splits)
    }

    /// Floats in shared memory: queries, new keys, new values, results of the warps, results of the
    /// splits.
    fn floats(&self) -> [usize; 5] {
        let owned = self.rows().div_ceil(self.splits);
        [
            self.rows().next_multiple_of(ROWS_AT_ONCE) * self.pitch(),
            self.fresh() * self.pitch(),
            self.fresh() * self.pitch(),
            WARPS * ROWS_AT_ONCE * self.result(),
            self.splits * owned * self.result(),
        ]
    }

    /// Bytes of shared memory.
    pub fn shared_bytes(&self) -> usize {
        self.floats().iter().sum::<usize>() * 4
    }
}

impl CudaSpec for AttentionTokens {
    fn name(&self) -> String {
        format!(
            "attention_tokens_h{}_{}x{}_t{}_s{:08x}_w{}_c{:08x}_p{}_{}",
            self.n_heads,
            self.n_kv_heads,
            self.head_dim,
            self.tokens,
            self.scale.to_bits(),
            self.window,
            self.softcap.to_bits(),
            self.splits,
            self.chains.name()
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        let clusters = arch.has_clusters() && self.splits > 1;
        let steps = self.padded().div_ceil(32);
        let [queries, keys, values, partial, _] = self.floats();
        let b = Builder::new(self.name(), arch, (WARPS * 32) as u32)
            .min_blocks(if steps <= 4 { 2 } else { 1 })
            .cluster(self.splits as u32)
            .shared(self.shared_bytes())
            .int("HEADS", self.n_heads)
            .int("GROUP", self.n_heads / self.n_kv_heads)
            .int("HEAD_DIM", self.head_dim)
            .int("PADDED", self.padded())
            .int("PITCH", self.pitch())
            .int("RESULT", self.result())
            .int("STEPS", steps)
            .flag("EARLY", steps <= 4)
            .int("TOKENS", self.tokens)
            .int("SPLITS", self.splits)
            .int("ROWS", self.rows())
            .int("ROWS_AT_ONCE", ROWS_AT_ONCE)
            .int("OWNED", self.rows().div_ceil(self.splits))
            .int("WARPS", WARPS)
            .int("KEYS_AT", queries)
            .int("VALUES_AT", queries + keys)
            .int("PARTIAL_AT", queries + keys + values)
            .int("INBOX_AT", queries + keys + values + partial)
            .int("WINDOW", self.window)
            .float("SCALE", self.scale)
            .float("CAP", self.softcap)
            .helper(REDUCTIONS)
            .helper(ACTIVATIONS)
            .helper(if clusters { CLUSTER } else { NO_CLUSTER })
            .helper(text::MATRIX);
        self.chains
            .declare(b)
            .param("u16", "keys")
            .param("u16", "values")
            .param("float", "out")
            .param("const State", "state")
            .body(
                &[text::HEADS, text::SCORES, text::RESULTS]
                    .concat()
                    .replace("\n\n", "\n"),
            )
    }
}
