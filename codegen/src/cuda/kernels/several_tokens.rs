//! What the products of 2 to 16 tokens have in common, whatever instructions they count with.

use rabitc_ir::ops::gate::Activation;

use super::finish::Finish;
use super::segments;
use crate::cuda::layout::{GpuLayout, TILE_ROWS};
use crate::cuda::source::Builder;

/// A scale whose largest input is not above this is zero: its inverse would not be finite.
const SMALLEST: f32 = 1e-30;

/// The product of a layer for several tokens, however the work is cut.
#[derive(Clone, Debug, PartialEq)]
pub struct SeveralTokens {
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
}

impl SeveralTokens {
    /// A name of the problem for kernels of a `kind`.
    pub fn name(&self, kind: &str) -> String {
        let finish = match self.finish {
            Finish::Store => "store".into(),
            Finish::Residual(stride) => format!("add{stride}"),
            Finish::Gate(act) => act.name().to_string(),
        };
        let norm = self
            .norm
            .map_or(String::new(), |e| format!("_norm{:08x}", e.to_bits()));
        format!(
            "{kind}_{}_t{}{}_b{}_x{}{}{norm}_{finish}",
            self.layout.shape_name(),
            self.tokens,
            if self.by_rows { "rows" } else { "" },
            self.planes,
            self.x_stride,
            if self.x_aligned { "" } else { "u" },
        )
    }

    /// Whether two segments are computed together and gated.
    pub fn gated(&self) -> bool {
        matches!(self.finish, Finish::Gate(_))
    }

    /// Sets of scales for one block of inputs: one a path, and for paired segments of each.
    pub fn sets(&self) -> usize {
        self.layout.stored.paths * if self.gated() { 2 } else { 1 }
    }

    /// Tokens that share eight columns of a matrix instruction.
    pub fn columns(&self) -> usize {
        self.tokens.min(8)
    }

    /// Eights of columns for the planes of as many tokens as share one.
    pub fn steps(&self) -> usize {
        self.planes * self.columns() / 8
    }

    /// Columns of the result.
    pub fn width(&self) -> usize {
        let segments = &self.layout.stored.segments;
        match self.gated() {
            true => segments[0],
            false => segments.iter().sum(),
        }
    }

    /// Clusters of each segment that have `row_tiles` each; paired segments count as one.
    pub fn segment_clusters(&self, row_tiles: usize) -> Vec<usize> {
        let each = |tiles: usize| tiles.div_ceil(row_tiles);
        match self.gated() {
            true => vec![each(self.layout.row_tiles())],
            false => (0..self.layout.stored.segments.len())
                .map(|s| each(self.layout.segment_tiles(s)))
                .collect(),
        }
    }

    /// Row tiles of `row_tiles` that one block of a cluster finishes at most, where it has `splits`.
    pub fn finished(&self, row_tiles: usize, splits: usize) -> usize {
        let unit = if self.gated() { 2 } else { 1 };
        (row_tiles / unit).div_ceil(splits) * unit
    }

    /// Bytes of the planes of `chunks` blocks of inputs.
    pub fn plane_bytes(&self, chunks: usize) -> usize {
        chunks * self.sets() * self.tokens * self.planes * 32
    }

    /// Bytes of the sums of `tiles` row tiles.
    pub fn sum_bytes(&self, tiles: usize) -> usize {
        tiles * self.tokens * TILE_ROWS * 4
    }

    /// The constants that do not depend on how the work is cut.
    pub(super) fn declare(&self, b: Builder) -> Builder {
        let stored = &self.layout.stored;
        b.int("D_IN", stored.d_in)
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
            .int("X_STRIDE", self.x_stride)
            .int("OUT_STRIDE", self.width())
            .flag("X_ALIGNED", self.x_aligned)
            .flag("NORM", self.norm.is_some())
            .float("EPS", self.norm.unwrap_or(0.0))
            .float("SMALLEST", SMALLEST)
            .flag("RESIDUAL", self.finish.residual().is_some())
            .int("R_STRIDE", self.finish.residual().unwrap_or(0))
            .flag("GATE", self.gated())
    }

