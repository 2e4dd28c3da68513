//! What a block fetches before the kernel ahead has ended, as CUDA C++.

/// Where everything else is, and the copies that a warp of its own asks for.
pub const FETCH: &str = r#"
  float* const squares = (float*)(shared + SQUARES_AT);  // of a part of the inputs and a token; the other blocks get their sums
  float* const inverse = (float*)(shared + INVERSE_AT);  // 1 / rms of a token
  float* const inbox = (float*)(shared + INBOX_AT);
  float* const inbox_squares = (float*)(shared + INBOX_SQUARES_AT);
  // The number of the warp is the same in all lanes, and so known to be; that of the lane stays in its register.
  int lane = threadIdx.x & 31;
  asm volatile("" : "+r"(lane));
  const int warp = __shfl_sync(~0u, threadIdx.x >> 5, 0), t = lane & 3;
  const int group = warp >> 2, member = warp & 3;
  u64* const h_ready = (u64*)(shared + READY_AT);
  u64* const g_ready = h_ready + 1;
  u64* const inbox_ready = h_ready + 2;
  u64* const ready = h_ready + 3;  // of every slot

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

  // A group takes one item after the other: four row tiles, one a warp and with paired segments all of the
  // same one.
  auto tile_of = [&](int item, int which) { return GATE ? (item >> 1) * 8 + (item & 1) + 2 * which : item * 4 + which; };
  // Rows of warp `of` in its group's turn `round`, into the slot whose turn it is.
  auto fetch = [&](int of, int round, int slot) {
    const int tile = tile_of(round * GROUPS + of / 4, of % 4);
    u64* const b = ready + of * SLOTS + slot;
    barrier_expect(b, chunks * (PATHS * 512));
    bulk_copy(shared + SIGNS_AT + (of * SLOTS + slot) * SLOT_BYTES, stream + (size_t)tile * (CHUNKS * PATHS * 512), chunks * (PATHS * 512), b);
  };
  auto has_rows = [&](int of, int round) { return tile_of(round * GROUPS + of / 4, of % 4) < tiles; };

  // How many tokens there are was known before the first kernel of the step.
  const int first_token = blockIdx.y * TOKENS;
  const int tokens = min(TOKENS, $COUNT - first_token);
  const u16* const h_from = h + ((size_t)segment * PATHS * CHUNKS + first_chunk) * 256;
  const float* const g_from = g + (size_t)first_tile * PATHS * 16;
  if (warp == 0) {
    for (int i = lane; i < 3 + WARPS * SLOTS; i += 32) barrier_init(h_ready + i);
    barrier_inits_done();
  }
  for (int i = threadIdx.x; i < SETS * TOKENS; i += blockDim.x) sums[i] = largest[i] = 0;
  __syncthreads();
  if (SPLITS > 1) here_i_am();
  if (warp == WARPS) {
    // One warp fetches for all: a copy that the memory system has no room for yet keeps its thread
    // waiting. Scales are asked for before all signs: they are needed first.
    if (lane == 0) {
      barrier_expect(h_ready, SETS * chunks * 512);
      for (int set = 0; set < SETS; set++)
        bulk_copy(h_here + set * MOST_CHUNKS * 256, h_from + (size_t)set * CHUNKS * 256, chunks * 512, h_ready);
      barrier_expect(g_ready, tiles * PATHS * 64);
      bulk_copy(g_rows, g_from, tiles * PATHS * 64, g_ready);
      // Sums of all blocks of the cluster for the row tiles that this one finishes.
      constexpr int BETWEEN = GATE ? 2 : 1;
      const int wholes = tiles / BETWEEN, owned = (wholes - split + SPLITS - 1) / SPLITS * BETWEEN;
      barrier_expect(inbox_ready, owned * (SPLITS * GROUPS_OF_TOKENS * HOLDERS * 16) + (NORM ? SPLITS * TOKENS * 4 : 0));
    }
    __syncwarp();
    for (int i = lane; i < WARPS * SLOTS; i += 32)
      if (has_rows(i % WARPS, i / WARPS)) fetch(i % WARPS, i / WARPS, i / WARPS);
    __syncwarp();
    if (SPLITS > 1) all_are_here();
    return;
  }
"#;
