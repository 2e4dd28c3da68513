//! The next token drawn by temperature, top-k, top-p and min-p, and the step to the next position,
//! without the host.
//!
//! It computes what `runtime/src/sampler.rs` defines. A token's weight, exp((logit − best) /
//! temperature), is a whole number here, of units of 2⁻⁶² times a power of two above the
//! vocabulary: sums are exact, so that they do not depend on the order in which threads add, and a
//! seed draws the same tokens on every run. They are the tokens that the processor draws, except
//! where a bound lies within the rounding of its sums.
//!
//! Nothing is sorted. Tokens rank by logit and then by id, and every filter keeps the first of that
//! order: top-k as many as reach a count, top-p and min-p as many as reach a weight. The token drawn
//! is the one at which the weight reaches a random share of what is kept. So all that is asked is,
//! up to three times, *where in the order does a running sum reach a target*, which is answered
//! digit by digit of a rank key: a histogram of the first digit is made once, and only the bin that
//! holds the target is divided further. The first digits divide the range from the best logit to the
//! lowest that counts evenly, so that few threads meet in a bin; the last ones are the bits of logit
//! and id, so that equal logits are told apart.
//!
//! A cluster of blocks shares the vocabulary and adds up its histograms in shared memory.

mod body;
mod helpers;

use rabitc_rbx::SmArch;

use crate::cuda::source::{Builder, CLUSTER, CudaSpec, NO_CLUSTER, Source};
use body::BODY;
use helpers::{NO_REMOTE, RANDOM, REMOTE, SUMS};

/// Blocks of the cluster.
const SPLITS: usize = 8;
/// Bits of all weights together, so that their sum fits.
const SUM_BITS: u32 = 62;
/// Token ids are `i32`.
const MOST_ID_BITS: u32 = 31;

/// Draws the next token from the logits, appends it to a ring, marks it as seen and moves the state
/// on by one position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Logits.
    pub vocab: usize,
    /// Tokens that the ring holds.
    pub ring: usize,
}

impl Sample {
    /// Blocks along x.
    pub fn grid(arch: SmArch) -> usize {
        if arch.has_clusters() { SPLITS } else { 1 }
    }

    /// Bits of a token id.
    fn id_bits(&self) -> u32 {
        (self.vocab.max(2) - 1).ilog2().min(MOST_ID_BITS - 1) + 1
    }
}

impl CudaSpec for Sample {
    fn name(&self) -> String {
        format!("sample_{}_ring{}", self.vocab, self.ring)
    }

    fn source(&self, arch: SmArch) -> Source {
        let splits = Sample::grid(arch);
        let clusters = splits > 1;
        Builder::new(self.name(), arch, 1024)
            .cluster(splits as u32)
            .int("VOCAB", self.vocab)
            .int("RING", self.ring)
            .int("SPLITS", splits)
            .int("ID_BITS", self.id_bits())
            .int("WEIGHT_BITS", SUM_BITS - self.id_bits())
            .helper(if clusters { CLUSTER } else { NO_CLUSTER })
            .helper(if clusters { REMOTE } else { NO_REMOTE })
            .helper(RANDOM)
            .helper(SUMS)
            .param("const float", "logits")
            .param("int", "ids")
            .param("int", "ring")
            .param("State", "state")
            .param("u8", "seen")
            .param("Sampling", "sampling")
            .body(BODY)
    }
}
