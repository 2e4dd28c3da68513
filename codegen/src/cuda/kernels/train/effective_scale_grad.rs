//! The gradients of a residual-binary layer's scales, its cores derived on the way.

use rabitc_rbx::SmArch;

use super::effective_weight::Cores;
use super::{Layout, builder, finish, input};
use crate::cuda::source::{CudaSpec, REDUCTIONS, Source};

/// A block a tile of some rows × [`COLUMNS`]. It leaves dg of its rows, f32
/// `[column tiles, paths, d_out]`, and dh of its columns, f32 `[row tiles, paths, d_in]`.
#[derive(Clone, Debug, PartialEq)]
pub struct EffectiveScaleGrad {
    /// The gradient of the effective weight.
    pub dweight: Layout,
    /// The cores.
    pub cores: Cores,
    /// Leading paths that get zeros.
    pub frozen: usize,
}

/// Columns of a tile, 4 a lane.
pub const COLUMNS: usize = 128;
/// Tiles that suffice to keep a GPU busy: where there are more, they get more rows, so that less is
/// left to be added up.
const ENOUGH: usize = 256;

impl EffectiveScaleGrad {
    /// Rows of a tile: as many for each of its 8 warps.
    fn rows(&self) -> usize {
        let Layout { rows, columns, .. } = self.dweight;
        let across = columns.div_ceil(COLUMNS);
        let fits = |tile: &usize| across * rows.div_ceil(*tile) >= ENOUGH;
        [64, 32, 16].into_iter().find(fits).unwrap_or(8)
    }

    /// Tiles along the columns, and along the rows.
    pub fn tiles(&self) -> [usize; 2] {
        let Layout { rows, columns, .. } = self.dweight;
        [columns.div_ceil(COLUMNS), rows.div_ceil(self.rows())]
    }
}

impl CudaSpec for EffectiveScaleGrad {
    fn name(&self) -> String {
        let (dweight, cores) = (self.dweight.word(), self.cores.word());
        format!("effective_scale_grad_{dweight}_{cores}_f{}", self.frozen)
    }

    fn source(&self, arch: SmArch) -> Source {
        let whole = Layout::common(&[self.dweight, self.cores.latent]) >= 4;
        let b = builder(self.name(), arch, 256)
            .int("V", if whole { 4 } else { 1 })
            .int("FROZEN", self.frozen)
            .int("ROWS", self.rows())
            .int("COLUMNS", COLUMNS)
            .int("DWEIGHT_STRIDE", self.dweight.stride)
            .helper(REDUCTIONS);
        let b = self.cores.params(input(b, "dweight", self.dweight.dtype));
        finish(b.param("float", "dg").param("float", "dh"), BODY)
    }
}

/// Lane l has columns l·V + i·32·V of the tile, so that reads are dense whatever V is.
const BODY: &str = r#"
  constexpr int PIECES = COLUMNS / (32 * V), WARP_ROWS = ROWS / 8;
  __shared__ float sums[8][PATHS][COLUMNS];
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const int first_row = blockIdx.y * ROWS + warp * WARP_ROWS, first_column = blockIdx.x * COLUMNS;
  float down[PATHS][PIECES][V];
#pragma unroll
  for (int path = 0; path < PATHS; path++)
#pragma unroll
    for (int p = 0; p < PIECES; p++)
