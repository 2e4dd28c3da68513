//! The residual-binary product of a few tokens, on binary tensor cores.
//!
//! u = h_i ⊙ x is quantised: one scale for the inputs of a block, path and token, and whole numbers
//! of 8 or 16 bits, whose bits are put into planes. A binary matrix instruction
//! counts, for 16 rows and 8 planes at once, the inputs whose sign and plane bit are both set; the
//! counts, weighted by powers of two (the highest plane negative), are Σ_{+} q, and
//! Σ ±q = 2 Σ_{+} q − Σ q is exact. Only the quantisation rounds.
//!
//! A cluster of blocks owns a set of row tiles; its blocks split the inputs, so that each input is
//! quantised once a cluster, and leave their sums in the shared memory of the block that finishes
//! the row. A warp owns whole row tiles. Signs are fetched before the kernel ahead has ended, in
//! bulk copies that no instruction waits for.
//!
//! An RMSNorm ahead of the product costs nothing here: its weight is part of h, and 1/rms, which
//! quantisation does not depend on, is a factor at the end.

use rabitc_ir::ops::gate::Activation;
use rabitc_rbx::SmArch;

use crate::cuda::layout::{GpuLayout, TILE_BYTES, TILE_ROWS};
use crate::cuda::source::{
    ACTIVATIONS, Builder, CLUSTER, CudaSpec, NO_CLUSTER, REDUCTIONS, Source,
};

/// What is done with the sums of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// Stored.
    Store,
    /// Added to a residual with rows of so many f32.
    Residual(usize),
    /// act(first segment) ⊙ second segment of a paired layout.
    Gate(Activation),
}

/// How the work is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Blocks of a cluster, which split the inputs: 1, 2, 4 or 8.
    pub splits: usize,
    /// Row tiles of a cluster.
    pub row_tiles: usize,
    /// Warps of a block.
    pub warps: usize,
    /// Row tiles that a warp has in flight.
    pub slots: usize,
}

/// The product of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct RbProduct {
    /// Shape and layout.
    pub layout: GpuLayout,
    /// Tokens at once, 1 to 8.
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
    pub tile: Tile,
}

impl RbProduct {
    /// Blocks of inputs that a split has at most.
    fn most_chunks(&self) -> usize {
        self.layout.input_tiles().div_ceil(self.tile.splits)
    }

    /// Whether two paired segments become one result.
    pub fn gated(&self) -> bool {
        matches!(self.finish, Finish::Gate(_))
    }

    /// Sets of planes for one block of inputs: one a path, and for paired segments of each.
    fn sets(&self) -> usize {
        self.layout.stored.paths * if self.gated() { 2 } else { 1 }
    }

    /// Whether a warp keeps the planes that all of its row tiles need in registers.
    fn keeps_planes(&self) -> bool {
        let few = self.most_chunks() * self.layout.stored.paths <= 4;
        self.tokens == 1 && self.planes == 16 && few && self.tile.row_tiles > self.tile.warps
    }

    /// Bytes of the planes of 256 inputs.
    fn plane_bytes(&self) -> usize {
        self.planes * 32
    }

    /// Units of rows that are finished together: row tiles, or pairs of them.
    fn unit_tiles(&self) -> usize {
        if self.gated() { 2 } else { 1 }
    }

    /// Row tiles that one block finishes at most.
    fn finished(&self) -> usize {
        let units = self.tile.row_tiles.div_ceil(self.unit_tiles());
        units.div_ceil(self.tile.splits) * self.unit_tiles()
    }

    /// Clusters of each segment; paired segments count as one.
    fn segment_clusters(&self) -> Vec<usize> {
        if self.gated() {
            return vec![self.layout.row_tiles().div_ceil(self.tile.row_tiles)];
        }
        let segments = 0..self.layout.stored.segments.len();
        let tiles = segments.map(|s| self.layout.segment_tiles(s));
        tiles.map(|t| t.div_ceil(self.tile.row_tiles)).collect()
    }

    /// Blocks along x.
    pub fn grid(&self) -> usize {
        self.segment_clusters().iter().sum::<usize>() * self.tile.splits
    }

