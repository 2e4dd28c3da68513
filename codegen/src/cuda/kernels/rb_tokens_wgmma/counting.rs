//! Counts of a group of four warps, as CUDA C++.

/// The matrix instruction, in both forms. `$COUNTS` and the names after it are filled in.
pub const MATRIX: &str = r#"
// What the next kernel fetches queues behind the inputs, not before them.
__device__ __forceinline__ void inputs_are_here() { allow_next(); }
__device__ __forceinline__ void planes_are_written() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
// Where planes are: eights of columns are 256 bytes apart, halves of their inputs 128. So that a number of
// bytes further on is a sixteenth of it more.
__device__ __forceinline__ u64 planes_at(const u8* p) { return ((u64)16 << 32 | 8 << 16) + ((shared_address(p) & 0x3ffff) >> 4); }
// Adds what 64 rows, 16 a warp, have in common with the planes of 256 inputs; begins anew unless `more`.
__device__ __forceinline__ void count_common(int* d, const uint4& a, u64 b, bool more, int) {
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
__device__ __forceinline__ u64 planes_at(const u8* p) { return shared_address(p) >> 4; }
__device__ __forceinline__ void count_common(int* d, const uint4& a, u64 b, bool more, int lane) {
#pragma unroll
  for (int step = 0; step < EIGHT; step++) {
    u32 low, high;
    const u32 at = (u32)b * 16 + step * 256 + (lane >> 2) * 16 + (lane & 3) * 4;
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
  // the lowest. A chain of instructions counts EIGHT of them over all inputs: all of up to four tokens, so
  // that there are registers for the chains of two paths at a time, or half of them. A count c, read as a float, is the
  // subnormal number c · 2^-149: one multiply-add weights it by its plane and adds it up exactly, and a
  // power of two makes a whole number of the sum. The highest plane of all counts negatively.
  constexpr int HALVES = STEPS / EIGHT, PATHS_AT_ONCE = HALVES == 1 ? 2 : 1, CHUNK_BYTES = SETS * GROUPS_OF_TOKENS * STEPS * 256;
  constexpr float WHOLE = 274877906944.0f;  // 2^(149 - 111)
  constexpr int PLANE_GROUPS = 8 / COLUMNS;
  if (SPLITS > 1) all_are_here();  // every block of the cluster runs: its memory can be written
  barrier_wait(g_ready, 0);
  workers_meet();
  // For a set, a group of planes and two tokens: factors of the sums, and what is subtracted. Every warp has
  // them for itself.
  float* const scales = (float*)(shared + SCALES_AT) + warp * (SETS * PLANE_GROUPS * TOKENS * 2);
  for (int i = lane; i < SETS * PLANE_GROUPS * TOKENS; i += 32) {
    const int token = i % TOKENS, plane_group = i / TOKENS % PLANE_GROUPS, set = i / (TOKENS * PLANE_GROUPS);
    const float most = __uint_as_float(largest[set * TOKENS + token]) * (1.0f / LIMIT);
    float* const to = scales + (i >> 1) * 4 + (i & 1);
    to[0] = most * (float)(2 << (plane_group * STEPS)) * WHOLE;
    to[2] = plane_group == 0 ? most * (float)sums[set * TOKENS + token] : 0.0f;
  }
  __syncwarp();
  const int plane_group = 2 * t / COLUMNS;
  const float first_sign = plane_group == PLANE_GROUPS - 1 ? -1.0f : 1.0f;
  const float4* const scales_here = (const float4*)scales + plane_group * (TOKENS / 2) + t % (COLUMNS / 2);
  const u64 all_planes = planes_at(shared + PLANES_AT);
  int round = 0, slot = 0;
  u32 parity = 0;
  for (int item = group; tile_of(item, 0) < tiles; item += GROUPS) {
    const int tile = tile_of(item, member), set0 = GATE ? (tile & 1) * PATHS : 0;
    const float* const g_here = g_rows + min(tile, tiles - 1) * (PATHS * 16) + (lane >> 2);
    // A warp beyond the last row tile counts what it has, which nobody looks at.
    if (tile < tiles) barrier_wait(ready + warp * SLOTS + slot, parity);
    const uint4* const words = (const uint4*)(shared + SIGNS_AT + (warp * SLOTS + slot) * SLOT_BYTES) + lane;
    const u64 planes = all_planes + set0 * (GROUPS_OF_TOKENS * STEPS * 256) / 16;
    float total[GROUPS_OF_TOKENS][4];
#pragma unroll
    for (int k = 0; k < GROUPS_OF_TOKENS; k++) total[k][0] = total[k][1] = total[k][2] = total[k][3] = 0.0f;
#pragma unroll 1
    for (int path = 0; path < PATHS; path += PATHS_AT_ONCE) {
      // Two tokens a lane, two rows.
      float g_of[PATHS_AT_ONCE][2];
      uint4 a[PATHS_AT_ONCE][BATCH];
      auto load = [&](int first) {
#pragma unroll
        for (int i = 0; i < PATHS_AT_ONCE; i++)
#pragma unroll
          for (int c = 0; c < BATCH; c++)
            a[i][c] = first + c < chunks ? words[((first + c) * PATHS + min(path + i, PATHS - 1)) * 32] : make_uint4(0, 0, 0, 0);
      };
#pragma unroll
      for (int i = 0; i < PATHS_AT_ONCE; i++) {
        g_of[i][0] = path + i < PATHS ? g_here[(path + i) * 16] : 0.0f;
        g_of[i][1] = path + i < PATHS ? g_here[(path + i) * 16 + 8] : 0.0f;
      }
      if (BATCH == MOST_CHUNKS) load(0);
#pragma unroll
      for (int k = 0; k < GROUPS_OF_TOKENS; k++) {
        if (k > 0 && k * COLUMNS >= tokens) break;
        float4 scale[PATHS_AT_ONCE];
        float counted[PATHS_AT_ONCE][4];
#pragma unroll
        for (int i = 0; i < PATHS_AT_ONCE; i++) {
          scale[i] = scales_here[((set0 + min(path + i, PATHS - 1)) * PLANE_GROUPS * TOKENS + k * COLUMNS) / 2];
          counted[i][0] = counted[i][1] = counted[i][2] = counted[i][3] = 0.0f;
        }
#pragma unroll
        for (int half = 0; half < HALVES; half++) {
          int count[PATHS_AT_ONCE][EIGHT * 4];
#pragma unroll 1
          for (int first = 0; first < MOST_CHUNKS; first += BATCH) {
            if (BATCH < MOST_CHUNKS) {
              if (first > 0) {
#pragma unroll
                for (int i = 0; i < PATHS_AT_ONCE; i++) end_counting<0>(count[i]);
              }
              load(first);
            }
            begin_counting();
#pragma unroll
            for (int i = 0; i < PATHS_AT_ONCE; i++) {
              const u64 from = planes + ((min(path + i, PATHS - 1) * GROUPS_OF_TOKENS + k) * (STEPS * 256) + half * (EIGHT * 256) + first * CHUNK_BYTES) / 16;
#pragma unroll
              for (int c = 0; c < BATCH; c++) count_common(count[i], a[i][c], from + c * CHUNK_BYTES / 16, c > 0 || first > 0, lane);
              chain_begun();
            }
          }
#pragma unroll
          for (int i = 0; i < PATHS_AT_ONCE; i++) {
            if (i + 1 < PATHS_AT_ONCE) end_counting<1>(count[i]);
            else end_counting<0>(count[i]);
            float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
            for (int step = 0; step < EIGHT; step++) {
              const float weight = __uint_as_float((127 + 111 + STEPS - 1 - half * EIGHT - step) << 23) * (half == 0 && step == 0 ? first_sign : 1.0f);
#pragma unroll
              for (int j = 0; j < 4; j++) sum[j] = fmaf(__int_as_float(count[i][step * 4 + j]), weight, sum[j]);
            }
#pragma unroll
            for (int j = 0; j < 4; j++) counted[i][j] += sum[j];
          }
        }
#pragma unroll
        for (int i = 0; i < PATHS_AT_ONCE; i++)
#pragma unroll
          for (int j = 0; j < 4; j++)
            total[k][j] = fmaf(g_of[i][j >> 1], fmaf(j & 1 ? scale[i].y : scale[i].x, counted[i][j], j & 1 ? -scale[i].w : -scale[i].z), total[k][j]);
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
    float4* const to = (float4*)inbox + (split * FINISHED + local) * (GROUPS_OF_TOKENS * HOLDERS)
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
