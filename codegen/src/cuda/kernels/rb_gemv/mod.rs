//! The residual-binary product of one token, or of one after the other, on binary tensor cores.
//!
//! u = h_i ⊙ x is quantised to whole numbers of 8 or 16 bits, whose bits are put into planes. A
//! binary matrix instruction counts, for 16 rows and 8 planes at once, the inputs whose sign and
//! plane bit are both set; the counts, weighted by powers of two (the highest plane negative), are
//! Σ_{+} q, and Σ ±q = 2 Σ_{+} q − Σ q is exact. Only the quantisation rounds.
//!
//! A warp owns a path and a share of the inputs: it quantises them in registers, with a scale of
//! its own, and counts them for all row tiles of its block. So nothing is exchanged between
//! reading x and the sums of the rows, which meet in shared memory, and in a cluster of blocks
//! that split the inputs in that of the block that finishes the row, which waits for what it is sent
//! and for nothing else. A lane asks for the signs that it will need before the kernel ahead has
//! ended, into its own part of shared memory, so that no barrier stands before their use; it has no
//! more of them under way than the memory needs, since the inputs of both kernels queue behind them.
//!
//! An RMSNorm ahead of the product costs nothing here: its weight is part of h, and 1/rms, which
//! quantisation does not depend on, is a factor at the end.

mod body;
mod exchange;
mod shape;

pub use shape::{HALF_SHARED, REGISTERS};

use rabitc_rbx::SmArch;

use exchange::{EXCHANGE, NO_EXCHANGE};

use super::copies::ASYNC_COPY;
use super::finish::Finish;
use super::planes::{BINARY_MMA, PLANES, UNPACK_F16};
use crate::cuda::layout::GpuLayout;
use crate::cuda::source::{
    ACTIVATIONS, Builder, CLUSTER, CudaSpec, NO_CLUSTER, REDUCTIONS, Source,
};

/// What keeps two blocks of the kernel off one multiprocessor.
///
/// The next kernel's blocks are placed while this one's still run, and the card puts two of them
/// side by side where there is room, which leaves other multiprocessors without one. So a block
/// takes more than half of something, and less than half of what its neighbours in the chain of
/// kernels take more of: then every multiprocessor has one block of two successive kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alone {
    /// Nothing.
    No,
    /// More than half of the shared memory.
    Shared,
    /// More than half of the registers: warps that do nothing hold some.
    Registers,
}

/// From when on the blocks of the next kernel may be placed, which begin to fetch at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// From the start: it has the most time to fetch.
    AtOnce,
    /// When this kernel's inputs have arrived, which then do not queue behind what the next fetches.
    AfterInputs,
}

/// How the work is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GemvTile {
    /// Blocks of a cluster, which split the inputs: 1, 2, 4 or 8.
    pub splits: usize,
    /// Clusters, which share the row tiles out evenly; no more are made than there are row tiles.
    pub clusters: usize,
    /// Warps of a block: a multiple of the sets of a block, or fewer.
    pub warps: usize,
    /// Row tiles that a warp has under way through shared memory, at least 1.
    pub slots: usize,
    /// What keeps a second block of the kernel away.
    pub alone: Alone,
    /// From when on the next kernel may begin.
    pub next: Next,
}

impl GemvTile {
    /// That of a product which is yet to be cut.
    pub const UNCUT: GemvTile = GemvTile {
        splits: 1,
        clusters: 1,
        warps: 1,
        slots: 1,
        alone: Alone::No,
        next: Next::AtOnce,
    };
}

/// The product of a layer with one token, or with each of several.
#[derive(Clone, Debug, PartialEq)]
pub struct RbGemv {
    /// Shape and layout.
    pub layout: GpuLayout,
    /// Bits of the whole numbers, 8 or 16.
    pub planes: usize,
    /// eps of an RMSNorm ahead, if there is one.
    pub norm: Option<f32>,
    /// f32 elements from one token of x to the next where blocks along y take a token each; `None`
    /// for one token.
    pub each: Option<usize>,
    /// Whether eight inputs of x may be loaded at once.
    pub x_aligned: bool,
    /// What is done with the sums.
    pub finish: Finish,
    /// How the work is cut.
    pub tile: GemvTile,
}

impl RbGemv {
    /// The name without the tile.
    pub fn problem_name(&self) -> String {
        let finish = match self.finish {
            Finish::Store => "store".into(),
            Finish::Residual(_) => "add".to_string(),
            Finish::Gate(act) => act.name().to_string(),
        };
        let norm = self
            .norm
            .map_or(String::new(), |e| format!("_norm{:08x}", e.to_bits()));
        let each = self.each.map_or(String::new(), |x| format!("_each{x}"));
        format!(
            "rb_gemv_{}{each}_b{}{}{norm}_{finish}",
            self.layout.shape_name(),
            self.planes,
            if self.x_aligned { "" } else { "u" },
        )
    }
}

impl CudaSpec for RbGemv {
    fn name(&self) -> String {
        let t = &self.tile;
        let alone = match t.alone {
            Alone::No => "",
            Alone::Shared => "s",
            Alone::Registers => "r",
        };
        let problem = self.problem_name();
        let (splits, clusters, warps, slots) = (t.splits, t.clusters, t.warps, t.slots);
        let next = match t.next {
            Next::AtOnce => "",
            Next::AfterInputs => "n",
        };
        format!("{problem}_s{splits}c{clusters}w{warps}d{slots}{alone}{next}")
    }

