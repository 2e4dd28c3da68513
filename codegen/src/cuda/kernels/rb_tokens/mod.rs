//! The residual-binary product of 2 to 16 tokens, on binary tensor cores, for architectures without clusters.
//!
//! As in [`super::rb_gemv`], u = h_i ⊙ x becomes whole numbers of 8 or 16 bits with one scale a
//! path and token, whose bits lie in planes, and a binary matrix instruction counts the
//! inputs whose sign and plane bit are both set. Here the eight columns of an instruction are
//! tokens: the same plane of eight of them, or planes of fewer tokens that lie evenly apart.
//! Instructions go over the planes, so that a lane ends with the whole sums of its two tokens, and
//! signs are read once for all planes and tokens.
//!
//! What bounds it: an instruction covers 16 rows × 256 inputs of one plane of eight tokens, so the
//! number of instructions grows with tokens × planes, while the signs that are read do not; and every
//! block makes the planes of all inputs for itself. [`super::rb_tokens_wgmma`] shares both out.

mod counting;
mod helpers;
mod making;
mod shape;

use rabitc_rbx::SmArch;

use super::several_tokens::{FINISH, NO_REMOTE, PLACES, SeveralTokens, WORKERS};
use crate::cuda::source::{ACTIVATIONS, Builder, CudaSpec, REDUCTIONS, Source};

/// How the work is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenTile {
    /// Row tiles of a block; even where two segments are paired.
    pub row_tiles: usize,
    /// Warps of a block, 8 or 16.
    pub warps: usize,
    /// Shares of the inputs that different warps take.
    pub parts: usize,
    /// Row tiles that share what a warp reads of the planes, 1 to 4.
    pub at_once: usize,
}

impl TokenTile {
    /// That of a product which is yet to be cut.
    pub const UNCUT: TokenTile = TokenTile {
        row_tiles: 1,
        warps: 1,
        parts: 1,
        at_once: 1,
    };
}

/// The product of a layer for several tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct RbTokens {
    /// What is computed.
    pub of: SeveralTokens,
    /// How the work is cut.
    pub tile: TokenTile,
}

impl RbTokens {
    /// The name without the tile.
    pub fn problem_name(&self) -> String {
        self.of.name("rb_tokens")
    }
}

impl CudaSpec for RbTokens {
    fn name(&self) -> String {
        let t = &self.tile;
        let problem = self.problem_name();
        format!(
            "{problem}_r{}w{}p{}a{}",
            t.row_tiles, t.warps, t.parts, t.at_once
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        let (t, of) = (&self.tile, &self.of);
        let stages = [
            PLACES,
            making::FETCH,
            making::QUANTISE,
            counting::COUNT,
            FINISH,
        ]
        .concat();
        let b = Builder::new(self.name(), arch, (t.warps * 32) as u32).shared(self.shared_bytes());
        let b = of
            .declare(b)
            .int("STEPS_UNROLLED", self.steps_unrolled())
            .int("BLOCK_TILES", t.row_tiles)
            .int("WARPS", t.warps)
            // Tokens, and blocks of inputs of each, that a warp quantises together.
            .int("QUAD", of.tokens.min(4))
            .int("BESIDE", 4 / of.tokens.min(4))
            .int("PARTS", t.parts)
            .int("AT_ONCE", t.at_once)
            .int("PART_CHUNKS", self.part_chunks())
            .int("CHUNKS_AT_ONCE", self.chunks_at_once())
            .int("FINISHED", of.finished(t.row_tiles, 1));
        let places = self.places().named.into_iter();
        let b = places
            .fold(b, |b, (name, at)| b.int(name, at))
            .helper(ACTIVATIONS)
            .helper(REDUCTIONS)
            .helper(WORKERS)
            .helper(NO_REMOTE)
            .helper(helpers::COUNT_COMMON)
            .helper(helpers::FOURS)
            .helper(helpers::PLANES);
        of.params(b).body(&of.fill(&stages, t.row_tiles))
    }
}
