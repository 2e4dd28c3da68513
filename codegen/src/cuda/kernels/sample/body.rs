//! The text of the kernel that draws a token.

/// The search described in the parent module.
pub const BODY: &str = r#"
  constexpr int BINS = 1024, DIGIT = 10, STEP_DIGITS = 30, KEY_BITS = 32 + ID_BITS;
  constexpr float MOST_STEPS = 1023.9999f;
  // Weights are 0 long before this many temperatures below the best logit.
  constexpr float RANGE = 64.0f;
  struct Found { u64 before, reached; u32 count_before, count; int bin; };
  __shared__ u64 weights[2][BINS];  // of the tokens of a bin, by turns
  __shared__ u32 counts[2][BINS];
  __shared__ u64 scratch[32], best_of_block, likely_of_block;
  __shared__ u32 lowest_of_block;
  __shared__ u32 scratch_counts[32];
  __shared__ u64 all_weights;
  __shared__ u32 candidates;
  __shared__ double share;
  __shared__ Found found;
  allow_next();
  wait_for_previous();
  const int thread = threadIdx.x, rank = blockIdx.x, first = rank * 1024 + thread;
  const float temperature = sampling->temperature, penalty = sampling->penalty, min_p = sampling->min_p;
  const u32 top_k = sampling->top_k;
  const u64 draws = sampling->draws;

  // A logit after the penalty; +0 for −0, which rank alike.
  auto logit_of = [&](int i) {
    float v = logits[i];
    if (penalty != 1.0f && seen[i]) v = v < 0.0f ? v * penalty : fminf(v / penalty, 3.402823466e38f);
    return v + 0.0f;
  };
  // Ordered like the floats.
  auto ordered = [](float v) { const u32 bits = __float_as_uint(v); return bits >> 31 ? ~bits : bits | 0x80000000u; };
  constexpr u32 LOWEST = 0x007fffffu;  // −∞, which excludes a token

  // The best, or all ones if a logit is NaN or +∞.
  u64 best_key = 0;
  u32 lowest = ~0u;
  for (int i = first; i < VOCAB; i += SPLITS * 1024) {
    const bool good = logits[i] < __uint_as_float(0x7f800000u);
    const u32 bits = ordered(logit_of(i));
    best_key = max(best_key, good ? (u64)bits << 32 | (u32)~i : ~0ull);
    if (bits > LOWEST) lowest = min(lowest, bits);
  }
  if (thread == 0) share = uniform(sampling->seed[0], sampling->seed[1], draws);
  best_key = warp_largest(best_key);
  if ((thread & 31) == 0) scratch[thread >> 5] = best_key;
  __syncthreads();
  best_key = warp_largest(scratch[thread & 31]);
  if (thread == 0) { best_of_block = best_key; likely_of_block = 0; lowest_of_block = ~0u; }
  weights[0][thread] = weights[1][thread] = 0;
  counts[0][thread] = counts[1][thread] = 0;
  __syncthreads();
  lowest = __reduce_min_sync(~0u, lowest);
  if ((thread & 31) == 0) atomicMin(&lowest_of_block, lowest);
  __syncthreads();
  cluster_arrive();
  cluster_wait();