    /// The parameters.
    pub(super) fn params(&self, b: Builder) -> Builder {
        b.param("const float", "x")
            .param("const u8", "signs")
            .param("const float", "g")
            .param("const u16", "h")
            .param_if(self.finish.residual().is_some(), "const float", "residual")
            .param("float", self.result())
            .param("const State", "state")
    }

    /// The parameter that takes the result: what comes out of a gate is not the product.
    fn result(&self) -> &'static str {
        if self.gated() { "gated" } else { "out" }
    }

    /// A kernel's text with what depends on the segment of a cluster of `row_tiles`, and on the problem.
    pub(super) fn fill(&self, text: &str, row_tiles: usize) -> String {
        let (layout, paired) = (&self.layout, self.gated());
        let clusters = self.segment_clusters(row_tiles);
        let by_segment = |value: &dyn Fn(usize) -> usize| segments::by_cluster(&clusters, value);
        let unless_paired = |value: usize| if paired { 0 } else { value };
        let tiles = |s: usize| match paired {
            true => layout.row_tiles(),
            false => layout.segment_tiles(s),
        };
        let act = self.finish.gate().unwrap_or(Activation::Silu);
        let count = match self.by_rows {
            true => "state->rows",
            false => "state->tokens",
        };
        let values = [
            (
                "$FIRST_CLUSTER",
                by_segment(&|s| clusters[..s].iter().sum()),
            ),
            ("$SEGMENT_TILES", by_segment(&tiles)),
            ("$SEGMENT_ROWS", by_segment(&|s| layout.stored.segments[s])),
            (
                "$FIRST_TILE",
                by_segment(&|s| unless_paired(layout.first_tile(s).0)),
            ),
            ("$COLUMN", by_segment(&|s| unless_paired(layout.column(s)))),
            ("$SEGMENT", by_segment(&unless_paired)),
            ("$COUNT", count.into()),
            ("$OUT", self.result().into()),
            ("$ACT", act.name().into()),
        ];
        let mut filled = text.replace("\n\n", "\n");
        for (name, value) in values {
            filled = filled.replace(name, &value);
        }
        filled
    }
}

