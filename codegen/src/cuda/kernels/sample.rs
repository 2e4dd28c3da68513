//! The next token drawn by temperature, top-k, top-p and min-p, and the step to the next position,
//! without the host.
//!
//! It computes what `runtime/src/sampler.rs` defines. A token's weight, exp((logit − best) /
//! temperature), is a whole number here, of units of 2⁻⁶² times a power of two above the
//! vocabulary: sums are exact, so that they do not depend on the order in which threads add, and a
//! seed draws the same tokens on every run. They are the tokens that the processor draws, except
//! where a bound lies within the rounding of its sums.
//!
//! Nothing is sorted. Tokens rank by logit and then by id, and every filter keeps the first of that
//! order: top-k as many as reach a count, top-p and min-p as many as reach a weight. The token drawn
//! is the one at which the weight reaches a random share of what is kept. So all that is asked is,
//! up to three times, *where in the order does a running sum reach a target*, which is answered
//! digit by digit of a rank key: a histogram of the first digit is made once, and only the bin that
//! holds the target is divided further. The first digits divide the range from the best logit to the
//! lowest that counts evenly, so that few threads meet in a bin; the last ones are the bits of logit
//! and id, so that equal logits are told apart.
//!
//! A cluster of blocks shares the vocabulary and adds up its histograms in shared memory.

use rabitc_rbx::SmArch;

use crate::cuda::source::{Builder, CLUSTER, CudaSpec, NO_CLUSTER, Source};

/// Blocks of the cluster.
const SPLITS: usize = 8;
/// Bits of all weights together, so that their sum fits.
const SUM_BITS: u32 = 62;
/// Token ids are `i32`.
const MOST_ID_BITS: u32 = 31;

/// Draws the next token from the logits, appends it to a ring, marks it as seen and moves the state
/// on by one position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Logits.
    pub vocab: usize,
    /// Tokens that the ring holds.
    pub ring: usize,
}

impl Sample {
    /// Blocks along x.
    pub fn grid(arch: SmArch) -> usize {
        if arch.has_clusters() { SPLITS } else { 1 }
    }

    /// Bits of a token id.
    fn id_bits(&self) -> u32 {
        (self.vocab.max(2) - 1).ilog2().min(MOST_ID_BITS - 1) + 1
    }
}

impl CudaSpec for Sample {
    fn name(&self) -> String {
        format!("sample_{}_ring{}", self.vocab, self.ring)
    }

    fn source(&self, arch: SmArch) -> Source {
        let splits = Sample::grid(arch);
        let clusters = splits > 1;
        Builder::new(self.name(), arch, 1024)
            .cluster(splits as u32)
            .int("VOCAB", self.vocab)
            .int("RING", self.ring)
            .int("SPLITS", splits)
            .int("ID_BITS", self.id_bits())
            .int("WEIGHT_BITS", SUM_BITS - self.id_bits())
            .helper(if clusters { CLUSTER } else { NO_CLUSTER })
            .helper(if clusters { REMOTE } else { NO_REMOTE })
            .helper(RANDOM)
            .helper(SUMS)
            .param("const float", "logits")
            .param("int", "ids")
            .param("int", "ring")
            .param("State", "state")
            .param("u8", "seen")
            .param("Sampling", "sampling")
            .body(BODY)
    }
}

/// Reading the shared memory of another block of the cluster.
const REMOTE: &str = r#"
__device__ __forceinline__ u32 remote_address(const void* p, int rank) {
  u32 remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"((u32)__cvta_generic_to_shared(p)), "r"(rank));
  return remote;
}
__device__ __forceinline__ u64 load_remote(const u64* p, int rank) {
  u64 v;
  asm volatile("ld.shared::cluster.u64 %0, [%1];" : "=l"(v) : "r"(remote_address(p, rank)) : "memory");
  return v;
}
__device__ __forceinline__ u32 load_remote(const u32* p, int rank) {
  u32 v;
  asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(v) : "r"(remote_address(p, rank)) : "memory");
  return v;
}
"#;