    /// Columns of the result.
    pub fn columns(&self) -> usize {
        let segments = &self.layout.stored.segments;
        if self.gated() {
            segments[0]
        } else {
            segments.iter().sum()
        }
    }

    /// Byte offsets in shared memory: signs, planes, sums, largest inputs, squares, g, inbox, inbox of squares,
    /// barriers, end.
    fn places(&self, bulk: bool) -> [usize; 10] {
        let t = &self.tile;
        let units = self.most_chunks() * self.sets() * self.tokens;
        let slot = self.most_chunks() * self.layout.stored.paths * TILE_BYTES;
        let sizes = [
            if bulk { t.warps * t.slots * slot } else { 0 },
            units * self.plane_bytes(),
            self.sets() * self.tokens * 4,
            self.sets() * self.tokens * 4,
            self.most_chunks() * self.tokens * 4,
            t.row_tiles * self.layout.stored.paths * TILE_ROWS * 4,
            t.splits * self.finished() * self.tokens * TILE_ROWS * 4,
            t.splits * self.tokens * 4,
            t.warps * t.slots * 8,
        ];
        let mut places = [0; 10];
        for (i, size) in sizes.into_iter().enumerate() {
            places[i + 1] = (places[i] + size).next_multiple_of(16);
        }
        places
    }

    /// Bytes of shared memory on an architecture.
    pub fn shared_bytes(&self, arch: SmArch) -> usize {
        self.places(arch.has_clusters())[9]
    }

    /// A C expression that picks a value by the number of the cluster.
    fn by_segment(&self, value: impl Fn(usize) -> usize) -> String {
        let clusters = self.segment_clusters();
        let mut text = value(clusters.len() - 1).to_string();
        let mut end: usize = clusters.iter().sum();
        for s in (0..clusters.len() - 1).rev() {
            end -= clusters[s + 1];
            text = format!("cluster < {end} ? {} : {text}", value(s));
        }
        text
    }
}

impl RbProduct {
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
            "rb_product_{}_t{}{}_b{}_x{}{}{norm}_{finish}",
            self.layout.shape_name(),
            self.tokens,
            if self.by_rows { "rows" } else { "" },
            self.planes,
            self.x_stride,
            if self.x_aligned { "" } else { "u" },
        )
    }
}

impl CudaSpec for RbProduct {
    fn name(&self) -> String {
        let t = &self.tile;
        let problem = self.problem_name();
        let (splits, row_tiles, warps, slots) = (t.splits, t.row_tiles, t.warps, t.slots);
        format!("{problem}_s{splits}r{row_tiles}w{warps}d{slots}")
    }

