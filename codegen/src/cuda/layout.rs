//! The layout of packed signs on a GPU.
//!
//! Binary tensor cores multiply 16 rows × 256 inputs at a time. Such a *tile* is 512 bytes: lane
//! `l` of a warp reads bytes `16·l..16·l+16`, four words, as the instruction wants them. With
//! g = l / 4 and t = l % 4, words 0 and 1 hold inputs `32·t..32·t+32` of rows g and g + 8, words 2
//! and 3 the same rows' inputs `128 + 32·t ..`; bit i of a word is its input i.
//!
//! Tiles are ordered `[row tile][input tile][path]`, so that any range of inputs of a row tile is
//! one piece of memory. Row tiles go through the segments in order; two segments of a gated unit
//! are *paired* instead: a row tile of the first, then the same rows of the second. Rows and inputs
//! past the end of a segment are zero bits.
//!
//! An artifact stores signs once, in the layout of [`rabitc_ir::layout`]; the `rb_repack` kernel
//! makes this one of it on the device when a model is loaded.

use rabitc_ir::layout::SignLayout;

/// Rows of a tile.
pub const TILE_ROWS: usize = 16;
/// Inputs of a tile.
pub const TILE_INPUTS: usize = 256;
/// Bytes of a tile.
pub const TILE_BYTES: usize = TILE_ROWS * TILE_INPUTS / 8;

/// The layout of one residual-binary layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuLayout {
    /// The layout in the artifact, with the layer's shape.
    pub stored: SignLayout,
    /// Whether two segments take turns.
    pub paired: bool,
}

impl GpuLayout {
    /// Tiles along the inputs.
    pub fn input_tiles(&self) -> usize {
        self.stored.d_in.div_ceil(TILE_INPUTS)
    }

    /// Row tiles of segment `s`.
    pub fn segment_tiles(&self, s: usize) -> usize {
        self.stored.segments[s].div_ceil(TILE_ROWS)
    }

    /// Row tiles of all segments.
    pub fn row_tiles(&self) -> usize {
        (0..self.stored.segments.len())
            .map(|s| self.segment_tiles(s))
            .sum()
    }

    /// The first row tile of segment `s`, and how many tiles on the next one is.
    pub fn first_tile(&self, s: usize) -> (usize, usize) {
        match self.paired {
            true => (s, 2),
            false => ((0..s).map(|s| self.segment_tiles(s)).sum(), 1),
        }
    }

    /// Bytes of the packed signs.
    pub fn sign_bytes(&self) -> usize {
        self.row_tiles() * self.input_tiles() * self.stored.paths * TILE_BYTES
    }

    /// f32 elements of the output scales, `[row tile][path][16]`.
    pub fn scale_count(&self) -> usize {
        self.row_tiles() * self.stored.paths * TILE_ROWS
    }

    /// f16 elements of the input scales, `[segment][path][input tile][256]`.
    pub fn h_count(&self) -> usize {
        self.stored.segments.len() * self.stored.paths * self.input_tiles() * TILE_INPUTS
    }

    /// First column of segment `s` in the result.
    pub fn column(&self, s: usize) -> usize {
        self.stored.segments[..s].iter().sum()
    }

    /// A name for kernels that depend on the shape.
    pub fn shape_name(&self) -> String {
        let segments: Vec<_> = self.stored.segments.iter().map(usize::to_string).collect();
        let paired = if self.paired { "_paired" } else { "" };
        format!(
            "{}x{}_k{}{paired}",
            segments.join("_"),
            self.stored.d_in,
            self.stored.paths
        )
    }

    /// The word and bit of an input of a row, as [`GpuLayout`]'s definition says.
    pub fn sign_bit(&self, s: usize, path: usize, row: usize, input: usize) -> (usize, u32) {
        let (first, step) = self.first_tile(s);
        let tile = first + row / TILE_ROWS * step;
        let tile = (tile * self.input_tiles() + input / TILE_INPUTS) * self.stored.paths + path;
        let (row, input) = (row % TILE_ROWS, input % TILE_INPUTS);
        let (half, t) = (input / 128, input % 128 / 32);
        let lane = row % 8 * 4 + t;
        (
            tile * 128 + lane * 4 + half * 2 + row / 8,
            (input % 32) as u32,
        )
    }
}
