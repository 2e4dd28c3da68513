//! The packed layout of the signs and scales of a residual-binary layer.
//!
//! Rows (outputs) are taken 16 at a time and inputs 32 at a time: such a *tile* is 64 bytes. Its
//! four 16-byte groups each cover 8 inputs; byte `r` of a group holds row `r`'s 8 signs, input
//! `8·group + bit` in bit `bit`. `row_tiles` tiles stand under each other as a *row block*.
//! Tiles are ordered `[segment][row block][path][input tile][row tile]`, so that one thread reads
//! one purely sequential stream. Rows and inputs past the end of a segment are zero bits.
//!
//! Output scales are laid out in the order the kernel meets them,
//! `[segment][row block][path][row]`, zero past the end of a segment.

/// Rows in a tile.
pub const TILE_ROWS: usize = 16;
/// Inputs in a tile.
pub const TILE_INPUTS: usize = 32;
/// Bytes of a tile.
pub const TILE_BYTES: usize = TILE_ROWS * TILE_INPUTS / 8;

/// Most tiles in a row block: what bounds the padding of a layer with few outputs.
pub const MAX_ROW_TILES: usize = 64;

/// The packed layout of one residual-binary layer of one or more segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignLayout {
    /// Inputs.
    pub d_in: usize,
    /// Binary paths.
    pub paths: usize,
    /// Outputs of each segment; every segment starts a row block of its own.
    pub segments: Vec<usize>,
    /// Tiles in a row block.
    pub row_tiles: usize,
}

impl SignLayout {
    /// Rows of a row block.
    pub fn block_rows(&self) -> usize {
        TILE_ROWS * self.row_tiles
    }

    /// Tiles along the inputs.
    pub fn input_tiles(&self) -> usize {
        self.d_in.div_ceil(TILE_INPUTS)
    }

    /// Row blocks of segment `s`.
    pub fn segment_blocks(&self, s: usize) -> usize {
        self.segments[s].div_ceil(self.block_rows())
    }

    /// Row blocks of all segments.
    pub fn row_blocks(&self) -> usize {
        (0..self.segments.len())
            .map(|s| self.segment_blocks(s))
            .sum()
    }

    /// Index of the first row block of segment `s`.
    pub fn first_block(&self, s: usize) -> usize {
        (0..s).map(|s| self.segment_blocks(s)).sum()
    }

    /// Bytes of one row block: all paths, all inputs.
    pub fn block_bytes(&self) -> usize {
        self.paths * self.input_tiles() * self.row_tiles * TILE_BYTES
    }

    /// Checks the numbers that every other method trusts: at least one path, input, segment and
    /// output a segment, 1 to [`MAX_ROW_TILES`] tiles, and sizes that do not overflow.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=MAX_ROW_TILES).contains(&self.row_tiles) {
            let found = self.row_tiles;
            return Err(format!(
                "row_tiles is {found}, it must be 1 to {MAX_ROW_TILES}"
            ));
        }
        if self.d_in == 0 || self.paths == 0 || self.segments.is_empty() {
            return Err("there must be an input, a path and a segment".into());
        }
        if self.segments.contains(&0) {
            return Err("a segment has no outputs".into());
        }
        let sizes = self.sign_bytes().and(self.scale_count());
        sizes
            .map(|_| ())
            .ok_or_else(|| "the size of the packed layer overflows".into())
    }

    /// [`SignLayout::row_blocks`]; `None` if that overflows.
    fn checked_blocks(&self) -> Option<usize> {
        let rows = self.block_rows();
        let mut blocks = self.segments.iter().map(|d_out| d_out.div_ceil(rows));
        blocks.try_fold(0usize, |sum, n| sum.checked_add(n))
    }

    /// Bytes of the packed signs; `None` if that overflows.
    pub fn sign_bytes(&self) -> Option<usize> {
        let tiles = self.paths.checked_mul(self.input_tiles())?;
        let block = tiles.checked_mul(self.row_tiles)?.checked_mul(TILE_BYTES)?;
        self.checked_blocks()?.checked_mul(block)
    }

    /// Elements of the packed output scales; `None` if that overflows.
    pub fn scale_count(&self) -> Option<usize> {
        let block = self.paths.checked_mul(self.block_rows())?;
        self.checked_blocks()?.checked_mul(block)
    }

    /// Index of the byte that holds inputs `8·octet..8·octet+8` of `row` of segment `s`.
    pub fn sign_byte(&self, s: usize, path: usize, row: usize, octet: usize) -> usize {
        let block = self.first_block(s) + row / self.block_rows();
        let (tile, lane) = (row / TILE_ROWS % self.row_tiles, row % TILE_ROWS);
        let (input_tile, group) = (octet / 4, octet % 4);
        let tile =
            ((block * self.paths + path) * self.input_tiles() + input_tile) * self.row_tiles + tile;
        tile * TILE_BYTES + group * TILE_ROWS + lane
    }

    /// Index of the output scale of `row` of segment `s` on `path`.
    pub fn scale_index(&self, s: usize, path: usize, row: usize) -> usize {
        let block = self.first_block(s) + row / self.block_rows();
        (block * self.paths + path) * self.block_rows() + row % self.block_rows()
    }

    /// Packs plain signs, one slice of `[paths, d_out, ⌈d_in/8⌉]` bytes a segment.
    pub fn pack_signs(&self, segments: &[&[u8]]) -> Vec<u8> {
        let mut out = vec![0; self.sign_bytes().unwrap_or(0)];
        self.each_byte(|s, plain, packed| out[packed] = segments[s][plain]);
        out
    }

    /// The reverse of [`SignLayout::pack_signs`].
    pub fn unpack_signs(&self, packed: &[u8]) -> Vec<Vec<u8>> {
        let octets = self.d_in.div_ceil(8);
        let mut out: Vec<Vec<u8>> = self
            .segments
            .iter()
            .map(|d_out| vec![0; self.paths * d_out * octets])
            .collect();
        self.each_byte(|s, plain, index| out[s][plain] = packed[index]);
        out
    }

    /// Calls `f(segment, plain index, packed index)` for every byte of signs.
    fn each_byte(&self, mut f: impl FnMut(usize, usize, usize)) {
        let octets = self.d_in.div_ceil(8);
        let tile_stride = self.row_tiles * TILE_BYTES;
        for (s, &d_out) in self.segments.iter().enumerate() {
            for path in 0..self.paths {
                for row in 0..d_out {
                    let plain = (path * d_out + row) * octets;
                    let packed = self.sign_byte(s, path, row, 0);
                    for tile in 0..octets.div_ceil(4) {
                        for octet in 4 * tile..octets.min(4 * tile + 4) {
                            let at = packed + tile * tile_stride + (octet - 4 * tile) * TILE_ROWS;
                            f(s, plain + octet, at);
                        }
                    }
                }
            }
        }
    }

    /// Packs output scales, one slice of `[paths, d_out]` a segment.
    pub fn pack_scales<F: Copy + Default>(&self, segments: &[&[F]]) -> Vec<F> {
        let mut out = vec![F::default(); self.scale_count().unwrap_or(0)];
        for (s, &d_out) in self.segments.iter().enumerate() {
            for path in 0..self.paths {
                for row in 0..d_out {
                    out[self.scale_index(s, path, row)] = segments[s][path * d_out + row];
                }
            }
        }
        out
    }
}