    fn source(&self, arch: SmArch) -> Source {
        let (layout, t) = (&self.layout, &self.tile);
        let stored = &layout.stored;
        let bulk = arch.has_clusters();
        let clusters = self.segment_clusters();
        let first = |s: usize| clusters[..s].iter().sum::<usize>();
        let paired = self.gated();
        let segment_tiles = |s| {
            if paired {
                layout.row_tiles()
            } else {
                layout.segment_tiles(s)
            }
        };
        let place = self.places(bulk);
        let names = [
            "SIGNS_AT",
            "PLANES_AT",
            "SUMS_AT",
            "LARGEST_AT",
            "SQUARES_AT",
            "G_AT",
            "INBOX_AT",
            "INBOX_SQUARES_AT",
            "READY_AT",
        ];
        let mut b = Builder::new(self.name(), arch, (t.warps * 32) as u32)
            .min_blocks(if t.warps <= 16 && self.tokens <= 2 {
                2
            } else {
                1
            })
            .cluster(t.splits as u32)
            .shared(place[9])
            .int("D_IN", stored.d_in)
            .int("CHUNKS", layout.input_tiles())
            .int("PATHS", stored.paths)
            .int("SETS", self.sets())
            .int("TOKENS", self.tokens)
            .int("PLANES", self.planes)
            .int("SPLITS", t.splits)
            .int("CLUSTER_TILES", t.row_tiles)
            .int("WARPS", t.warps)
            .int("SLOTS", t.slots)
            .int("MOST_CHUNKS", self.most_chunks())
            .int("SLOT_BYTES", self.most_chunks() * stored.paths * TILE_BYTES)
            .int("FINISHED", self.finished())
            .int("X_STRIDE", self.x_stride)
            .int("OUT_STRIDE", self.columns())
            .flag("X_ALIGNED", self.x_aligned)
            .flag("NORM", self.norm.is_some())
            .float("EPS", self.norm.unwrap_or(0.0))
            .flag("RESIDUAL", matches!(self.finish, Finish::Residual(_)))
            .int(
                "R_STRIDE",
                if let Finish::Residual(s) = self.finish {
                    s
                } else {
                    0
                },
            )
            .flag("GATE", paired)
            .flag("BULK", bulk)
            .flag(
                "ONCE",
                self.most_chunks() * self.sets() * self.tokens <= t.warps,
            )
            .flag("KEEP", self.keeps_planes());
        for (name, at) in names.into_iter().zip(place) {
            b = b.int(name, at);
        }
        let act = if let Finish::Gate(act) = self.finish {
            act.name()
        } else {
            "silu"
        };
        let body = BODY
            .replace("$FIRST_CLUSTER", &self.by_segment(first))
            .replace("$SEGMENT_TILES", &self.by_segment(segment_tiles))
            .replace(
                "$FIRST_TILE",
                &self.by_segment(|s| if paired { 0 } else { layout.first_tile(s).0 }),
            )
            .replace("$SEGMENT_ROWS", &self.by_segment(|s| stored.segments[s]))
            .replace(
                "$COLUMN",
                &self.by_segment(|s| if paired { 0 } else { layout.column(s) }),
            )
            .replace("$SEGMENT", &self.by_segment(|s| if paired { 0 } else { s }))
            .replace(
                "$COUNT",
                if self.by_rows {
                    "state->rows"
                } else {
                    "state->tokens"
                },
            )
            .replace("$OUT", if paired { "gated" } else { "out" })
            .replace("$ACT", act);
        b.helper(ACTIVATIONS)
            .helper(REDUCTIONS)
            .helper(if bulk && t.splits > 1 {
                CLUSTER
            } else {
                NO_CLUSTER
            })
            .helper(if bulk { BULK_COPY } else { NO_BULK_COPY })
            .helper(BINARY_MMA)
            .helper(QUANTISE)
            .param("const float", "x")
            .param("const u8", "signs")
            .param("const float", "g")
            .param("const u16", "h")
            .param_if(
                matches!(self.finish, Finish::Residual(_)),
                "const float",
                "residual",
            )
            .param("float", if paired { "gated" } else { "out" })
            .param("const State", "state")
            .body(&body)
    }
}