    fn source(&self, arch: SmArch) -> Source {
        let residual = matches!(self.finish, Finish::Residual(_));
        let clusters = arch.has_clusters() && self.tile.splits > 1;
        self.constants(arch)
            .helper(ACTIVATIONS)
            .helper(REDUCTIONS)
            .helper(if clusters { CLUSTER } else { NO_CLUSTER })
            .helper(if clusters { EXCHANGE } else { NO_EXCHANGE })
            .helper(ASYNC_COPY)
            .helper(UNPACK_F16)
            .helper(BINARY_MMA)
            .helper(PLANES)
            .param("const float", "x")
            .param("const u8", "signs")
            .param("const float", "g")
            .param("const u16", "h")
            .param_if(residual, "const float", "residual")
            .param("float", if self.gated() { "gated" } else { "out" })
            .body(&self.body())
    }
}

impl RbGemv {
    fn constants(&self, arch: SmArch) -> Builder {
        let t = &self.tile;
        let mut b = Builder::new(self.name(), arch, (self.all_warps() * 32) as u32)
            .registers(shape::REGISTERS)
            .cluster(t.splits as u32)
            .shared(self.shared_bytes())
            .int("D_IN", self.layout.stored.d_in)
            .int("CHUNKS", self.layout.input_tiles())
            .int("PATHS", self.layout.stored.paths)
            .int("SEGMENTS", self.paired())
            .int("SETS", self.sets())
            .int("PLANES", self.planes)
            .int("LIMIT", if self.planes == 16 { 32700 } else { 127 })
            .flag("X_ALIGNED", self.x_aligned)
            .flag("NORM", self.norm.is_some())
            .float("EPS", self.norm.unwrap_or(0.0))
            .flag("RESIDUAL", matches!(self.finish, Finish::Residual(_)))
            .flag("GATE", self.gated());
        for (name, value) in self.cut() {
            b = b.int(name, value);
        }
        for (name, at) in shape::PLACES.into_iter().zip(self.places()) {
            b = b.int(name, at);
        }
        b.int("UNDER_WAY", self.under_way(arch))
            .flag("NEXT_AT_ONCE", t.next == Next::AtOnce)
            .flag("EVEN", self.even())
    }

    /// Constants that follow from how the work is cut.
    fn cut(&self) -> [(&'static str, usize); 17] {
        let t = &self.tile;
        [
            ("SPLITS", t.splits),
            ("TILES", self.tiles()),
            ("LEAST", self.least_tiles()),
            ("WARPS", t.warps),
            ("ALL_WARPS", self.all_warps()),
            ("SET_WARPS", self.set_warps()),
            ("SET_ROUNDS", self.set_rounds()),
            ("CHUNK_WARPS", self.chunk_warps()),
            ("STEPS", self.steps()),
            ("ROUNDS", self.rounds()),
            ("SLOTS", t.slots),
            ("BATCH", self.batch()),
            ("UNROLL", self.unroll()),
            ("SHARE", self.share()),
            ("ITEMS", self.rows() * self.paired() * self.share()),
            ("OWNED", self.rows() / t.splits),
            ("SUMS", self.sums()),
        ]
    }

    /// Where the rows of this block's token begin, if there may be several.
    fn token(&self) -> String {
        let Some(x) = self.each else {
            return String::new();
        };
        let (out, columns) = (if self.gated() { "gated" } else { "out" }, self.columns());
        let mut text = format!(
            "  x += (size_t)blockIdx.y * {x};\n  {out} += (size_t)blockIdx.y * {columns};\n"
        );
        if let Finish::Residual(stride) = self.finish {
            text += &format!("  residual += (size_t)blockIdx.y * {stride};\n");
        }
        text
    }

    fn body(&self) -> String {
        let (layout, paired) = (&self.layout, self.gated());
        let stored = &layout.stored;
        let clusters = self.segment_clusters();
        let act = match self.finish {
            Finish::Gate(act) => act.name(),
            _ => "silu",
        };
        // Paired segments are one as far as the numbering of clusters goes.
        let single = |value: usize| if paired { 0 } else { value };
        let choices = [
            (
                "$FIRST_CLUSTER",
                self.by_segment(|s| clusters[..s].iter().sum()),
            ),
            ("$SEGMENT_CLUSTERS", self.by_segment(|s| clusters[s])),
            (
                "$SEGMENT_TILES",
                self.by_segment(|s| layout.segment_tiles(s)),
            ),
            (
                "$FIRST_TILE",
                self.by_segment(|s| single(layout.first_tile(s).0)),
            ),
            ("$SEGMENT_ROWS", self.by_segment(|s| stored.segments[s])),
            ("$COLUMN", self.by_segment(|s| single(layout.column(s)))),
            ("$SEGMENT", self.by_segment(single)),
            ("$OUT", if paired { "gated" } else { "out" }.to_string()),
            ("$ACT", act.to_string()),
        ];
        let token = self.token();
        let mut text = [body::BEGIN, &token, body::COUNT, body::FINISH].concat();
        for (word, value) in choices {
            text = text.replace(word, &value);
        }
        text
    }
}
