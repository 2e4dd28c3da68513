//! What the kernels of attention over whole sequences share: matrix instructions, and the walk of a
//! block of queries over the positions that they see.

/// Warps of a block.
pub(super) const WARPS: usize = 4;

/// Rows of a block, 16 a warp.
pub(super) const TILE: usize = 16 * WARPS;

/// Blocks that run on a multiprocessor at once: heads of few channels leave registers for several,
/// which hide each other's waiting; wider ones for two, or take all there are.
pub(super) fn at_once(channels: usize, blocks: u32) -> u32 {
    match channels {
        0..=64 => blocks,
        65..=128 => 2,
        _ => 1,
    }
}

/// Rows of what passes through shared memory at once, twice: one part is read while the next one
/// arrives. Heads of more channels than `widest` leave registers for half.
pub(super) fn passing(channels: usize, widest: usize) -> usize {
    if channels <= widest { 64 } else { 32 }
}

/// The body of a kernel whose blocks are [`TILE`] queries of a head. It walks over the positions that
/// they see, of which keys and values pass through shared memory a part after the other: `start`
/// prepares the walk, `each` is what a warp does with a part that it sees, in terms of `MASKED`:
/// whether some of its queries do not see all of it; `end` is what comes of the walk.
pub(super) fn by_queries(start: &str, each: &str, end: &str) -> String {
    let [start, end] = [start, end].map(|text| text.trim_start_matches('\n'));
    let each = PARTS.replace("$EACH", each);
    format!("{BLOCK}\n{start}{each}{end}")
}

/// A block's queries, what they see, and the first part of it on its way. Blocks that see most come
/// first.
const BLOCK: &str = r#"
  extern __shared__ __align__(16) u16 staged[];
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, row8 = lane >> 2, t = lane & 3;
  const int head = blockIdx.x, kv_head = head / GROUP, first_query = (gridDim.z - 1 - blockIdx.z) * TILE;
  const size_t first_row = (size_t)blockIdx.y * SEQ_LEN;
  const u16* const q_rows = q + first_row * Q_STRIDE + head * HEAD_DIM;
  const u16* const k_rows = k + first_row * K_STRIDE + kv_head * HEAD_DIM;
  const u16* const v_rows = v + first_row * V_STRIDE + kv_head * HEAD_DIM;
  const int own_query = first_query + warp * 16, last_query = own_query + 15, query0 = own_query + row8;
  const int end = min(SEQ_LEN, first_query + TILE);
  const int begin = WINDOW > 0 ? max(0, first_query + 1 - WINDOW) / PASSING * PASSING : 0;
  stage<PASSING, K_WHOLE, K_STRIDE>(staged, k_rows, begin, end);
  stage<PASSING, V_WHOLE, V_STRIDE>(staged + PASSING * PITCH, v_rows, begin, end);
  commit();
"#;

/// The walk: a part is there, and all warps are done with the one before, which the next one replaces.
const PARTS: &str = r#"
  int turn = 0;
  for (int first = begin; first < end; first += PASSING, turn ^= 1) {
    const u16* const key_rows = staged + turn * 2 * PASSING * PITCH;
    const u16* const value_rows = key_rows + PASSING * PITCH;
    await<0>();
    __syncthreads();
    if (first + PASSING < end) {
      u16* const next = staged + (turn ^ 1) * 2 * PASSING * PITCH;
      stage<PASSING, K_WHOLE, K_STRIDE>(next, k_rows, first + PASSING, end);
      stage<PASSING, V_WHOLE, V_STRIDE>(next + PASSING * PITCH, v_rows, first + PASSING, end);
    }
    commit();
    const int last = first + PASSING - 1;
    if (first > last_query || (WINDOW > 0 && last + WINDOW <= own_query)) continue;
    if (last <= own_query && (WINDOW == 0 || last_query - first < WINDOW)) {
      constexpr bool MASKED = false;
      $EACH;
    } else {
      constexpr bool MASKED = true;
      $EACH;
    }
  }
"#;