/// Copies that the memory system carries out; a barrier in shared memory says when they are there.
pub const BULK_COPY: &str = r#"
__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void barrier_init(u64* b) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(shared_address(b)) : "memory");
}
__device__ __forceinline__ void barrier_inits_done() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void fetch(void* to, const void* from, u32 bytes, u64* b) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(shared_address(b)), "r"(bytes) : "memory");
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
               :: "r"(shared_address(to)), "l"(from), "r"(bytes), "r"(shared_address(b)) : "memory");
}
__device__ __forceinline__ void barrier_wait(u64* b, u32 parity) {
  u32 done;
  do {
    asm volatile("{\n .reg .pred p;\n mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n selp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done) : "r"(shared_address(b)), "r"(parity) : "memory");
  } while (!done);
}
"#;

const NO_BULK_COPY: &str = r#"
__device__ __forceinline__ void barrier_init(u64*) {}
__device__ __forceinline__ void barrier_inits_done() {}
__device__ __forceinline__ void fetch(void*, const void*, u32, u64*) {}
__device__ __forceinline__ void barrier_wait(u64*, u32) {}
"#;

/// 16 rows × 256 signs by 256 × 8 plane bits.
const BINARY_MMA: &str = r#"
__device__ __forceinline__ void count_common(int* d, uint4 a, u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}
"#;

/// Whole numbers to planes.
const QUANTISE: &str = r#"
// Transposes an 8 × 8 matrix of bits; byte r of hi:lo is row r.
__device__ __forceinline__ void transpose_bits(u32& lo, u32& hi) {
  u32 t = (lo ^ (lo >> 7)) & 0x00aa00aau; lo ^= t ^ (t << 7);
  t = (hi ^ (hi >> 7)) & 0x00aa00aau; hi ^= t ^ (t << 7);
  t = (lo ^ (lo >> 14)) & 0x0000ccccu; lo ^= t ^ (t << 14);
  t = (hi ^ (hi >> 14)) & 0x0000ccccu; hi ^= t ^ (t << 14);
  const u32 low = (lo & 0x0f0f0f0fu) | ((hi & 0x0f0f0f0fu) << 4);
  hi = (hi & 0xf0f0f0f0u) | ((lo & 0xf0f0f0f0u) >> 4);
  lo = low;
}
// Puts the bits of byte `BYTE` of q[0..8], inputs 8·lane.., into planes 8·BYTE.. as the matrix
// instruction wants them: lane 4·plane + t reads inputs 32·t.. and 128 + 32·t..
template <int BYTE, int WORDS> __device__ __forceinline__ void store_planes(u8* planes, const int* q, int lane) {
  constexpr u32 pick = BYTE ? 0x0051u : 0x0040u;
  u32 lo = __byte_perm(__byte_perm(q[0], q[1], pick), __byte_perm(q[2], q[3], pick), 0x5410);
  u32 hi = __byte_perm(__byte_perm(q[4], q[5], pick), __byte_perm(q[6], q[7], pick), 0x5410);
  transpose_bits(lo, hi);
  u8* to = planes + ((lane >> 2) & 3) * (WORDS * 4) + (BYTE * 2 + (lane >> 4)) * 4 + (lane & 3);
#pragma unroll
  for (int p = 0; p < 8; p++) to[p * (WORDS * 16)] = (u8)((p < 4 ? lo : hi) >> (8 * (p & 3)));
}
__device__ __forceinline__ void unpack_f16(uint4 v, float* to) {
  const u32 words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; i++) { to[2 * i] = f16_to_f32((u16)words[i]); to[2 * i + 1] = f16_to_f32((u16)(words[i] >> 16)); }
}
"#;

