//! Drawing classes from logits by inversion.

use rabitc_rbx::SmArch;

use super::{Layout, builder, finish, input};
use crate::cuda::source::{CudaSpec, REDUCTIONS, Source};

/// A block a row: the first class whose probability, with those of all before it, exceeds
/// (draw + ½) / 2³¹; −1 where the draw is negative. Each thread adds up neighbouring classes, so
/// that a class is found by the threads' sums first, then by the terms of one.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The logits.
    pub logits: Layout,
}

impl CudaSpec for Sample {
    fn name(&self) -> String {
        format!("sample_{}", self.logits.word())
    }

    fn source(&self, arch: SmArch) -> Source {
        let v = self.logits.vector.min(4);
        let share = self.logits.columns.div_ceil(256).next_multiple_of(v);
        let b = builder(self.name(), arch, 256)
            .int("V", v)
            .int("CLASSES", self.logits.columns)
            .int("STRIDE", self.logits.stride)
            .int("SHARE", share)
            .helper(REDUCTIONS);
        let b = input(b, "logits", self.logits.dtype).param("const int", "draws");
        finish(b.param("int", "classes"), BODY)
    }
}

const BODY: &str = r#"
  __shared__ float scratch[32], sums[256];
  const size_t row = blockIdx.x, from = row * STRIDE;
  const int draw = draws[row];
  if (draw < 0) {
    if (threadIdx.x == 0) classes[row] = -1;
    return;
  }
  const int begin = threadIdx.x * SHARE, end = min(begin + SHARE, CLASSES);
  float most = -3e38f, sum = 0.0f;
  for (int i = begin; i < end; i += V) {
    float v[V];
    read_logits(V, v, from + i);
#pragma unroll
    for (int j = 0; j < V; j++) most = fmaxf(most, v[j]);
  }
  most = block_reduce<true>(most, scratch);
  for (int i = begin; i < end; i += V) {
    float v[V];
    read_logits(V, v, from + i);
#pragma unroll
    for (int j = 0; j < V; j++) sum += __expf(v[j] - most);
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x) return;
  float all = 0.0f;
  for (int t = 0; t < 256; t++) all += sums[t];
  const float target = all * (((float)draw + 0.5f) * 4.656612873e-10f);
  // The last thread with a weight, if rounding leaves none that exceeds the target.
  int owner = 0;
  float before = 0.0f, at = 0.0f;
  for (int t = 0; t < 256; t++) {
    if (sums[t] > 0.0f) { owner = t; at = before; }
    before += sums[t];
    if (before > target) break;
  }
  int found = owner * SHARE;
  const int stop = min(found + SHARE, CLASSES);
  for (int i = found; i < stop; i++) {
    float v[1];
    read_logits(1, v, from + i);
    const float p = __expf(v[0] - most);
    if (p > 0.0f) found = i;
    at += p;
    if (at > target) break;
  }
  classes[row] = found;
"#;
