//! Causal attention over whole sequences, on bf16 tensor cores, with a running maximum and sum.
//!
//! A block is 64 queries of a head of a sequence, 16 a warp; keys and values pass through shared
//! memory some at a time (Dao, arXiv 2307.08691).

use rabitc_rbx::SmArch;

use super::attention_tiles::{MATRIX, PUT_ONE, PUT_TWO, TILE, WARPS, at_once, by_queries, passing};
use super::{Layout, builder, finish, output};
use crate::cuda::source::{ACTIVATIONS, Builder, CudaSpec, Source};

/// What attention and its gradient have in common. All matrices are bf16, in `[rows, heads ·
/// head_dim]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Heads {
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Channels of a head, at most [`MOST_CHANNELS`].
    pub head_dim: usize,
    /// Factor on the scores.
    pub scale: f32,
    /// Positions that a token sees, itself included; 0 for all.
    pub window: usize,
    /// Bound of the scores; 0 for none.
    pub softcap: f32,
    /// Tokens of a sequence.
    pub seq_len: usize,
    /// Rows: whole sequences.
    pub rows: usize,
}

/// Channels that a head has at most.
pub const MOST_CHANNELS: usize = 256;

impl Heads {
    /// Sequences.
    pub fn sequences(&self) -> usize {
        self.rows / self.seq_len
    }

    /// Channels as matrix instructions need them.
    pub(super) fn channels(&self) -> usize {
        self.head_dim.next_multiple_of(16)
    }

    pub(super) fn word(&self) -> String {
        format!(
            "h{}_{}x{}_t{}of{}_w{}_c{:08x}_f{:08x}",
            self.n_heads,
            self.n_kv_heads,
            self.head_dim,
            self.seq_len,
            self.rows,
            self.window,
            self.softcap.to_bits(),
            self.scale.to_bits()
        )
    }

    /// The constants of a matrix: its stride, and whether pieces of 8 channels can be read at once.
    pub(super) fn rows(&self, b: Builder, name: &str, x: Layout) -> Builder {
        let whole = x.vector >= 8 && self.head_dim.is_multiple_of(8);
        b.int(&format!("{name}_STRIDE"), x.stride)
            .flag(&format!("{name}_WHOLE"), whole)
    }

    /// How results are stored: two neighbours at once where they lie so.
    pub(super) fn stored(&self, b: Builder, to: Layout) -> Builder {
        let at_once = to.vector >= 2 && self.head_dim.is_multiple_of(2);
        b.helper(if at_once { PUT_TWO } else { PUT_ONE })
    }

    /// The constants, and what the kernels share; so many rows pass through shared memory at once.
    pub(super) fn constants(&self, b: Builder, passing: usize) -> Builder {
        b.int("HEADS", self.n_heads)
            .int("KV_HEADS", self.n_kv_heads)
            .int("GROUP", self.n_heads / self.n_kv_heads)
            .int("HEAD_DIM", self.head_dim)
            .int("CHANNELS", self.channels())
            .int("SEQ_LEN", self.seq_len)
            .int("WINDOW", self.window)
            .int("THREADS", 32 * WARPS)
            .int("TILE", TILE)
            .int("PASSING", passing)
            .float("CAP", self.softcap)
            .float("SCALE", self.scale)
            .helper(ACTIVATIONS)
            .helper(MATRIX)
    }
}

/// Attention: y and ln Σ exp(score); blocks go over heads (x), sequences (y) and 64
/// queries (z).
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// The heads.
    pub heads: Heads,
    /// Queries, keys and values.
    pub qkv: [Layout; 3],
    /// The result, if it is asked for.
    pub y: Option<Layout>,
    /// Whether the logarithms are asked for, f32 `[rows, n_heads]`.
    pub lse: bool,
}

impl Attention {
    /// Blocks of a launch.
    pub fn grid(&self) -> [u32; 3] {
        let heads = &self.heads;
        let blocks = heads.seq_len.div_ceil(TILE);
        [heads.n_heads, heads.sequences(), blocks].map(|n| n as u32)
    }
}

