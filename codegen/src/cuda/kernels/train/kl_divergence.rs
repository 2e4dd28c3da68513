//! The divergence of a student's predictions from a teacher's, and its gradient.

use rabitc_rbx::SmArch;

use super::{Layout, builder, finish, input, output};
use crate::cuda::source::{CudaSpec, REDUCTIONS, Source};

/// A block a row: the row's divergence and 1, f32 `[rows, 2]`, and the gradient. Rows that fit into a
/// block's registers are read once.
#[derive(Clone, Debug, PartialEq)]
pub struct KlDivergence {
    /// The teacher's logits.
    pub teacher: Layout,
    /// The student's.
    pub student: Layout,
    /// Whether the divergence is asked for.
    pub loss: bool,
    /// The gradient, if it is asked for.
    pub gradient: Option<Layout>,
}

impl CudaSpec for KlDivergence {
    fn name(&self) -> String {
        let gradient = self.gradient.map(|g| format!("_d{}", g.word()));
        format!(
            "kl_divergence_{}_{}{}{}",
            self.teacher.word(),
            self.student.word(),
            if self.loss { "" } else { "_no_loss" },
            gradient.unwrap_or_default()
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        let out = self.gradient.unwrap_or(self.student);
        let vector = Layout::common(&[self.teacher, self.student, out]).min(4);
        let pieces = self.student.columns.div_ceil(THREADS * vector);
        let held = pieces * vector <= MOST_HELD;
        let b = builder(self.name(), arch, THREADS as u32)
            .int("V", vector)
            .int("PIECES", pieces)
            .int("ROWS", self.student.rows)
            .int("CLASSES", self.student.columns)
            .int("TEACHER_STRIDE", self.teacher.stride)
            .int("STUDENT_STRIDE", self.student.stride)
            .int("OUT_STRIDE", out.stride)
            .flag("LOSS", self.loss)
            .helper(REDUCTIONS);
        let b = input(b, "teacher", self.teacher.dtype);
        let mut b = input(b, "student", self.student.dtype);
        let (sums, gradient) = match held {
            true => (HELD_SUMS, HELD_GRADIENT),
            false => (SUMS, GRADIENT),
        };
        let mut body = format!("{ROW}{sums}{LOSS}");
        if let Some(to) = self.gradient {
            b = output(b.param("const float", "dloss"), "out", to.dtype);
            body.push_str(gradient);
        }
        finish(b.param_if(self.loss, "float2", "pairs"), &body)
    }
}

/// Threads of a block.
const THREADS: usize = 256;

/// Elements of each of the two rows that a thread holds at most.
const MOST_HELD: usize = 32;

const ROW: &str = r#"
  __shared__ float scratch[32];
  const size_t row = blockIdx.x, t_row = row * TEACHER_STRIDE, s_row = row * STUDENT_STRIDE;
  float t_most = -3e38f, s_most = -3e38f, t_sum = 0.0f, s_sum = 0.0f, apart = 0.0f;
"#;

/// The maximum of both rows, Σ e^{x − max} of both, and Σ e^{t − max} (t − s); t and s become the
/// exponentials.
const HELD_SUMS: &str = r#"
  float t[PIECES][V], s[PIECES][V];
#pragma unroll
  for (int p = 0; p < PIECES; p++) {
    const int i = (p * 256 + threadIdx.x) * V;
    if (i >= CLASSES) continue;
    read_teacher(V, t[p], t_row + i);
    read_student(V, s[p], s_row + i);
  }
#pragma unroll
  for (int p = 0; p < PIECES; p++)
#pragma unroll
    for (int j = 0; j < V; j++) {
      if ((p * 256 + threadIdx.x) * V >= CLASSES) continue;
      t_most = fmaxf(t_most, t[p][j]);
      s_most = fmaxf(s_most, s[p][j]);
    }
  const float t_all = block_reduce<true>(t_most, scratch), s_all = block_reduce<true>(s_most, scratch);
#pragma unroll
  for (int p = 0; p < PIECES; p++)
#pragma unroll
    for (int j = 0; j < V; j++) {
      if ((p * 256 + threadIdx.x) * V >= CLASSES) continue;
      const float difference = t[p][j] - s[p][j];
      t[p][j] = __expf(t[p][j] - t_all);
      s[p][j] = __expf(s[p][j] - s_all);
      t_sum += t[p][j];
      s_sum += s[p][j];
      apart += t[p][j] * difference;
    }
  t_sum = block_reduce<false>(t_sum, scratch);
  apart = block_reduce<false>(apart, scratch);
  s_sum = block_reduce<false>(s_sum, scratch);
"#;

const HELD_GRADIENT: &str = r#"
  const float factor = dloss[0] / ROWS, t_factor = factor / t_sum, s_factor = factor / s_sum;
#pragma unroll
  for (int p = 0; p < PIECES; p++) {
    const int i = (p * 256 + threadIdx.x) * V;
    if (i >= CLASSES) continue;
#pragma unroll
    for (int j = 0; j < V; j++) s[p][j] = s_factor * s[p][j] - t_factor * t[p][j];
    write_out(V, s[p], row * OUT_STRIDE + i);
  }
"#;

/// The running maximum of both rows, Σ e^{x − max} of both, and Σ e^{t − max} (t − s).
const SUMS: &str = r#"
  for (int i = threadIdx.x * V; i < CLASSES; i += 256 * V) {
    float t[V], s[V];
    read_teacher(V, t, t_row + i);
    read_student(V, s, s_row + i);
    float t_high = t_most, s_high = s_most;
#pragma unroll
    for (int j = 0; j < V; j++) { t_high = fmaxf(t_high, t[j]); s_high = fmaxf(s_high, s[j]); }
    const float t_keep = __expf(t_most - t_high), s_keep = __expf(s_most - s_high);
    t_sum *= t_keep; apart *= t_keep; s_sum *= s_keep;
    t_most = t_high; s_most = s_high;
#pragma unroll
    for (int j = 0; j < V; j++) {
      const float e = __expf(t[j] - t_most);
      t_sum += e;
      apart += e * (t[j] - s[j]);
      s_sum += __expf(s[j] - s_most);
    }
  }
  const float t_all = block_reduce<true>(t_most, scratch), s_all = block_reduce<true>(s_most, scratch);
  const float t_keep = __expf(t_most - t_all);
  t_sum = block_reduce<false>(t_sum * t_keep, scratch);
  apart = block_reduce<false>(apart * t_keep, scratch);
  s_sum = block_reduce<false>(s_sum * __expf(s_most - s_all), scratch);
"#;

const LOSS: &str = r#"
  const float t_lse = t_all + logf(t_sum), s_lse = s_all + logf(s_sum);
  if (LOSS && threadIdx.x == 0) pairs[row] = make_float2(apart / t_sum - t_lse + s_lse, 1.0f);
"#;

const GRADIENT: &str = r#"
  const float factor = dloss[0] / ROWS;
  for (int i = threadIdx.x * V; i < CLASSES; i += 256 * V) {
    float t[V], s[V];
    read_teacher(V, t, t_row + i);
    read_student(V, s, s_row + i);
#pragma unroll
    for (int j = 0; j < V; j++) s[j] = factor * (__expf(s[j] - s_lse) - __expf(t[j] - t_lse));
    write_out(V, s, row * OUT_STRIDE + i);
  }
"#;