/// Matrix instructions on 16 × 16 by 16 × 8 bf16 elements, and what feeds them.
pub(super) const MATRIX: &str = r#"
constexpr int PITCH = CHANNELS + 8, STEPS = CHANNELS / 16, TILES = CHANNELS / 8, BLOCKS = PASSING / 8;
constexpr float LOG2E = 1.4426950409f;
// Products q·k stand for scores as they are where a factor is all that turns them into exponents of 2.
constexpr bool PLAIN = CAP == 0.0f && SCALE > 0.0f;
constexpr float EXPONENT = PLAIN ? SCALE * LOG2E : LOG2E;
__device__ __forceinline__ u32 shared_address(const u16* p) { return (u32)__cvta_generic_to_shared(p); }
__device__ __forceinline__ void matrix_bf16(float* d, const u32* a, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void load_four(u32* r, const u16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void load_four_transposed(u32* r, const u16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}
// The 16 x 16 elements from `at` on as a left factor.
__device__ __forceinline__ void load_left(u32* a, const u16* at) {
  const int lane = threadIdx.x & 31;
  load_four(a, at + (lane & 15) * PITCH + (lane >> 4) * 8);
}
// d += left (16 rows, by steps of 16 channels) times the 8 rows at `rows`, transposed.
__device__ __forceinline__ void times_rows(float* d, const u32 (*left)[4], const u16* rows) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int s = 0; s + 1 < STEPS; s += 2) {
    u32 r[4];
    load_four(r, rows + (lane & 7) * PITCH + s * 16 + (lane >> 3) * 8);
    matrix_bf16(d, left[s], r[0], r[1]);
    matrix_bf16(d, left[s + 1], r[2], r[3]);
  }
  if (STEPS & 1) {
    const u16* const p = rows + (lane >> 2) * PITCH + (STEPS - 1) * 16 + (lane & 3) * 2;
    matrix_bf16(d, left[STEPS - 1], *(const u32*)p, *(const u32*)(p + 8));
  }
}
// d (all channels) += left (16 x 16) times the 16 rows at `rows`.
__device__ __forceinline__ void times_columns(float (*d)[4], const u32* left, const u16* rows) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int i = 0; i < TILES; i += 2) {
    u32 r[4];
    load_four_transposed(r, rows + (lane & 15) * PITCH + i * 8 + (lane >> 4) * 8);
    matrix_bf16(d[i], left, r[0], r[1]);
    matrix_bf16(d[i + 1], left, r[2], r[3]);
  }
}
// Two neighbouring blocks of 16 x 8 results as a left factor.
__device__ __forceinline__ void as_left(u32* a, const float* low, const float* high) {
  a[0] = pack_bf16(low[0], low[1]); a[1] = pack_bf16(low[2], low[3]);
  a[2] = pack_bf16(high[0], high[1]); a[3] = pack_bf16(high[2], high[3]);
}
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING> __device__ __forceinline__ void await() { asm volatile("cp.async.wait_group %0;" :: "n"(PENDING) : "memory"); }
// BYTES bytes into shared memory, or zeros.
template <int BYTES> __device__ __forceinline__ void copy(u32 to, const void* from, bool there) {
  if constexpr (BYTES == 16) asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
  else asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" :: "r"(to), "l"(from), "n"(BYTES), "r"(there ? BYTES : 0) : "memory");
}
// Rows first..first + ROWS of a head into shared memory, zeros beyond `end` and beyond the head. A
// thread's pieces are in one column where all threads make whole rows, so that addresses differ by
// constants.
template <int ROWS, bool WHOLE, int STRIDE> __device__ __forceinline__ void stage(u16* to, const u16* from, int first, int end) {
  constexpr int PIECES = CHANNELS / 8, STEP = THREADS / PIECES;
  if constexpr (WHOLE && THREADS % PIECES == 0 && ROWS % STEP == 0) {
    const int row = threadIdx.x / PIECES, c = threadIdx.x % PIECES * 8, rows = c < HEAD_DIM ? end - first - row : 0;
    const u16* const source = from + (size_t)(first + row) * STRIDE + c;
    const u32 target = shared_address(to) + (row * PITCH + c) * 2;
#pragma unroll
    for (int i = 0; i < ROWS; i += STEP) copy<16>(target + i * PITCH * 2, source + i * STRIDE, i < rows);
  } else if constexpr (WHOLE) {
    for (int i = threadIdx.x; i < ROWS * PIECES; i += THREADS) {
      const int row = i / PIECES, c = i % PIECES * 8;
      const bool there = first + row < end && c < HEAD_DIM;
      copy<16>(shared_address(to + row * PITCH + c), there ? from + (size_t)(first + row) * STRIDE + c : from, there);
    }
  } else {
    for (int i = threadIdx.x; i < ROWS * CHANNELS; i += THREADS) {
      const int row = i / CHANNELS, c = i % CHANNELS;
      const bool there = first + row < end && c < HEAD_DIM;
      to[row * PITCH + c] = there ? from[(size_t)(first + row) * STRIDE + c] : (u16)0;
    }
  }
}
// Two neighbours of row `row` of a head, zeros beyond it.
template <bool WHOLE> __device__ __forceinline__ u32 two(const u16* from, size_t stride, int row, int end, int c) {
  if (row >= end || c >= HEAD_DIM) return 0;
  const u16* const p = from + row * stride + c;
  if constexpr (WHOLE) return *(const u32*)p;
  return p[0] | (c + 1 < HEAD_DIM ? (u32)p[1] << 16 : 0u);
}
// The 16 rows from `first` on of a head as a left factor.
template <bool WHOLE> __device__ __forceinline__ void load_rows(u32 (*a)[4], const u16* from, size_t stride, int first) {
  const int row8 = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3;
#pragma unroll
  for (int s = 0; s < STEPS; s++)
#pragma unroll
    for (int r = 0; r < 4; r++) a[s][r] = two<WHOLE>(from, stride, first + row8 + (r & 1) * 8, SEQ_LEN, s * 16 + t * 2 + (r >> 1) * 8);
}
__device__ __forceinline__ float power2(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
__device__ __forceinline__ float scored(float product) {
  if (PLAIN) return product;
  const float s = product * SCALE;
  return CAP > 0.0f ? CAP * tanh_exact(s / CAP) : s;
}
__device__ __forceinline__ bool sees(int query, int position) {
  return position <= query && (WINDOW == 0 || query - position < WINDOW);
}
"#;

/// Two neighbours of a row, channel `c` the first, to the parameter TO.
pub(super) const PUT_TWO: &str = "
#define PUT(TO, two, at, c) do { if ((c) < HEAD_DIM) write_##TO(2, two, (at) + (c)); } while (0)
";

/// The same where single elements are all that can be stored at once.
pub(super) const PUT_ONE: &str = "
#define PUT(TO, two, at, c) do { \\
    if ((c) < HEAD_DIM) write_##TO(1, two, (at) + (c)); \\
    if ((c) + 1 < HEAD_DIM) write_##TO(1, two + 1, (at) + (c) + 1); \\
  } while (0)
";