const BODY: &str = r#"
  extern __shared__ __align__(128) u8 shared[];
  constexpr int LIMIT = PLANES == 16 ? 32700 : 127;
  constexpr int WORDS = PLANES / 4;  // words of planes that a lane reads
  constexpr int GROUP = TOKENS % 4 == 0 ? 4 : TOKENS;  // tokens whose counts are in registers together
  int* const sums = (int*)(shared + SUMS_AT);        // Σ q of a set and token
  u32* const largest = (u32*)(shared + LARGEST_AT);  // max |u| of a set and token, as bits
  float* const squares = (float*)(shared + SQUARES_AT);
  float* const g_rows = (float*)(shared + G_AT);
  float* const inbox = (float*)(shared + INBOX_AT);
  float* const inbox_squares = (float*)(shared + INBOX_SQUARES_AT);
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, t = lane & 3;
  u64* const ready = (u64*)(shared + READY_AT) + warp * SLOTS;
  u8* const slots = shared + SIGNS_AT + warp * SLOTS * SLOT_BYTES;

  // This cluster's row tiles, this block's inputs.
  const int split = blockIdx.x % SPLITS, cluster = blockIdx.x / SPLITS;
  const int first_cluster = $FIRST_CLUSTER;
  const int segment = $SEGMENT;
  const int begin = (cluster - first_cluster) * CLUSTER_TILES;
  const int tiles = min(CLUSTER_TILES, ($SEGMENT_TILES) - begin);
  const int first_tile = ($FIRST_TILE) + begin;
  const int segment_rows = $SEGMENT_ROWS;
  const int first_chunk = split * CHUNKS / SPLITS;
  const int chunks = (split + 1) * CHUNKS / SPLITS - first_chunk;
  const u8* const stream = signs + ((size_t)first_tile * CHUNKS + first_chunk) * PATHS * 512;
  const u32 tile_bytes = chunks * PATHS * 512;

  allow_next();
  if (SPLITS > 1) cluster_arrive();
  if (BULK) {
    if (lane == 0) {
#pragma unroll
      for (int s = 0; s < SLOTS; s++) barrier_init(ready + s);
      barrier_inits_done();
#pragma unroll
      for (int s = 0; s < SLOTS; s++)
        if (warp + s * WARPS < tiles)
          fetch(slots + s * SLOT_BYTES, stream + (size_t)(warp + s * WARPS) * CHUNKS * PATHS * 512, tile_bytes, ready + s);
    }
    __syncwarp();
  }
  for (int i = threadIdx.x; i < SETS * TOKENS; i += WARPS * 32) sums[i] = largest[i] = 0;
  for (int i = threadIdx.x; i < tiles * PATHS * 16; i += WARPS * 32) g_rows[i] = g[(size_t)first_tile * PATHS * 16 + i];
  const int sets = chunks * SETS;
  uint4 first_h = make_uint4(0, 0, 0, 0);
  const u16* const h_lane = h + ((size_t)segment * PATHS * CHUNKS + first_chunk) * 256 + lane * 8;
  if (warp / TOKENS < sets) {
    const int unit = warp / TOKENS;
    first_h = *(const uint4*)(h_lane + ((size_t)(unit % SETS) * CHUNKS + unit / SETS) * 256);
  }
  __syncthreads();
  wait_for_previous();
  const int first_token = blockIdx.y * TOKENS;
  const int tokens = TOKENS == 1 ? 1 : min(TOKENS, $COUNT - first_token);

  // What the end needs of other tensors, asked for early.
  const int mine_row = threadIdx.x & 15, mine_token = (threadIdx.x >> 4) % TOKENS, mine_unit = (threadIdx.x >> 4) / TOKENS;
  float early_residual = 0.0f;
  if (RESIDUAL) {
    const int row = (begin + mine_unit * SPLITS + split) * 16 + mine_row;
    if (mine_unit * SPLITS + split < tiles && row < segment_rows && mine_token < tokens)
      early_residual = residual[(size_t)(first_token + mine_token) * R_STRIDE + ($COLUMN) + row];
  }

  // Quantise: a warp takes 256 inputs of a path and token. One scale serves all inputs of the block,
  // so that the matrix instructions can add up whole numbers.
  float v[8];
  auto load = [&](int unit) {
    const int set = unit / TOKENS, token = unit % TOKENS, chunk = set / SETS;
    const int input = (first_chunk + chunk) * 256 + lane * 8;
    const float* from = x + (size_t)(first_token + token) * X_STRIDE + input;
    if (X_ALIGNED) {
      const bool inside = input < D_IN;
      const float4 zero = make_float4(0, 0, 0, 0);
      const float4 a = inside ? *(const float4*)from : zero, b = inside ? *(const float4*)(from + 4) : zero;
      v[0] = a.x; v[1] = a.y; v[2] = a.z; v[3] = a.w; v[4] = b.x; v[5] = b.y; v[6] = b.z; v[7] = b.w;
    } else {
#pragma unroll
      for (int i = 0; i < 8; i++) v[i] = input + i < D_IN ? from[i] : 0.0f;
    }
  };
  auto scale_by_h = [&](int unit) {
    const int set = unit / TOKENS, chunk = set / SETS;
    float h8[8];
    unpack_f16(unit == warp ? first_h : *(const uint4*)(h_lane + ((size_t)(set % SETS) * CHUNKS + chunk) * 256), h8);
#pragma unroll
    for (int i = 0; i < 8; i++) v[i] *= h8[i];
  };
  for (int unit = warp; unit < sets * TOKENS; unit += WARPS) {
    const int set = unit / TOKENS, token = unit % TOKENS, chunk = set / SETS;
    if (token >= tokens) continue;
    load(unit);
    if (NORM && set % SETS == 0) {
      float square = 0.0f;
#pragma unroll
      for (int i = 0; i < 8; i++) square = fmaf(v[i], v[i], square);
      square = warp_sum(square);
      if (lane == 0) squares[chunk * TOKENS + token] = square;
    }
    scale_by_h(unit);
    float most = 0.0f;
#pragma unroll
    for (int i = 0; i < 8; i++) most = fmaxf(most, fabsf(v[i]));
    most = __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(most)));
    if (lane == 0) atomicMax(largest + set % SETS * TOKENS + token, __float_as_uint(most));
  }
  __syncthreads();
  for (int unit = warp; unit < sets * TOKENS; unit += WARPS) {
    const int set = unit / TOKENS, token = unit % TOKENS;
    if (token >= tokens) continue;
    if (!ONCE) {
      load(unit);
      scale_by_h(unit);
    }
    const float most = __uint_as_float(largest[set % SETS * TOKENS + token]);
    const float inverse = most > 0.0f ? __fdividef((float)LIMIT, most) : 0.0f;
    int q[8], sum = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) { q[i] = __float2int_rn(v[i] * inverse); sum += q[i]; }
    u8* const planes = shared + PLANES_AT + unit * (PLANES * 32);
    store_planes<0, WORDS>(planes, q, lane);
    if (PLANES == 16) store_planes<1, WORDS>(planes, q, lane);
    sum = __reduce_add_sync(~0u, sum);
    if (lane == 0) atomicAdd(sums + set % SETS * TOKENS + token, sum);
  }
  __syncthreads();
  if (SPLITS > 1) cluster_wait();  // every block of the cluster runs: its memory can be written

  // Count: a warp takes row tiles, all of its inputs and paths. With paired segments, all tiles of
  // a warp are of the same one, since there is an even number of warps.
  const float weight = 2.0f * (1 << (2 * t));
  const int set0 = GATE ? (warp & 1) * PATHS : 0;
  auto planes_of = [&](int chunk, int path, int k) {
    return shared + PLANES_AT + ((chunk * SETS + set0 + path) * TOKENS + k) * (PLANES * 32) + lane * (WORDS * 4);
  };
  float scale[PATHS][TOKENS], correction[PATHS][TOKENS];
  uint4 kept[KEEP ? MOST_CHUNKS : 1][KEEP ? PATHS : 1];
