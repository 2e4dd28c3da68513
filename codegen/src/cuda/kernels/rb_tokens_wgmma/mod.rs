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
mod making;
mod shape;

use rabitc_rbx::SmArch;

use super::finish::Finish;
use super::rb_tokens::counting::FINISH;
use super::rb_tokens::helpers;
use crate::cuda::layout::GpuLayout;
use crate::cuda::source::{ACTIVATIONS, Builder, CudaSpec, REDUCTIONS, Source};

/// A scale whose largest input is not above this is zero: its inverse would not be finite.
const SMALLEST: f32 = 1e-30;

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
    /// Shape and layout.
    pub layout: GpuLayout,
    /// Tokens at once: 2, 4, 8 or 16.
    pub tokens: usize,
    /// Bits of the whole numbers, 8 or 16.
    pub planes: usize,
    /// eps of an RMSNorm ahead, if there is one.
    pub norm: Option<f32>,
    /// f32 elements from one token of x to the next.
    pub x_stride: usize,
    /// Whether eight inputs of x may be loaded at once.
    pub x_aligned: bool,
    /// What is done with the sums.
    pub finish: Finish,
    /// Whether tokens are counted by R, the rows asked for, instead of T.
    pub by_rows: bool,
    /// How the work is cut.
    pub tile: GroupTile,
}

impl RbTokensWgmma {
    /// The name without the tile.
    pub fn problem_name(&self) -> String {
        let finish = match self.finish {
            Finish::Store => "store".into(),
            Finish::Residual(stride) => format!("add{stride}"),
            Finish::Gate(act) => act.name().to_string(),
        };
        let norm = self
            .norm
            .map_or(String::new(), |e| format!("_norm{:08x}", e.to_bits()));
        format!(
            "rb_tokens_{}_t{}{}_b{}_x{}{}{norm}_{finish}",
            self.layout.shape_name(),
            self.tokens,
            if self.by_rows { "rows" } else { "" },
            self.planes,
            self.x_stride,
            if self.x_aligned { "" } else { "u" },
        )
    }

    /// The constants of the text.
    fn declare(&self, b: Builder) -> Builder {
        let (stored, t) = (&self.layout.stored, &self.tile);
        let stride = match self.finish {
            Finish::Residual(stride) => stride,
            _ => 0,
        };
        let b = b
            .int("D_IN", stored.d_in)
            .int("CHUNKS", self.layout.input_tiles())
            .int("PATHS", stored.paths)
            .int("SETS", self.sets())
            .int("TOKENS", self.tokens)
            .int("COLUMNS", self.columns())
            .int("GROUPS_OF_TOKENS", self.tokens / self.columns())
            // Lanes that end with sums of their own.
            .int("HOLDERS", 8 * self.columns() / 2)
            .int("PLANES", self.planes)
            .int("STEPS", self.steps())
            // Columns have 16 bytes of each half of their inputs.
            .int("COLUMN_BYTES", 16)
            .int("WORD_BYTES", 4)
            .int("HALF_BYTES", 128)
            .int("SPLITS", t.splits)
            .int("CLUSTER_TILES", t.row_tiles)
            .int("WARPS", self.warps())
            .int("GROUPS", t.groups)
            .int("SETS_BESIDE", self.beside().0)
            .int("BESIDE", self.beside().1)
            .int("SET_WARPS", self.set_warps())
            .flag("HELD", self.held())
            .int("MOST_AT_ONCE", making::MOST_AT_ONCE)
            // Blocks of inputs are not shared out among groups.
            .int("PARTS", 1)
            .int("SLOTS", t.slots)
            .int("MOST_CHUNKS", self.most_chunks())
            .int("EIGHT", self.eight())
            .int("BATCH", self.batch())
            .int("SLOT_BYTES", self.tile_bytes())
            .int("FINISHED", self.finished())
            .int("X_STRIDE", self.x_stride)
            .int("OUT_STRIDE", self.width())
            .flag("X_ALIGNED", self.x_aligned)
            .flag("NORM", self.norm.is_some())
            .float("EPS", self.norm.unwrap_or(0.0))
            .float("SMALLEST", SMALLEST)
            .flag("RESIDUAL", matches!(self.finish, Finish::Residual(_)))
            .int("R_STRIDE", stride)
            .flag("GATE", self.gated())
            .flag("BULK", true);
        let places = self.places();
        let named = places.named.into_iter();
        named.fold(b, |b, (name, at)| b.int(name, at))
    }