/// Byte offsets in shared memory.
pub(super) struct Places {
    /// Name and offset of each part.
    pub named: Vec<(&'static str, usize)>,
    /// Bytes in all.
    pub end: usize,
}

impl Places {
    /// Parts of so many bytes each, one behind the other.
    pub fn new(sizes: &[(&'static str, usize)]) -> Places {
        let mut places = Places {
            named: Vec::new(),
            end: 0,
        };
        for (name, size) in sizes {
            places.named.push((name, places.end));
            places.end += size.next_multiple_of(128);
        }
        places
    }
}

/// Where a block has its scales, and what it learns of its inputs.
pub(super) const PLACES: &str = r#"
  extern __shared__ __align__(128) u8 shared[];
  u16* const h_here = (u16*)(shared + H_AT);         // [set][chunk][256]
  float* const g_rows = (float*)(shared + G_AT);     // [tile][path][16]
  int* const sums = (int*)(shared + SUMS_AT);        // Σ q of a set and token
  u32* const largest = (u32*)(shared + LARGEST_AT);  // max |u| of a set and token, as bits
"#;

/// The warps that compute wait for each other; there may be one more.
pub(super) const WORKERS: &str = r#"
__device__ __forceinline__ void workers_meet() { asm volatile("bar.sync 1, %0;" :: "n"(WARPS * 32) : "memory"); }
"#;

/// The same names where a block is alone.
pub(super) const NO_REMOTE: &str = r#"
__device__ __forceinline__ void here_i_am() {}
__device__ __forceinline__ void all_are_here() {}
__device__ __forceinline__ u32 remote_address(const void* p, int) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void send(u32 to, float v, u32) { asm volatile("st.shared.f32 [%0], %1;" :: "r"(to), "f"(v) : "memory"); }
__device__ __forceinline__ void send4(u32 to, const float* v, u32) {
  asm volatile("st.shared.v4.f32 [%0], {%1,%2,%3,%4};" :: "r"(to), "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3]) : "memory");
}
__device__ __forceinline__ void all_is_sent(u64*) { workers_meet(); }
"#;

/// Sums of the blocks of a cluster meet, and rows are finished.
pub(super) const FINISH: &str = r#"
  if (NORM) {
    for (int i = threadIdx.x; i < SPLITS * TOKENS; i += WARPS * 32) {
      const int rank = i / TOKENS, token = i % TOKENS;
      float square = 0.0f;
      for (int i = 0; i < SQUARES; i++) square += squares[i * TOKENS + token];
      send(remote_address(inbox_squares + split * TOKENS + token, rank), square, remote_address(inbox_ready, rank));
    }
  }
  constexpr int STEP = GATE ? 2 : 1, SOURCES = SPLITS * PARTS;
  // A thread has the sums of two rows and two tokens, as they were stored: where, and which.
  struct Held { int from, tile, row, token; };
  auto held_by = [&](int item) {
    const int holder = item % HOLDERS, k = item / HOLDERS % GROUPS_OF_TOKENS, local = item / (HOLDERS * GROUPS_OF_TOKENS);
    const int whole = local * SPLITS + split, tile = whole * STEP;
    return Held{(local * STEP * GROUPS_OF_TOKENS + k) * HOLDERS + holder, tile,
                (GATE ? begin / 2 + whole : begin + tile) * 16 + holder / (COLUMNS / 2), k * COLUMNS + holder % (COLUMNS / 2) * 2};
  };
  auto there = [&](const Held& held, int j) {
    return held.tile < tiles && held.row + (j >> 1) * 8 < segment_rows && held.token + (j & 1) < tokens;
  };
  auto rest_of = [&](const Held& held, int j) {
    const size_t token = first_token + held.token + (j & 1);
    return there(held, j) ? residual[token * R_STRIDE + ($COLUMN) + held.row + (j >> 1) * 8] : 0.0f;
  };
  constexpr int ITEMS = FINISHED / STEP * GROUPS_OF_TOKENS * HOLDERS;
  // The first residuals come while the sums of other blocks do.
  float early[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  if (RESIDUAL && threadIdx.x < ITEMS) {
    const Held held = held_by(threadIdx.x);
#pragma unroll
    for (int j = 0; j < 4; j++) early[j] = rest_of(held, j);
  }
  all_is_sent(inbox_ready);
  if (NORM) {
    if (threadIdx.x < TOKENS) {
      float square = 0.0f;
#pragma unroll
      for (int s = 0; s < SPLITS; s++) square += inbox_squares[s * TOKENS + threadIdx.x];
      inverse[threadIdx.x] = rsqrtf(square / D_IN + EPS);
    }
    workers_meet();
  }
  for (int item = threadIdx.x; item < ITEMS; item += WARPS * 32) {
    const Held held = held_by(item);
    if (!there(held, 0)) continue;
    float v[4] = {0.0f, 0.0f, 0.0f, 0.0f}, up[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    const float4* const from = (const float4*)inbox + held.from;
#pragma unroll
    for (int s = 0; s < SOURCES; s++) {
      const float4 a = from[s * (FINISHED * GROUPS_OF_TOKENS * HOLDERS)];
      v[0] += a.x; v[1] += a.y; v[2] += a.z; v[3] += a.w;
      if (GATE) {
        const float4 b = from[(s * FINISHED + 1) * (GROUPS_OF_TOKENS * HOLDERS)];
        up[0] += b.x; up[1] += b.y; up[2] += b.z; up[3] += b.w;
      }
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
      if (!there(held, j)) continue;
      const int token = held.token + (j & 1);
      float result = v[j];
      if (NORM) result *= inverse[token];
      if (GATE) result = $ACT(result) * (NORM ? up[j] * inverse[token] : up[j]);
      if (RESIDUAL) result += item < WARPS * 32 ? early[j] : rest_of(held, j);
      $OUT[(size_t)(first_token + token) * OUT_STRIDE + ($COLUMN) + held.row + (j >> 1) * 8] = result;
    }
  }
"#;