#pragma unroll
  for (int path = 0; path < PATHS; path++)
#pragma unroll
    for (int k = 0; k < TOKENS; k++) {
      scale[path][k] = correction[path][k] = 0.0f;
      if (TOKENS > 1 && k >= tokens) continue;
      const int at = (set0 + path) * TOKENS + k;
      const float unit = __uint_as_float(largest[at]) * (1.0f / LIMIT);
      scale[path][k] = unit * weight;
      correction[path][k] = t == 0 ? unit * (float)sums[at] : 0.0f;
    }
  if (KEEP) {
#pragma unroll
    for (int chunk = 0; chunk < MOST_CHUNKS; chunk++)
#pragma unroll
      for (int path = 0; path < PATHS; path++)
        kept[KEEP ? chunk : 0][KEEP ? path : 0] = chunk < chunks ? *(const uint4*)planes_of(chunk, path, 0) : make_uint4(0, 0, 0, 0);
  }
  for (int i = 0, tile = warp; tile < tiles; i++, tile += WARPS) {
    const int slot = i % SLOTS;
    if (BULK) barrier_wait(ready + slot, (i / SLOTS) & 1);
    const uint4* const words = BULK ? (const uint4*)(slots + slot * SLOT_BYTES) + lane
                                    : (const uint4*)(stream + (size_t)tile * CHUNKS * PATHS * 512) + lane;
    float total[TOKENS][2];
#pragma unroll
    for (int k = 0; k < TOKENS; k++) total[k][0] = total[k][1] = 0.0f;
#pragma unroll
    for (int path = 0; path < PATHS; path++) {
#pragma unroll
     for (int k0 = 0; k0 < TOKENS; k0 += GROUP) {
      int low[GROUP][4], high[GROUP][4];
#pragma unroll
      for (int k = 0; k < GROUP; k++)
#pragma unroll
        for (int j = 0; j < 4; j++) low[k][j] = high[k][j] = 0;
#pragma unroll
      for (int chunk = 0; chunk < MOST_CHUNKS; chunk++) {
        if (chunk >= chunks) break;
        const uint4 a = words[(chunk * PATHS + path) * 32];
#pragma unroll
        for (int k = 0; k < GROUP; k++) {
          if (TOKENS > 1 && k0 + k >= tokens) break;
          if (PLANES == 16) {
            const uint4 b = KEEP ? kept[KEEP ? chunk : 0][KEEP ? path : 0] : *(const uint4*)planes_of(chunk, path, k0 + k);
            count_common(low[k], a, b.x, b.y);
            count_common(high[k], a, b.z, b.w);
          } else {
            const uint2 b = *(const uint2*)planes_of(chunk, path, k0 + k);
            count_common(low[k], a, b.x, b.y);
          }
        }
      }
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float factor = g_rows[(tile * PATHS + path) * 16 + half * 8 + (lane >> 2)];
#pragma unroll
        for (int k = 0; k < GROUP; k++) {
          int v;
          if (PLANES == 16) {
            v = low[k][2 * half] + 2 * low[k][2 * half + 1];
            v += 256 * (high[k][2 * half] + (t == 3 ? -2 : 2) * high[k][2 * half + 1]);
          } else {
            v = low[k][2 * half] + (t == 3 ? -2 : 2) * low[k][2 * half + 1];
          }
          total[k0 + k][half] = fmaf(factor, scale[path][k0 + k] * (float)v - correction[path][k0 + k], total[k0 + k][half]);
        }
      }
     }
    }
    if (BULK && tile + SLOTS * WARPS < tiles) {
      __syncwarp();
      if (lane == 0)
        fetch(slots + slot * SLOT_BYTES, stream + (size_t)(tile + SLOTS * WARPS) * CHUNKS * PATHS * 512, tile_bytes, ready + slot);
    }
    // The four lanes of a row hold different planes.
    const int unit = GATE ? tile >> 1 : tile;
    const int owner = unit % SPLITS, local = GATE ? (unit / SPLITS) * 2 + (tile & 1) : unit / SPLITS;
    float* const to = inbox + ((split * FINISHED + local) * TOKENS) * 16 + (lane >> 2);