impl CudaSpec for Attention {
    fn name(&self) -> String {
        format!(
            "train_attention_{}_{}{}{}",
            self.heads.word(),
            Layout::words(&self.qkv),
            self.y.map(|y| format!("_{}", y.word())).unwrap_or_default(),
            if self.lse { "_lse" } else { "" }
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        let passing = passing(self.heads.channels(), 128);
        let b = builder(self.name(), arch, 32 * WARPS as u32);
        let b = b.min_blocks(at_once(self.heads.channels(), 3));
        let mut b = (self.heads.constants(b, passing).helper(ATTEND))
            .shared(4 * passing * (self.heads.channels() + 8) * 2)
            .flag("LSE", self.lse);
        for (name, x) in ["Q", "K", "V"].into_iter().zip(self.qkv) {
            b = self.heads.rows(b, name, x);
        }
        b = b
            .param("const u16", "q")
            .param("const u16", "k")
            .param("const u16", "v");
        let mut body = by_queries(START, EACH, END);
        if let Some(y) = self.y {
            b = self
                .heads
                .stored(output(b.int("Y_STRIDE", y.stride), "y", y.dtype), y);
            body = body.replace("$STORE", STORE);
        }
        finish(
            b.param_if(self.lse, "float", "lse"),
            &body.replace("$STORE", ""),
        )
    }
}

const STORE: &str = r#"
    const float inverse = 1.0f / sum[half];
    const size_t at = (first_row + query) * Y_STRIDE + head * HEAD_DIM;
#pragma unroll
    for (int i = 0; i < TILES; i++) {
      const float two[2] = {mix[i][half * 2] * inverse, mix[i][half * 2 + 1] * inverse};
      PUT(y, two, at, i * 8 + t * 2);
    }"#;

/// What a block reads of its queries.
const START: &str = r#"
  u32 queries[STEPS][4];
  load_rows<Q_WHOLE>(queries, q_rows, Q_STRIDE, own_query);
  float mix[TILES][4], most[2] = {NONE, NONE}, sum[2] = {0.0f, 0.0f};
#pragma unroll
  for (int i = 0; i < TILES; i++) mix[i][0] = mix[i][1] = mix[i][2] = mix[i][3] = 0.0f;
"#;

const EACH: &str =
    "attend<MASKED>(mix, most, sum, queries, key_rows, value_rows, first, own_query)";

/// The mean of the values, from a part of the positions.
const ATTEND: &str = r#"
#define NONE (-__int_as_float(0x7f800000))
template <bool MASKED> __device__ __forceinline__ void attend(float (&mix)[TILES][4], float (&most)[2], float (&sum)[2],
    const u32 (&queries)[STEPS][4], const u16* key_rows, const u16* value_rows, int first, int own_query) {
  const int row8 = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3, last_query = own_query + 15;
  float score[BLOCKS][4], base[2], highest[2] = {most[0], most[1]};
#pragma unroll
  for (int b = 0; b < BLOCKS; b++) {
    score[b][0] = score[b][1] = score[b][2] = score[b][3] = 0.0f;
    if (!MASKED || first + b * 8 <= last_query) times_rows(score[b], queries, key_rows + b * 8 * PITCH);
#pragma unroll
    for (int j = 0; j < 4; j++) {
      float& s = score[b][j];
      s = scored(s);
      if (MASKED && !sees(own_query + row8 + (j >> 1) * 8, first + b * 8 + t * 2 + (j & 1))) s = NONE;
      highest[j >> 1] = fmaxf(highest[j >> 1], s);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float high = highest[half];
    high = fmaxf(high, __shfl_xor_sync(~0u, high, 1));
    high = fmaxf(high, __shfl_xor_sync(~0u, high, 2));
    base[half] = MASKED && high == NONE ? 0.0f : high * EXPONENT;
    const float keep = power2(fmaf(most[half], EXPONENT, -base[half]));
    most[half] = high;
    sum[half] *= keep;
#pragma unroll
    for (int i = 0; i < TILES; i++) { mix[i][half * 2] *= keep; mix[i][half * 2 + 1] *= keep; }
  }
#pragma unroll
  for (int b = 0; b < BLOCKS; b++)
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const float e = power2(fmaf(score[b][j], EXPONENT, -base[j >> 1]));
      score[b][j] = e;
      sum[j >> 1] += e;
    }
#pragma unroll
  for (int b = 0; b < BLOCKS; b += 2) {
    if (MASKED && first + b * 8 > last_query) continue;
    u32 weights[4];
    as_left(weights, score[b], score[b + 1]);
    times_columns(mix, weights, value_rows + b * 8 * PITCH);
  }
}
"#;

const END: &str = r#"
#pragma unroll
  for (int half = 0; half < 2; half++) {
    sum[half] += __shfl_xor_sync(~0u, sum[half], 1);
    sum[half] += __shfl_xor_sync(~0u, sum[half], 2);
    const int query = query0 + half * 8;
    if (query >= SEQ_LEN) continue;
    if (LSE && t == 0) lse[(first_row + query) * HEADS + head] = most[half] * (EXPONENT / LOG2E) + logf(sum[half]);$STORE
  }
"#;
