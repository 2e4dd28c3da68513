//! Counts of a group of four warps, as CUDA C++.

/// The matrix instruction, in both forms. `$COUNTS` and the names after it are filled in.
pub const MATRIX: &str = r#"
__device__ __forceinline__ void planes_are_written() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
// Adds what 64 rows, 16 a warp, have in common with the planes of 256 inputs; begins anew unless `more`.
__device__ __forceinline__ void count_common(int* d, const uint4& a, u32 planes, bool more, int) {
  // Eights of columns are 256 bytes apart, halves of their inputs 128.
  const u64 b = ((u64)16 << 32 | 8 << 16) + ((planes & 0x3ffff) >> 4);
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, $MORE, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n$COLUMNSk256.s32.b1.b1.and.popc {"
      "$COUNTS},"
      "{$A0,$A1,$A2,$A3}, $B, p;\n}"
      : $OUTPUTS
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "l"(b), "r"((int)more));
}
__device__ __forceinline__ void begin_counting() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void chain_begun() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until no more than LEFT of the chains begun are under way.
template <int LEFT> __device__ __forceinline__ void end_counting(int* d) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(LEFT) : "memory");
#pragma unroll
  for (int i = 0; i < EIGHT * 4; i++) asm volatile("" : "+r"(d[i]) :: "memory");
}
#else
__device__ __forceinline__ void count_common(int* d, const uint4& a, u32 planes, bool more, int lane) {
#pragma unroll
  for (int step = 0; step < EIGHT; step++) {
    u32 low, high;
    const u32 at = planes + step * 256 + (lane >> 2) * 16 + (lane & 3) * 4;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(low) : "r"(at));
    asm volatile("ld.shared.b32 %0, [%1+128];" : "=r"(high) : "r"(at));
    int* const c = d + step * 4;
    if (!more) c[0] = c[1] = c[2] = c[3] = 0;
    asm volatile("mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]) : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(low), "r"(high));
  }
}
__device__ __forceinline__ void begin_counting() {}
__device__ __forceinline__ void chain_begun() {}
template <int LEFT> __device__ __forceinline__ void end_counting(int*) {}
#endif
"#;

