//! Scales in the form that the products read, once, when a model is loaded.
//!
//! The weight of an RMSNorm ahead of the layer becomes part of h. Each h is divided by the power of
//! two below its largest element, so that f16 holds it whatever its range, and g is multiplied by
//! the same.

use rabitc_rbx::SmArch;

use crate::cuda::layout::GpuLayout;
use crate::cuda::source::{Builder, CudaSpec, REDUCTIONS, Source};
use crate::kernels::Float;

/// Folds the scales of a layer; a block is a path of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RbFold {
    /// Shape and layout.
    pub layout: GpuLayout,
    /// Form of the stored g.
    pub g: Float,
    /// Form of the stored h.
    pub h: Float,
    /// Form of the norm's weight and whether it is multiplied by 1 + w, if there is a norm.
    pub norm: Option<(Float, bool)>,
}

impl RbFold {
    /// Blocks along x.
    pub fn grid(&self) -> usize {
        self.layout.stored.segments.len() * self.layout.stored.paths
    }
}

impl CudaSpec for RbFold {
    fn name(&self) -> String {
        let norm = self.norm.map_or(String::new(), |(float, unit)| {
            format!("_norm_{}{}", float.name(), if unit { "_unit" } else { "" })
        });
        format!(
            "rb_fold_{}_r{}_{}_{}{norm}",
            self.layout.shape_name(),
            self.layout.stored.row_tiles,
            self.g.name(),
            self.h.name()
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        let (layout, stored) = (&self.layout, &self.layout.stored);
        let mut segments = String::new();
        for (s, rows) in stored.segments.iter().enumerate() {
            let (first, step) = layout.first_tile(s);
            let (tiles, block) = (layout.segment_tiles(s), stored.first_block(s));
            segments.push_str(&format!(
                "  if (segment == {s}) {{ rows = {rows}; tiles = {tiles}; first_tile = {first}; tile_step = {step}; first_block = {block}; }}\n"
            ));
        }
        let (norm, unit) = self.norm.unwrap_or((Float::F32, false));
        Builder::new(self.name(), arch, 512)
            .int("D_IN", stored.d_in)
            .int("PADDED", layout.input_tiles() * 256)
            .int("PATHS", stored.paths)
            .int("BLOCK_ROWS", stored.block_rows())
            .flag("NORM", self.norm.is_some())
            .float("OFFSET", if unit { 1.0 } else { 0.0 })
            .loader("load_g", self.g)
            .loader("load_h", self.h)
            .loader("load_norm", norm)
            .helper(REDUCTIONS)
            .param("const void", "stored_g")
            .param("const void", "stored_h")
            .param_if(self.norm.is_some(), "const void", "norm")
            .param("float", "g")
            .param("u16", "h")
            .param("u16", "h_steps")
            .body(&BODY.replace("$SEGMENTS", segments.trim_end()))
    }
}

const BODY: &str = r#"
  __shared__ float scratch[32];
  allow_next();
  wait_for_previous();
  const int set = blockIdx.x, segment = set / PATHS, path = set % PATHS;
  int rows = 0, tiles = 0, first_tile = 0, tile_step = 1, first_block = 0;
$SEGMENTS
  float most = 0.0f;
  for (int i = threadIdx.x; i < D_IN; i += blockDim.x) {
    const float v = load_h(stored_h, (size_t)set * D_IN + i) * (NORM ? OFFSET + load_norm(norm, i) : 1.0f);
    most = fmaxf(most, fabsf(v));
  }
  most = block_reduce<true>(most, scratch);
  // The power of two at or below the largest.
  const float scale = most > 0.0f ? __uint_as_float(max(__float_as_uint(most) & 0x7f800000u, 0x00800000u)) : 1.0f;
  for (int i = threadIdx.x; i < PADDED; i += blockDim.x) {
    float v = 0.0f;
    if (i < D_IN) v = load_h(stored_h, (size_t)set * D_IN + i) * (NORM ? OFFSET + load_norm(norm, i) : 1.0f) / scale;
    h[(size_t)set * PADDED + i] = f32_to_f16(v);
    // The order of the matrix instructions: a lane reads what four of them need at once, of every path.
    const int within = i & 255, half = within >> 7, t = (within >> 5) & 3, pair = (within >> 4) & 1, j = within & 15;
    const size_t four = ((size_t)segment * PADDED + (i & ~255)) / 64 + j / 4;
    h_steps[(four * PATHS + path) * 64 + t * 16 + j % 4 * 4 + half * 2 + pair] = f32_to_f16(v);
  }
  for (int row = threadIdx.x; row < tiles * 16; row += blockDim.x) {
    float v = 0.0f;
    if (row < rows) {
      const size_t block = first_block + row / BLOCK_ROWS;
      v = load_g(stored_g, (block * PATHS + path) * BLOCK_ROWS + row % BLOCK_ROWS) * scale;
    }
    g[((size_t)(first_tile + row / 16 * tile_step) * PATHS + path) * 16 + row % 16] = v;
  }
"#;
