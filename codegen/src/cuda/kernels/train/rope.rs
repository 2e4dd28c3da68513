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

/// Rotates the pairs (i, i + half) of every head; a thread a pair.
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
    /// Blocks of a launch.
    pub fn blocks(&self) -> usize {
        (self.x.rows * self.x.columns / 2).div_ceil(256)
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
            .int("HALF", self.half)
            .int("PAIRS", self.x.columns / 2)
            .helper(&format!(
                "constexpr size_t ALL = {}ull * PAIRS;\n",
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
  const size_t row = i / PAIRS;
  const int pair = (int)(i % PAIRS), angle = pair % HALF, column = pair / HALF * 2 * HALF + angle;
  const float cosine = table[row * 2 * HALF + angle], sine = DIRECTION * table[row * 2 * HALF + HALF + angle];
  float low[1], high[1], a[1], b[1];
  read_x(1, low, row * X_STRIDE + column);
  read_x(1, high, row * X_STRIDE + column + HALF);
  a[0] = low[0] * cosine - high[0] * sine;
  b[0] = high[0] * cosine + low[0] * sine;
  write_out(1, a, row * OUT_STRIDE + column);
  write_out(1, b, row * OUT_STRIDE + column + HALF);
"#;
