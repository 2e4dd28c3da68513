//! Rotary embedding: the table of angles, and the rotation either way.

use rabitc_rbx::SmArch;

use super::{Layout, builder, finish, input, output};
use crate::cuda::source::{CudaSpec, Source};

/// cos and sin of position · inv_freq, f32 `[rows, 2 · half]`; a thread an angle.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    /// Positions.
    pub rows: usize,
    /// Frequencies.
    pub half: usize,
    /// Factor on cos and sin.
    pub factor: f32,
}

impl CudaSpec for RopeTable {
    fn name(&self) -> String {
        let (rows, half, factor) = (self.rows, self.half, self.factor.to_bits());
        format!("train_rope_table_{rows}x{half}_f{factor:08x}")
    }

    fn source(&self, arch: SmArch) -> Source {
        let b = builder(self.name(), arch, 256)
            .int("HALF", self.half)
            .int("ALL", self.rows * self.half)
            .float("FACTOR", self.factor)
            .param("const int", "positions")
            .param("const float", "inv_freq")
            .param("float", "table");
        finish(b, TABLE)
    }
}

const TABLE: &str = r#"
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i >= ALL) return;
  const int row = i / HALF, pair = i % HALF;
  float sine, cosine;
  sincosf((float)positions[row] * inv_freq[pair], &sine, &cosine);
  table[row * 2 * HALF + pair] = cosine * FACTOR;
  table[row * 2 * HALF + HALF + pair] = sine * FACTOR;
"#;

/// Rotates the pairs (i, i + half) of every head; a thread takes [`Rope::vector`] of them that lie
/// side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// What is rotated.
    pub x: Layout,
    /// The result.
    pub out: Layout,
    /// Pairs of a head.
    pub half: usize,
    /// Whether by the angles' negatives.
    pub back: bool,
}

impl Rope {
    /// Pairs that a thread rotates.
    pub fn vector(&self) -> usize {
        let mut vector = Layout::common(&[self.x, self.out]);
        while !self.half.is_multiple_of(vector) {
            vector /= 2;
        }
        vector
    }

    /// Blocks of a launch.
    pub fn blocks(&self) -> usize {
        (self.x.rows * (self.x.columns / 2 / self.vector())).div_ceil(256)
    }
}

impl CudaSpec for Rope {
    fn name(&self) -> String {
        let word = if self.back { "rope_grad" } else { "rope" };
        let (x, out) = (self.x.word(), self.out.word());
        format!("train_{word}_{x}_{out}_h{}", self.half)
    }

    fn source(&self, arch: SmArch) -> Source {
        let b = builder(self.name(), arch, 256)
            .int("V", self.vector())
            .int("HALF", self.half)
            .int("GROUPS", self.x.columns / 2 / self.vector())
            .helper(&format!(
                "constexpr size_t ALL = {}ull * GROUPS;\n",
                self.x.rows
            ))
            .int("X_STRIDE", self.x.stride)
            .int("OUT_STRIDE", self.out.stride)
            .float("DIRECTION", if self.back { -1.0 } else { 1.0 });
        let b = input(b, "x", self.x.dtype).param("const float", "table");
        finish(output(b, "out", self.out.dtype), ROTATE)
    }
}

const ROTATE: &str = r#"
  const size_t i = (size_t)blockIdx.x * 256 + threadIdx.x;
  if (i >= ALL) return;
  const size_t row = i / GROUPS;
  const int pair = (int)(i % GROUPS) * V, angle = pair % HALF, column = pair / HALF * 2 * HALF + angle;
  float cosine[V], sine[V], low[V], high[V];
  read_f32<V>(cosine, table + row * 2 * HALF + angle);
  read_f32<V>(sine, table + row * 2 * HALF + HALF + angle);
  read_x(V, low, row * X_STRIDE + column);
  read_x(V, high, row * X_STRIDE + column + HALF);
#pragma unroll
  for (int j = 0; j < V; j++) {
    const float a = low[j], b = high[j], s = DIRECTION * sine[j];
    low[j] = a * cosine[j] - b * s;
    high[j] = b * cosine[j] + a * s;
  }
  write_out(V, low, row * OUT_STRIDE + column);
  write_out(V, high, row * OUT_STRIDE + column + HALF);
"#;
