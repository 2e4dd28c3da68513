//! Signs from the layout of the artifact into that of the GPU, once, when a model is loaded.

use rabitc_rbx::SmArch;

use crate::cuda::layout::{GpuLayout, TILE_BYTES};
use crate::cuda::source::{Builder, CudaSpec, Source};

/// Words that a block writes.
const BLOCK_WORDS: usize = 4096;

/// Repacks the signs of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RbRepack {
    /// Where they go; also knows where they come from.
    pub layout: GpuLayout,
}

impl RbRepack {
    fn words(&self) -> usize {
        self.layout.sign_bytes() / 4
    }

    /// Blocks along x.
    pub fn grid(&self) -> usize {
        self.words().div_ceil(BLOCK_WORDS)
    }
}

impl CudaSpec for RbRepack {
    fn name(&self) -> String {
        format!(
            "rb_repack_{}_r{}",
            self.layout.shape_name(),
            self.layout.stored.row_tiles
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        let (layout, stored) = (&self.layout, &self.layout.stored);
        let mut segments = String::new();
        for (s, rows) in stored.segments.iter().enumerate() {
            let (first, _) = layout.first_tile(s);
            let (tiles, block) = (layout.segment_tiles(s), stored.first_block(s));
            let test = match layout.paired {
                true => format!("(tile & 1) == {s}"),
                false => format!("tile >= {first} && tile < {}", first + tiles),
            };
            let local = if layout.paired {
                "tile >> 1".into()
            } else {
                format!("tile - {first}")
            };
            segments.push_str(&format!(
                "    if ({test}) {{ row = ({local}) * 16; segment_rows = {rows}; first_block = {block}; }}\n"
            ));
        }
        Builder::new(self.name(), arch, 256)
            .int("WORDS", self.words())
            .int("BLOCK_WORDS", BLOCK_WORDS)
            .int("TILE_WORDS", TILE_BYTES / 4)
            .int("PATHS", stored.paths)
            .int("CHUNKS", layout.input_tiles())
            .int("STORED_INPUT_TILES", stored.input_tiles())
            .int("STORED_ROW_TILES", stored.row_tiles)
            .param("const u8", "stored")
            .param("u32", "out")
            .body(&BODY.replace("$SEGMENTS", segments.trim_end()))
    }
}

const BODY: &str = r#"
  allow_next();
  wait_for_previous();
  const size_t end = min((size_t)WORDS, (size_t)(blockIdx.x + 1) * BLOCK_WORDS);
  for (size_t word = (size_t)blockIdx.x * BLOCK_WORDS + threadIdx.x; word < end; word += blockDim.x) {
    const int lane = (word & 127) >> 2, part = word & 3;
    const size_t tiles = word / TILE_WORDS;
    const int path = tiles % PATHS, chunk = tiles / PATHS % CHUNKS, tile = tiles / PATHS / CHUNKS;
    int row = 0, segment_rows = 0, first_block = 0;
$SEGMENTS
    row += (lane >> 2) + (part & 1) * 8;
    const int input_tile = chunk * 8 + (part >> 1) * 4 + (lane & 3);
    u32 bits = 0;
    if (row < segment_rows && input_tile < STORED_INPUT_TILES) {
      const size_t block = first_block + row / (16 * STORED_ROW_TILES);
      const size_t from = ((block * PATHS + path) * STORED_INPUT_TILES + input_tile) * STORED_ROW_TILES + row / 16 % STORED_ROW_TILES;
      const u8* bytes = stored + from * 64 + row % 16;
      bits = bytes[0] | bytes[16] << 8 | bytes[32] << 16 | (u32)bytes[48] << 24;
    }
    out[word] = bits;
  }
"#;
