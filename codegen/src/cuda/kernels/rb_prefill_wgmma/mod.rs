//! The residual-binary product of many tokens for architectures that copy in bulk and have clusters.
//!
//! A block multiplies 16 rows a warp by a tile of tokens. The effective weight is the first operand
//! of the matrix instruction and is made in registers ([`super::effective_weight`]) while the
//! instructions before still run, each fragment once for all tokens of the tile. Activations are the
//! second operand and come through a ring of stages in shared memory; the two blocks of a cluster work
//! on the same tokens, and each fetches half of them for both. Blocks stay and take tile after tile,
//! so the ring is full when results have been stored.
//!
//! With `wgmma`, which sm_90a has and no other architecture, four warps share an instruction. Other
//! architectures run the same program with the matrix instructions of a warp.

mod body;

use rabitc_ir::ops::gate::Activation;
use rabitc_rbx::SmArch;

use self::body::{BARRIERS, BODY, FRAGMENTS, MATRIX};
use super::effective_weight::{WEIGHTS, rows_helper};
use super::finish::Finish;
use super::rb_prepare::UNIT_INPUTS;
use crate::cuda::layout::{GpuLayout, TILE_INPUTS};
use crate::cuda::source::{ACTIVATIONS, Builder, CLUSTER, CudaSpec, Source};

/// How the work is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefillTile {
    /// Tokens of a tile: 128 or 256. Fragments of three or more paths leave no registers for 256.
    pub tokens: usize,
    /// Stages of the ring, at least 2.
    pub stages: usize,
}

/// The product of a layer over a fixed number of blocks, which share out the tiles.
#[derive(Clone, Debug, PartialEq)]
pub struct RbPrefillWgmma {
    /// Shape and layout; two segments are paired where the finish is a gate, and only there.
    pub layout: GpuLayout,
    /// What becomes of a result.
    pub finish: Finish,
    /// Tokens of a run at most. The kernel takes any number; how it is best cut depends on it.
    pub most: usize,
    /// Whether tokens are counted by R, the rows asked for, instead of T.
    pub by_rows: bool,
    /// How the work is cut.
    pub tile: PrefillTile,
}

/// Warps of a block: two of the groups that share an instruction.
const WARPS: usize = 8;
/// Blocks that share activations.
const BLOCKS_OF_CLUSTER: usize = 2;
/// Blocks: large cards run one a multiprocessor.
const BLOCKS: usize = 132;
/// Eights of tokens whose residuals are loaded together.
const HELD: usize = 8;
/// Stages at most.
const MOST_STAGES: usize = 6;
/// Paths whose fragments leave registers for tiles of 256 tokens.
const WIDE_PATHS: usize = 2;

impl RbPrefillWgmma {
    /// Every way to cut the product that fits an architecture; none if no ring does.
    pub fn tiles(&self, arch: SmArch) -> Vec<PrefillTile> {
        let wide = self.layout.stored.paths <= WIDE_PATHS;
        let tokens = [256, 128].into_iter().filter(|t| *t == 128 || wide);
        let with_rings = |tokens| {
            let most = (arch.shared_bytes() / self.stage_bytes(tokens)).min(MOST_STAGES);
            let stages = (2..=most).rev();
            stages.map(move |stages| PrefillTile { tokens, stages })
        };
        tokens.flat_map(with_rings).collect()
    }

    /// Times that every block takes a tile, at most.
    pub fn rounds(&self) -> usize {
        let rows = self.layout.row_tiles().div_ceil(WARPS * BLOCKS_OF_CLUSTER) * BLOCKS_OF_CLUSTER;
        (rows * self.most.div_ceil(self.tile.tokens)).div_ceil(BLOCKS)
    }

    /// Blocks along x.
    pub fn grid(&self) -> usize {
        BLOCKS
    }

    /// f32 elements of a token of the result.
    pub fn columns(&self) -> usize {
        let segments = &self.layout.stored.segments;
        match self.finish {
            Finish::Gate(_) => segments[0],
            _ => segments.iter().sum(),
        }
    }

    /// Segments that the rows of one block may lie in.
    fn block_segments(&self) -> usize {
        if self.layout.paired {
            return self.layout.stored.segments.len();
        }
        let segments = 0..self.layout.stored.segments.len();
        let tiles: Vec<usize> = segments
            .flat_map(|s| std::iter::repeat_n(s, self.layout.segment_tiles(s)))
            .collect();
        let spans = tiles.chunks(WARPS).map(|c| c[c.len() - 1] - c[0] + 1);
        spans.max().unwrap_or(1)
    }

    /// Bytes of the input scales of a stage.
    fn scale_bytes(&self) -> usize {
        self.block_segments() * self.layout.stored.paths * UNIT_INPUTS * 2
    }

    /// Bytes of a stage: activations, input scales and two barriers.
    fn stage_bytes(&self, tokens: usize) -> usize {
        tokens * UNIT_INPUTS * 2 + self.scale_bytes() + 16
    }

    /// The name without the way it is cut.
    pub fn base_name(&self) -> String {
        let finish = match self.finish {
            Finish::Store => String::new(),
            Finish::Residual(stride) => format!("_add{stride}"),
            Finish::Gate(act) => format!("_{}", act.name()),
        };
        let count = if self.by_rows { "_rows" } else { "" };
        format!("rb_prefill_{}{finish}{count}", self.layout.shape_name())
    }
}

impl CudaSpec for RbPrefillWgmma {
    fn name(&self) -> String {
        let PrefillTile { tokens, stages } = self.tile;
        format!("{}_t{tokens}s{stages}", self.base_name())
    }