const NO_REMOTE: &str = r#"
__device__ __forceinline__ u64 load_remote(const u64* p, int) { return *p; }
__device__ __forceinline__ u32 load_remote(const u32* p, int) { return *p; }
"#;

/// The options of a draw, as the host writes them, and the generator: ChaCha with 8 rounds, whose
/// key is the seed. Draw n of a seed is the n-th pair of words of its stream.
const RANDOM: &str = r#"
struct Sampling { float temperature, top_p, min_p, penalty; u32 top_k, seed[2]; u32 reserved; u64 draws; };

__device__ __forceinline__ void quarter_round(u32& a, u32& b, u32& c, u32& d) {
  a += b; d = __funnelshift_l(d ^ a, d ^ a, 16);
  c += d; b = __funnelshift_l(b ^ c, b ^ c, 12);
  a += b; d = __funnelshift_l(d ^ a, d ^ a, 8);
  c += d; b = __funnelshift_l(b ^ c, b ^ c, 7);
}
// A number in [0, 1) of 53 random bits.
__device__ __forceinline__ double uniform(u32 seed0, u32 seed1, u64 draw) {
  const u64 block = draw >> 3;
  const u32 in[16] = {0x61707865u, 0x3320646eu, 0x79622d32u, 0x6b206574u, seed0, seed1, 0, 0,
                      0, 0, 0, 0, (u32)block, (u32)(block >> 32), 0, 0};
  u32 x[16];
#pragma unroll
  for (int i = 0; i < 16; i++) x[i] = in[i];
#pragma unroll
  for (int round = 0; round < 4; round++) {
    quarter_round(x[0], x[4], x[8], x[12]);
    quarter_round(x[1], x[5], x[9], x[13]);
    quarter_round(x[2], x[6], x[10], x[14]);
    quarter_round(x[3], x[7], x[11], x[15]);
    quarter_round(x[0], x[5], x[10], x[15]);
    quarter_round(x[1], x[6], x[11], x[12]);
    quarter_round(x[2], x[7], x[8], x[13]);
    quarter_round(x[3], x[4], x[9], x[14]);
  }
  const int pair = (int)(draw & 7);
  u32 low = 0, high = 0;
#pragma unroll
  for (int i = 0; i < 8; i++)
    if (i == pair) { low = x[2 * i] + in[2 * i]; high = x[2 * i + 1] + in[2 * i + 1]; }
  return (double)(((u64)high << 32 | low) >> 11) * (1.0 / 9007199254740992.0);
}
"#;

/// Running sums and maxima over a block of 1024 threads.
const SUMS: &str = r#"
template <class T> __device__ __forceinline__ T warp_prefix(T v) {
#pragma unroll
  for (int o = 1; o < 32; o *= 2) {
    const T before = __shfl_up_sync(~0u, v, o);
    if ((threadIdx.x & 31) >= o) v += before;
  }
  return v;
}
// The sum of v over this thread and those before it. `scratch` has 32 elements.
template <class T> __device__ __forceinline__ T block_prefix(T v, T* scratch) {
  v = warp_prefix(v);
  __syncthreads();
  if ((threadIdx.x & 31) == 31) scratch[threadIdx.x >> 5] = v;
  __syncthreads();
  const T sums = warp_prefix(scratch[threadIdx.x & 31]);
  const int warp = threadIdx.x >> 5;
  const T before = __shfl_sync(~0u, sums, warp ? warp - 1 : 0);
  return warp ? v + before : v;
}
__device__ __forceinline__ u64 warp_largest(u64 v) {
#pragma unroll
  for (int o = 16; o; o >>= 1) v = max(v, __shfl_xor_sync(~0u, v, o));
  return v;
}
"#;

const BODY: &str = r#"
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