/// Signs and planes to sums, which go to the block that finishes the row.
pub const COUNT: &str = r#"
  // Columns are COLUMNS tokens by planes STEPS apart, and steps go from the highest plane of each to
  // the lowest. A chain of instructions counts EIGHT of them over all inputs; two chains are under way at
  // a time, of two paths or of the higher and lower planes of one. A count c, read as a float, is the
  // subnormal number c · 2^-149: one multiply-add weights it by its plane and adds it up exactly, and a
  // power of two makes a whole number of the sum. The highest plane of all counts negatively.
  constexpr int HALVES = STEPS / EIGHT, PATHS_AT_ONCE = HALVES == 1 ? 2 : 1, CHUNK_BYTES = SETS * GROUPS_OF_TOKENS * STEPS * 256;
  const int plane_group = 2 * t / COLUMNS;
  const float first_sign = plane_group == 8 / COLUMNS - 1 ? -1.0f : 1.0f;
  constexpr float WHOLE = 274877906944.0f;  // 2^(149 - 111)
  const float unit = (float)(2 << (plane_group * STEPS)) * (WHOLE / LIMIT);
  barrier_wait(g_ready, 0);
  int round = 0, slot = 0;
  u32 parity = 0;
  for (int item = group; tile_of(item, 0) < tiles; item += GROUPS) {
    const int part = item % PARTS, set0 = GATE ? (tile_of(item, 0) & 1) * PATHS : 0;
    const int begin_chunk = part * PART_CHUNKS, own_chunks = max(0, min(chunks - begin_chunk, PART_CHUNKS));
    const int tile = tile_of(item, member);
    const float* const g_here = g_rows + min(tile, tiles - 1) * (PATHS * 16) + (lane >> 2);
    // A warp beyond the last row tile counts what it has, which nobody looks at.
    if (tile < tiles) barrier_wait(ready + warp * SLOTS + slot, parity);
    const uint4* const words = (const uint4*)(shared + SIGNS_AT + (warp * SLOTS + slot) * SLOT_BYTES) + lane;
    const u32 planes = shared_address(shared + PLANES_AT) + begin_chunk * CHUNK_BYTES + set0 * (GROUPS_OF_TOKENS * STEPS * 256);
    float total[GROUPS_OF_TOKENS][4];
#pragma unroll
    for (int k = 0; k < GROUPS_OF_TOKENS; k++) total[k][0] = total[k][1] = total[k][2] = total[k][3] = 0.0f;
#pragma unroll 1
    for (int path = 0; path < PATHS; path += PATHS_AT_ONCE) {
#pragma unroll
      for (int k = 0; k < GROUPS_OF_TOKENS; k++) {
        if (k > 0 && k * COLUMNS >= tokens) break;
        // Two tokens a lane, two rows.
        float scale[2][2], correction[2][2], g_of[2][2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const int of = PATHS_AT_ONCE == 1 ? path : min(path + i, PATHS - 1);
          const bool there = PATHS_AT_ONCE == 1 || path + i < PATHS, corrects = part == 0 && plane_group == 0 && (PATHS_AT_ONCE == 2 || i == 1);
          const int at = (set0 + of) * TOKENS + k * COLUMNS + 2 * t % COLUMNS;
          const float2 most = *(const float2*)(largest + at);
          const int2 sum = *(const int2*)(sums + at);
          const float by = PATHS_AT_ONCE == 1 && i == 0 ? unit * (1 << EIGHT) : unit;
          scale[i][0] = most.x * by; scale[i][1] = most.y * by;
          correction[i][0] = corrects ? most.x * (1.0f / LIMIT) * (float)sum.x : 0.0f;
          correction[i][1] = corrects ? most.y * (1.0f / LIMIT) * (float)sum.y : 0.0f;
          g_of[i][0] = there ? g_here[of * 16] : 0.0f; g_of[i][1] = there ? g_here[of * 16 + 8] : 0.0f;
        }
        int count[2][EIGHT * 4];
#pragma unroll 1
        for (int first = 0; first < PART_CHUNKS; first += BATCH) {
          uint4 a[PATHS_AT_ONCE][BATCH];
#pragma unroll
          for (int i = 0; i < PATHS_AT_ONCE; i++)
#pragma unroll
            for (int c = 0; c < BATCH; c++)
              a[i][c] = first + c < own_chunks ? words[((first + c) * PATHS + min(path + i, PATHS - 1)) * 32] : make_uint4(0, 0, 0, 0);
          if (first > 0) end_counting<0>(count[0]);
          begin_counting();
#pragma unroll
          for (int i = 0; i < 2; i++) {
            const int of = PATHS_AT_ONCE == 1 ? path : min(path + i, PATHS - 1), half = PATHS_AT_ONCE == 1 ? i : 0;
            const u32 from = planes + (of * GROUPS_OF_TOKENS + k) * (STEPS * 256) + half * (EIGHT * 256);
#pragma unroll
            for (int c = 0; c < BATCH; c++)
              count_common(count[i], a[PATHS_AT_ONCE == 1 ? 0 : i][c], from + (first + c) * CHUNK_BYTES, c > 0 || first > 0, lane);
            chain_begun();
          }
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
          if (i == 0) end_counting<1>(count[0]);
          else end_counting<0>(count[1]);
          float counted[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
          for (int step = 0; step < EIGHT; step++) {
            const float weight = __uint_as_float((127 + 111 + EIGHT - 1 - step) << 23) * (step == 0 && (PATHS_AT_ONCE == 2 || i == 0) ? first_sign : 1.0f);
#pragma unroll
            for (int j = 0; j < 4; j++) counted[j] = fmaf(__int_as_float(count[i][step * 4 + j]), weight, counted[j]);
          }
#pragma unroll
          for (int j = 0; j < 4; j++)
            total[k][j] = fmaf(g_of[i][j >> 1], fmaf(scale[i][j & 1], counted[j], -correction[i][j & 1]), total[k][j]);
        }
      }
    }
    __syncwarp();
    if (lane == 0 && has_rows(warp, round + SLOTS)) fetch(warp, round + SLOTS, slot);
    round++;
    if (++slot == SLOTS) { slot = 0; parity ^= 1; }
    if (tile >= tiles) continue;
    const int whole = GATE ? tile >> 1 : tile;
    const int owner = whole % SPLITS, local = GATE ? (whole / SPLITS) * 2 + (tile & 1) : whole / SPLITS;
    // Lanes that hold four sums each, two rows by two tokens, store them side by side.
    float4* const to = (float4*)inbox + ((split * PARTS + part) * FINISHED + local) * (GROUPS_OF_TOKENS * HOLDERS)
                       + (lane >> 2) * (COLUMNS / 2) + t % (COLUMNS / 2);
    const u32 remote = remote_address(to, owner), arrived = remote_address(inbox_ready, owner);
#pragma unroll
    for (int k = 0; k < GROUPS_OF_TOKENS; k++) {
      // Lanes with the same tokens hold different planes.
#pragma unroll
      for (int o = COLUMNS / 2; o < 4; o *= 2)
#pragma unroll
        for (int j = 0; j < 4; j++) total[k][j] += __shfl_xor_sync(~0u, total[k][j], o);
      if (t < COLUMNS / 2) send4(remote + k * (HOLDERS * 16), total[k], arrived);
    }
  }
"#;
