//! The residual-binary product of 2 to 16 tokens for architectures with clusters and copies in bulk.
//!
//! As in [`super::rb_gemv`], u = h_i ⊙ x becomes whole numbers of 8 or 16 bits with one scale a
//! block, path and token, whose bits lie in planes, and a binary matrix instruction counts the
//! inputs whose sign and plane bit are both set. Here four warps share an instruction: each has the signs of
//! 16 rows in registers, and all read the planes of all tokens of up to eight from shared memory. The
//! counts of all inputs of a block add up in one chain of instructions a path.
//!
//! With `wgmma`, which sm_90a has and no other architecture, an instruction takes four cycles for 16 rows ×
//! 256 inputs × 8 columns, so that signs do not arrive faster than up to eight tokens are counted. Other
//! architectures run the same program with the matrix instructions of a warp.
//!
//! A cluster of blocks owns a set of row tiles; its blocks split the inputs, so that planes are made
//! once a cluster, and send their sums to the block that finishes the row, into whose shared memory they
//! are written while a barrier there counts their bytes.

mod counting;
mod fetching;
mod helpers;
mod making;
mod shape;

use rabitc_rbx::SmArch;

use super::several_tokens::{FINISH, NO_REMOTE, PLACES, SeveralTokens, WORKERS};
use crate::cuda::source::{ACTIVATIONS, Builder, CudaSpec, REDUCTIONS, Source};

/// How the work is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupTile {
    /// Blocks of a cluster, which split the inputs: 1, 2, 4 or 8.
    pub splits: usize,
    /// Row tiles of a cluster; even where two segments are paired.
    pub row_tiles: usize,
    /// Groups of four warps of a block that compute; one more warp makes copies.
    pub groups: usize,
    /// Row tiles that a warp has in flight.
    pub slots: usize,
}

impl GroupTile {
    /// That of a product which is yet to be cut.
    pub const UNCUT: GroupTile = GroupTile {
        splits: 1,
        row_tiles: 1,
        groups: 1,
        slots: 1,
    };
}

/// The product of a layer for several tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct RbTokensWgmma {
    /// What is computed.
    pub of: SeveralTokens,
    /// How the work is cut.
    pub tile: GroupTile,
}

impl RbTokensWgmma {
    /// The name without the tile.
    pub fn problem_name(&self) -> String {
        self.of.name("rb_tokens_wgmma")
    }

    /// The constants of the text.
    fn declare(&self, b: Builder) -> Builder {
        let t = &self.tile;
        let b = self
            .of
            .declare(b)
            // Columns have 16 bytes of each half of their inputs.
            .int("COLUMN_BYTES", 16)
            .int("WORD_BYTES", 4)
            .int("HALF_BYTES", 128)
            .int("SPLITS", t.splits)
            .int("CLUSTER_TILES", t.row_tiles)
            .int("WARPS", self.warps())
            .int("GROUPS", t.groups)
            .int("SLOTS", t.slots)
            .int("SETS_BESIDE", self.beside().0)
            .int("BESIDE", self.beside().1)
            .int("SET_WARPS", self.set_warps())
            .flag("HELD", self.held())
            .int("MOST_AT_ONCE", making::MOST_AT_ONCE)
            .int("MOST_CHUNKS", self.most_chunks())
            .int("EIGHT", self.eight())
            .int("BATCH", self.batch())
            .int("SLOT_BYTES", self.tile_bytes())
            // Blocks of inputs are not shared out among groups.
            .int("PARTS", 1)
            .int("FINISHED", self.of.finished(t.row_tiles, t.splits));
        let named = self.places().named.into_iter();
        named.fold(b, |b, (name, at)| b.int(name, at))
    }
}

impl CudaSpec for RbTokensWgmma {
    fn name(&self) -> String {
        let t = &self.tile;
        let problem = self.problem_name();
        format!(
            "{problem}_s{}r{}g{}d{}",
            t.splits, t.row_tiles, t.groups, t.slots
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        let stages = [
            PLACES,
            fetching::FETCH,
            making::BEFORE,
            "  wait_for_previous();\n",
            making::QUANTISE,
            counting::COUNT,
            FINISH,
        ];
        // One warp more fetches.
        let threads = (self.warps() + 1) * 32;
        let b = Builder::new(self.name(), arch, threads as u32)
            .cluster(self.tile.splits as u32)
            .shared(self.shared_bytes())
            .arch_specific();
        let b = self
            .declare(b)
            .helper(ACTIVATIONS)
            .helper(REDUCTIONS)
            .helper(WORKERS)
            .helper(helpers::BULK)
            .helper(match self.tile.splits > 1 {
                true => helpers::REMOTE,
                false => NO_REMOTE,
            })
            .helper(making::PLANES)
            .helper(&matrix_helper(self.eight()));
        let text = self.of.fill(&stages.concat(), self.tile.row_tiles);
        self.of.params(b).body(&text)
    }
}

/// The matrix instruction over `steps` eights of columns, in both forms.
fn matrix_helper(steps: usize) -> String {
    let counts = steps * 4;
    let list = |item: &dyn Fn(usize) -> String, a_line: usize, between: &str| {
        let items: Vec<_> = (0..counts).map(item).collect();
        let lines: Vec<_> = items.chunks(a_line).map(|c| c.join(",")).collect();
        lines.join(between)
    };
    counting::MATRIX
        .replace("$COLUMNS", &(steps * 8).to_string())
        .replace("$COUNTS", &list(&|i| format!("%{i}"), 32, ",\"\n      \""))
        .replace(
            "$OUTPUTS",
            &list(&|i| format!("\"+r\"(d[{i}])"), 8, ",\n        "),
        )
        .replace("$A0", &format!("%{counts}"))
        .replace("$A1", &format!("%{}", counts + 1))
        .replace("$A2", &format!("%{}", counts + 2))
        .replace("$A3", &format!("%{}", counts + 3))
        .replace("$B", &format!("%{}", counts + 4))
        .replace("$MORE", &format!("%{}", counts + 5))
}