#pragma unroll
      for (int j = 0; j < V; j++) down[path][p][j] = 0.0f;
  for (int r = 0; r < WARP_ROWS; r++) {
    const int row = first_row + r;
    if (row >= D_OUT) break;
    float across[PATHS];
#pragma unroll
    for (int path = 0; path < PATHS; path++) across[path] = 0.0f;
#pragma unroll
    for (int p = 0; p < PIECES; p++) {
      const int column = first_column + (p * 32 + lane) * V;
      if (column >= D_IN) continue;
      float w[LATENTS][V], pull[V];
      READ_LATENTS((size_t)row * STRIDE + column)
      read_dweight(V, pull, (size_t)row * DWEIGHT_STRIDE + column);
#pragma unroll
      for (int path = 0; path < PATHS; path++) {
        const float scale = g[path * D_OUT + row];
#pragma unroll
        for (int j = 0; j < V; j++) {
          const float channel = h[path * D_IN + column + j];
          const bool positive = derive_sign(w[RESIDUAL ? 0 : path][j], scale, channel);
          const float own = positive ? pull[j] : -pull[j];
          if (path >= FROZEN) { across[path] += own * channel; down[path][p][j] += own * scale; }
        }
      }
    }
#pragma unroll
    for (int path = 0; path < PATHS; path++) {
      const float sum = warp_sum(across[path]);
      if (lane == 0) dg[((size_t)blockIdx.x * PATHS + path) * D_OUT + row] = sum;
    }
  }
#pragma unroll
  for (int path = 0; path < PATHS; path++)
#pragma unroll
    for (int p = 0; p < PIECES; p++)
#pragma unroll
      for (int j = 0; j < V; j++) sums[warp][path][(p * 32 + lane) * V + j] = down[path][p][j];
  __syncthreads();
  for (int i = threadIdx.x; i < PATHS * COLUMNS; i += 256) {
    const int path = i / COLUMNS, column = first_column + i % COLUMNS;
    float sum = 0.0f;
#pragma unroll
    for (int warp = 0; warp < 8; warp++) sum += sums[warp][path][i % COLUMNS];
    if (column < D_IN) dh[((size_t)blockIdx.y * PATHS + path) * D_IN + column] = sum;
  }
"#;

/// Adds up what the tiles left and puts dg and dh side by side, `[paths, d_out + d_in]`.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinScaleGrads {
    /// Binary paths.
    pub paths: usize,
    /// Rows of the weight.
    pub d_out: usize,
    /// Columns of the weight.
    pub d_in: usize,
    /// Tiles along the columns and along the rows.
    pub tiles: [usize; 2],
}

impl JoinScaleGrads {
    /// Blocks of a launch.
    pub fn blocks(&self) -> usize {
        (self.paths * (self.d_out + self.d_in)).div_ceil(32)
    }
}

impl CudaSpec for JoinScaleGrads {
    fn name(&self) -> String {
        let (paths, d_out, d_in) = (self.paths, self.d_out, self.d_in);
        format!("join_scale_grads_k{paths}_{d_out}x{d_in}")
    }

    fn source(&self, arch: SmArch) -> Source {
        let b = builder(self.name(), arch, 256)
            .int("PATHS", self.paths)
            .int("D_OUT", self.d_out)
            .int("D_IN", self.d_in)
            .int("G_TILES", self.tiles[0])
            .int("H_TILES", self.tiles[1])
            .param("const float", "dg")
            .param("const float", "dh")
            .param("float", "out");
        finish(b, JOIN)
    }
}

const JOIN: &str = r#"
  __shared__ float parts[8][33];
  const int lane = threadIdx.x & 31, part = threadIdx.x >> 5, i = blockIdx.x * 32 + lane;
  float sum = 0.0f;
  if (i < PATHS * (D_OUT + D_IN)) {
    const int path = i / (D_OUT + D_IN), channel = i % (D_OUT + D_IN);
    const bool of_g = channel < D_OUT;
    const float* from = of_g ? dg + path * D_OUT + channel : dh + path * D_IN + (channel - D_OUT);
    const size_t step = (size_t)PATHS * (of_g ? D_OUT : D_IN);
    for (int tile = part; tile < (of_g ? G_TILES : H_TILES); tile += 8) sum += from[tile * step];
  }
  parts[part][lane] = sum;
  __syncthreads();
  if (part == 0 && i < PATHS * (D_OUT + D_IN)) {
    for (int other = 1; other < 8; other++) sum += parts[other][lane];
    out[i] = sum;
  }
"#;