    fn source(&self, arch: SmArch) -> Source {
        let (layout, stored) = (&self.layout, &self.layout.stored);
        let (residual, act) = match self.finish {
            Finish::Store => (None, None),
            Finish::Residual(stride) => (Some(stride), None),
            Finish::Gate(act) => (None, Some(act)),
        };
        let count = if self.by_rows { "rows" } else { "tokens" };
        // What comes out of a gate is not the product, and not called its result.
        let out = if act.is_some() { "gated" } else { "out" };
        let body = BODY
            .replace("$COUNT", count)
            .replace("$OUT", out)
            .replace("$ACT", act.unwrap_or(Activation::Silu).name());
        Builder::new(self.name(), arch, (WARPS * 32) as u32)
            .cluster(BLOCKS_OF_CLUSTER as u32)
            .shared(self.tile.stages * self.stage_bytes(self.tile.tokens))
            .arch_specific()
            .int("CHUNKS", layout.input_tiles())
            .int("PATHS", stored.paths)
            .int("ALL_TILES", layout.row_tiles())
            .int("WARPS", WARPS)
            .int("BLOCKS", BLOCKS_OF_CLUSTER)
            .int(
                "ROW_GROUPS",
                layout.row_tiles().div_ceil(WARPS * BLOCKS_OF_CLUSTER),
            )
            .int("TOKENS", self.tile.tokens)
            .int("STAGES", self.tile.stages)
            .int("SEGMENTS", stored.segments.len())
            .int("BLOCK_SEGMENTS", self.block_segments())
            .int("STAGES_OF_CHUNK", TILE_INPUTS / UNIT_INPUTS)
            .int("STEPS", UNIT_INPUTS / 16)
            .int("OUT_STRIDE", self.columns())
            .int("HELD", HELD)
            .flag("GATE", act.is_some())
            .flag("RESIDUAL", residual.is_some())
            .int("R_STRIDE", residual.unwrap_or(0))
            .helper(CLUSTER)
            .helper(ACTIVATIONS)
            .helper(&rows_helper(layout))
            .helper(WEIGHTS)
            .helper(BARRIERS)
            .helper(&matrix_helper(self.tile.tokens))
            .helper(FRAGMENTS)
            .param("const u8", "x")
            .param("const float", "factor")
            .param("const uint4", "signs")
            .param("const float", "g")
            .param("const u8", "h_steps")
            .param_if(residual.is_some(), "const float", "residual")
            .param("float", out)
            .param("const State", "state")
            .body(&body)
    }
}

/// Multiplication of a stage, in both forms.
fn matrix_helper(tokens: usize) -> String {
    let list = |from: usize, to: usize, item: &dyn Fn(usize) -> String| {
        let items: Vec<_> = (from..to).map(item).collect();
        let lines: Vec<_> = items.chunks(16).map(|c| c.join(", ")).collect();
        lines.join(",\n      ")
    };
    let sums = tokens / 2;
    let names: Vec<_> = (0..sums).map(|i| format!("%{i}")).collect();
    let lines: Vec<_> = names.chunks(32).map(|c| c.join(",")).collect();
    MATRIX
        .replace("$TOKENS", &tokens.to_string())
        .replace("$SUMS", &lines.join(",\"\n      \""))
        .replace("$OUTPUTS", &list(0, sums, &|i| format!("\"+f\"(d[{i}])")))
        .replace("$A0", &format!("%{sums}"))
        .replace("$A1", &format!("%{}", sums + 1))
        .replace("$A2", &format!("%{}", sums + 2))
        .replace("$A3", &format!("%{}", sums + 3))
        .replace("$B", &format!("%{}", sums + 4))
}

#[cfg(test)]
mod tests {
    use rabitc_ir::layout::SignLayout;

    use super::*;

    fn product(segments: &[usize], paired: bool, most: usize) -> RbPrefillWgmma {
        let stored = SignLayout {
            d_in: 512,
            paths: 2,
            segments: segments.to_vec(),
            row_tiles: 4,
        };
        RbPrefillWgmma {
            layout: GpuLayout { stored, paired },
            finish: Finish::Store,
            most,
            by_rows: false,
            tile: PrefillTile {
                tokens: 128,
                stages: 2,
            },
        }
    }

    #[test]
    fn a_block_has_the_scales_of_all_segments_that_its_rows_lie_in() {
        for (segments, paired, expected) in [
            (vec![4096, 1024, 1024], false, 1),
            (vec![128, 16, 16], false, 2),
            (vec![16; 9], false, 8),
            (vec![100, 100], false, 2),
            (vec![4096, 4096], true, 2),
        ] {
            let product = product(&segments, paired, 128);
            assert_eq!(product.block_segments(), expected, "{segments:?}");
        }
    }

    #[test]
    fn rings_fit_and_small_cards_get_short_ones() {
        for (arch, stages) in [("sm_90", 6), ("sm_120", 3)] {
            let arch: SmArch = arch.parse().unwrap();
            let product = product(&[4096], false, 512);
            let tiles = product.tiles(arch);
            assert_eq!((tiles[0].tokens, tiles[0].stages), (256, stages));
            for tile in tiles {
                assert!(tile.stages >= 2);
                assert!(tile.stages * product.stage_bytes(tile.tokens) <= arch.shared_bytes());
            }
        }
    }

    #[test]
    fn many_paths_get_narrow_tiles_only() {
        let mut product = product(&[4096], false, 512);
        product.layout.stored.paths = 3;
        let tiles = product.tiles("sm_90".parse().unwrap());
        assert!(!tiles.is_empty() && tiles.iter().all(|t| t.tokens == 128));
    }
}
