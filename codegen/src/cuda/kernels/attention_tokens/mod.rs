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

use super::cached_attention::CachedAttention;
use super::matrix::MATRIX_F16;
use crate::cuda::source::{Builder, CudaSpec, Source};

/// Attention of one layer; blocks are key/value heads times splits.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionTokens {
    /// The layer.
    pub over: CachedAttention,
    /// Tokens at once, up to 16.
    pub tokens: usize,
}

const WARPS: usize = 4;
/// Query rows of a matrix instruction.
const ROWS_AT_ONCE: usize = 16;

impl AttentionTokens {
    /// Blocks along x.
    pub fn grid(&self) -> usize {
        self.over.n_kv_heads * self.over.splits
    }

    /// Query rows of a block: every token of every query head of the group.
    fn rows(&self) -> usize {
        self.over.group() * self.tokens
    }

    /// f32 elements from one row in shared memory to the next, which keep neighbours apart.
    fn pitch(&self) -> usize {
        self.over.padded() + 4
    }

    /// New tokens of a block at most.
    fn fresh(&self) -> usize {
        self.tokens.div_ceil(self.over.splits)
    }

    /// Floats in shared memory: queries, new keys, new values, results of the warps, results of the
    /// splits.
    fn floats(&self) -> [usize; 5] {
        let (splits, result) = (self.over.splits, self.over.result());
        let owned = self.rows().div_ceil(splits);
        [
            self.rows().next_multiple_of(ROWS_AT_ONCE) * self.pitch(),
            self.fresh() * self.pitch(),
            self.fresh() * self.pitch(),
            WARPS * ROWS_AT_ONCE * result,
            splits * owned * result,
        ]
    }

    /// Bytes of shared memory.
    pub fn shared_bytes(&self) -> usize {
        self.floats().iter().sum::<usize>() * 4
    }
}

impl CudaSpec for AttentionTokens {
    fn name(&self) -> String {
        self.over
            .name(&format!("attention_tokens_t{}", self.tokens))
    }

    fn source(&self, arch: SmArch) -> Source {
        let steps = self.over.padded().div_ceil(32);
        let [queries, keys, values, partial, _] = self.floats();
        let b = Builder::new(self.name(), arch, (WARPS * 32) as u32)
            .min_blocks(if steps <= 4 { 2 } else { 1 })
            .shared(self.shared_bytes())
            .int("PITCH", self.pitch())
            .int("STEPS", steps)
            .flag("EARLY", steps <= 4)
            .int("TOKENS", self.tokens)
            .int("ROWS_AT_ONCE", ROWS_AT_ONCE)
            .int("KEYS_AT", queries)
            .int("VALUES_AT", queries + keys)
            .int("PARTIAL_AT", queries + keys + values)
            .int("INBOX_AT", queries + keys + values + partial)
            .helper(MATRIX_F16)
            .helper(text::TRANSPOSE);
        self.over.declare(b, arch, WARPS, self.rows()).body(
            &[text::HEADS, text::SCORES, text::RESULTS]
                .concat()
                .replace("\n\n", "\n"),
        )
    }
}