#pragma unroll
  for (int r = 0; r < SPLITS; r++) {
    best_key = max(best_key, load_remote(&best_of_block, r));
    lowest = min(lowest, load_remote(&lowest_of_block, r));
  }
  const u32 best_bits = (u32)(best_key >> 32);
  const bool refused = best_key == ~0ull || best_bits <= LOWEST;
  auto float_of = [](u32 bits) { return __uint_as_float(bits >> 31 ? bits & 0x7fffffffu : ~bits); };
  const float best = float_of(best_bits);

  // One thread of the cluster ends here with the token.
  auto finish = [&](int id, bool drawn) {
    ids[0] = max(id, 0);
    ring[state->start % RING] = id;
    state->start++;
    if (id >= 0) seen[id] = 1;
    if (drawn) sampling->draws = draws + 1;
  };
  if (refused || temperature == 0.0f || top_k == 1) {
    if (first == 0) finish(refused ? -1 : (int)~(u32)best_key, false);
    __syncthreads();
    cluster_arrive();
    cluster_wait();
    return;
  }

  // A token's place in the order: even steps below the best, then logit and id.
  auto below = [&](float v) { return (v - best) / temperature; };
  const float range = fminf(fmaxf(-below(float_of(lowest)), 1e-30f), RANGE), steps = 1024.0f / range;
  auto steps_of = [&](float v) { return (u32)(fminf(-below(v) * steps, MOST_STEPS) * 1048576.0f); };
  auto key_of = [&](float v, int i) { return (u64)(~ordered(v)) << ID_BITS | (u32)i; };
  auto weight_of = [&](double w) { return __double2ull_rn(w * (double)(1ull << WEIGHT_BITS)); };

  // Puts a token into a bin; all lanes of a warp together. Where many logits are equal, a warp has
  // one bin, which it visits once.
  auto tally = [&](int turn, bool counts_here, int bin, u64 weight) {
    const int common = __shfl_sync(~0u, bin, 0);
    if (__all_sync(~0u, counts_here && bin == common)) {
#pragma unroll
      for (int o = 16; o; o >>= 1) weight += __shfl_xor_sync(~0u, weight, o);
      if ((thread & 31) == 0) {
        atomicAdd(&weights[turn][bin], weight);
        atomicAdd(&counts[turn][bin], 32u);
      }
    } else if (counts_here) {
      if (weight) atomicAdd(&weights[turn][bin], weight);
      atomicAdd(&counts[turn][bin], 1u);
    }
    __syncwarp();
  };

  // Adds up histogram `turn` of the cluster: each thread gets its bin's sums and those before it.
  auto add_up = [&](int turn, u64& weight, u64& reached, u32& count, u32& counted) {
    cluster_arrive();
    cluster_wait();
    weight = 0;
    count = 0;
#pragma unroll
    for (int r = 0; r < SPLITS; r++) {
      weight += load_remote(&weights[turn][thread], r);
      count += load_remote(&counts[turn][thread], r);
    }
    reached = block_prefix(weight, scratch);
    counted = block_prefix(count, scratch_counts);
  };

  // The first digit, of all tokens.
  u64 likely = 0;  // weight of the tokens that min-p keeps
  for (int start = rank * 1024; start < VOCAB; start += SPLITS * 1024) {
    const int i = start + thread;
    const float v = i < VOCAB ? logit_of(i) : 0.0f;
    const bool here = i < VOCAB && ordered(v) > LOWEST;
    const double exact = here ? exp((double)below(v)) : 0.0;
    const u64 weight = weight_of(exact);
    tally(0, here, here ? steps_of(v) >> (STEP_DIGITS - DIGIT) : 0, weight);
    if (here && exact >= (double)min_p) likely += weight;
  }
  if (min_p > 0.0f) {
#pragma unroll
    for (int o = 16; o; o >>= 1) likely += __shfl_xor_sync(~0u, likely, o);
    if ((thread & 31) == 0 && likely) atomicAdd(&likely_of_block, likely);
  }
  u64 first_weight, first_reached;
  u32 first_count, first_counted;
  add_up(0, first_weight, first_reached, first_count, first_counted);

  // What is divided further: tokens whose digits so far are these.
  int turn = 0, step_digits = 0, key_shift = KEY_BITS;
  u32 step_prefix = 0;
  u64 key_prefix = 0;
  auto inside = [&](float v, int i) {
    if (steps_of(v) >> (STEP_DIGITS - step_digits) != step_prefix) return false;
    return key_shift == KEY_BITS || key_of(v, i) >> key_shift == key_prefix;
  };
  // Where the running sum of counts, or else of weights, reaches `target`, at least 1 and at most
  // the sum: the weight up to and including that token. Digits are left at the place.
  auto search = [&](u64 target, bool by_count) {
    u64 before = 0, weight = first_weight, reached = first_reached;
    u32 count_before = 0, count = first_count, counted = first_counted;
    step_digits = 0; step_prefix = 0; key_shift = KEY_BITS; key_prefix = 0;
    int width = DIGIT;
    while (true) {
      const u64 end = by_count ? (u64)(count_before + counted) : before + reached;
      const u64 own = by_count ? (u64)count : weight;
      __syncthreads();
      if (end - own < target && target <= end) {
        found.before = before + reached - weight;
        found.reached = before + reached;
        found.count_before = count_before + counted - count;
        found.count = count;
        found.bin = thread;
      }
      __syncthreads();
      if (step_digits < STEP_DIGITS) {
        step_prefix = step_prefix << DIGIT | (u32)found.bin;
        step_digits += DIGIT;
      } else {
        key_prefix = key_prefix << width | (u32)found.bin;
        key_shift -= width;
      }
      if (found.count == 1) return found.reached;
      before = found.before;
      count_before = found.count_before;
      turn ^= 1;
      // Others may still read the histogram of the other turn; all have read this one.
      weights[turn][thread] = 0;
      counts[turn][thread] = 0;
      __syncthreads();
      width = min(DIGIT, key_shift);
      for (int start = rank * 1024; start < VOCAB; start += SPLITS * 1024) {
        const int i = start + thread;
        const float v = i < VOCAB ? logit_of(i) : 0.0f;
        const bool here = i < VOCAB && ordered(v) > LOWEST && inside(v, i);
        u64 w = 0;
        int bin = 0;
        if (here) {
          w = weight_of(exp((double)below(v)));
          bin = step_digits < STEP_DIGITS
                    ? (steps_of(v) >> (STEP_DIGITS - DIGIT - step_digits)) & (BINS - 1)
                    : (int)((key_of(v, i) >> (key_shift - width)) & ((1u << width) - 1));
        }
        tally(turn, here, bin, w);
      }
      add_up(turn, weight, reached, count, counted);
    }
  };

  if (thread == BINS - 1) { all_weights = first_reached; candidates = first_counted; }
  __syncthreads();
  u64 kept = all_weights, likely_kept = 0;
  if (min_p > 0.0f)
    for (int r = 0; r < SPLITS; r++) likely_kept += load_remote(&likely_of_block, r);
  auto part = [&](double of) { return max(min(__double2ull_ru(of * (double)kept), kept), (u64)1); };
  if (top_k > 0 && top_k < candidates) kept = search(top_k, true);
  if (sampling->top_p < 1.0f) kept = search(part(sampling->top_p), false);
  if (min_p > 0.0f) kept = min(kept, likely_kept);
  search(part(share), false);
  for (int i = first; i < VOCAB; i += SPLITS * 1024) {
    const float v = logit_of(i);
    if (ordered(v) > LOWEST && inside(v, i)) finish(i, true);
  }
  // Blocks that have ended have no memory to read.
  __syncthreads();
  cluster_arrive();
  cluster_wait();
"#;