    /// The kernel's text.
    fn body(&self) -> String {
        let (layout, paired) = (&self.layout, self.gated());
        let clusters = self.segment_clusters();
        let unless_paired = |value: usize| if paired { 0 } else { value };
        let act = match self.finish {
            Finish::Gate(act) => act.name(),
            _ => "silu",
        };
        let count = match self.by_rows {
            true => "state->rows",
            false => "state->tokens",
        };
        let values = [
            (
                "$FIRST_CLUSTER",
                self.by_segment(|s| clusters[..s].iter().sum()),
            ),
            (
                "$SEGMENT_TILES",
                self.by_segment(|s| match paired {
                    true => layout.row_tiles(),
                    false => layout.segment_tiles(s),
                }),
            ),
            (
                "$SEGMENT_ROWS",
                self.by_segment(|s| layout.stored.segments[s]),
            ),
            (
                "$FIRST_TILE",
                self.by_segment(|s| unless_paired(layout.first_tile(s).0)),
            ),
            (
                "$COLUMN",
                self.by_segment(|s| unless_paired(layout.column(s))),
            ),
            ("$SEGMENT", self.by_segment(unless_paired)),
            ("$COUNT", count.into()),
            ("$OUT", if paired { "gated" } else { "out" }.into()),
            ("$ACT", act.into()),
        ];
        let stages = [
            fetching::FETCH,
            making::BEFORE,
            "  wait_for_previous();\n",
            making::QUANTISE,
            counting::COUNT,
            FINISH,
        ]
        .concat();
        let mut body = stages.replace("\n\n", "\n");
        for (name, value) in values {
            body = body.replace(name, &value);
        }
        body
    }
}

impl CudaSpec for RbTokensWgmma {
    fn name(&self) -> String {
        let t = &self.tile;
        format!(
            "{}_s{}r{}g{}d{}",
            self.problem_name(),
            t.splits,
            t.row_tiles,
            t.groups,
            t.slots
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        // One warp more fetches.
        let threads = (self.warps() + 1) * 32;
        let b = Builder::new(self.name(), arch, threads as u32)
            .cluster(self.tile.splits as u32)
            .shared(self.shared_bytes())
            .arch_specific();
        let result = if self.gated() { "gated" } else { "out" };
        let residual = matches!(self.finish, Finish::Residual(_));
        self.declare(b)
            .helper(ACTIVATIONS)
            .helper(REDUCTIONS)
            .helper(helpers::WORKERS)
            .helper(helpers::BULK)
            .helper(match self.tile.splits > 1 {
                true => helpers::REMOTE,
                false => helpers::NO_REMOTE,
            })
            .helper(making::PLANES)
            .helper(&matrix_helper(self.eight()))
            .param("const float", "x")
            .param("const u8", "signs")
            .param("const float", "g")
            .param("const u16", "h")
            .param_if(residual, "const float", "residual")
            .param("float", result)
            .param("const State", "state")
            .body(&self.body())
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
        .replace("$OUTPUTS", &list(&|i| format!("\"+r\"(d[{i}])"), 8, ",\n        "))
        .replace("$A0", &format!("%{counts}"))
        .replace("$A1", &format!("%{}", counts + 1))
        .replace("$A2", &format!("%{}", counts + 2))
        .replace("$A3", &format!("%{}", counts + 3))
        .replace("$B", &format!("%{}", counts + 4))
        .replace("$MORE", &format!("%{}", counts + 5))
}