#pragma unroll
    for (int k = 0; k < TOKENS; k++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float v = total[k][half];
        v += __shfl_xor_sync(~0u, v, 1);
        v += __shfl_xor_sync(~0u, v, 2);
        if (t == ((2 * k + half) & 3)) store_remote(to + k * 16 + half * 8, owner, v);
      }
  }
  if (NORM && threadIdx.x < SPLITS * TOKENS) {
    const int rank = threadIdx.x / TOKENS, token = threadIdx.x % TOKENS;
    float square = 0.0f;
    for (int chunk = 0; chunk < chunks; chunk++) square += squares[chunk * TOKENS + token];
    store_remote(inbox_squares + split * TOKENS + token, rank, square);
  }
  if (SPLITS > 1) cluster_arrive();
  cluster_wait();

  // Finish the rows that are this block's.
  constexpr int STEP = GATE ? 2 : 1;
  for (int item = threadIdx.x; item < FINISHED / STEP * TOKENS * 16; item += WARPS * 32) {
    const int in_tile = item & 15, token = (item >> 4) % TOKENS, local = (item >> 4) / TOKENS;
    const int unit = local * SPLITS + split, tile = unit * STEP;
    const int row = (GATE ? begin / 2 + unit : begin + tile) * 16 + in_tile;
    if (tile >= tiles || row >= segment_rows || token >= tokens) continue;
    float v = 0.0f, up = 0.0f, square = 0.0f;
#pragma unroll
    for (int s = 0; s < SPLITS; s++) {
      v += inbox[((s * FINISHED + local * STEP) * TOKENS + token) * 16 + in_tile];
      if (GATE) up += inbox[((s * FINISHED + local * STEP + 1) * TOKENS + token) * 16 + in_tile];
      if (NORM) square += inbox_squares[s * TOKENS + token];
    }
    if (NORM) {
      const float inverse = rsqrtf(square / D_IN + EPS);
      v *= inverse;
      up *= inverse;
    }
    if (GATE) v = $ACT(v) * up;
    const size_t column = ($COLUMN) + row;
    if (RESIDUAL) v += item < WARPS * 32 ? early_residual : residual[(size_t)(first_token + token) * R_STRIDE + column];
    $OUT[(size_t)(first_token + token) * OUT_STRIDE + column] = v;
  }
"#;
