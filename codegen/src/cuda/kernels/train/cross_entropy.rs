//! The loss of language modelling, and its gradient.

use rabitc_rbx::SmArch;

use super::{Layout, builder, finish, input, output};
use crate::cuda::source::{CudaSpec, REDUCTIONS, Source};

/// A block a row. Without a gradient: −ln softmax(logits)[label] and 1, or zeros where the label
/// is negative, f32 `[rows, 2]`. With one: dloss · (softmax − onehot) / the rows that count.
#[derive(Clone, Debug, PartialEq)]
pub struct CrossEntropy {
    /// The logits.
    pub logits: Layout,
    /// The gradient, if that is what is asked for.
    pub gradient: Option<Layout>,
}

impl CudaSpec for CrossEntropy {
    fn name(&self) -> String {
        let logits = self.logits.word();
        match self.gradient {
            Some(gradient) => format!("cross_entropy_grad_{logits}_{}", gradient.word()),
            None => format!("cross_entropy_{logits}"),
        }
    }

    fn source(&self, arch: SmArch) -> Source {
        let out = self.gradient.unwrap_or(self.logits);
        let b = builder(self.name(), arch, 256)
            .int("V", Layout::common(&[self.logits, out]).min(4))
            .int("ROWS", self.logits.rows)
            .int("CLASSES", self.logits.columns)
            .int("STRIDE", self.logits.stride)
            .int("OUT_STRIDE", out.stride)
            .helper(REDUCTIONS);
        let b = input(b, "logits", self.logits.dtype).param("const int", "labels");
        match self.gradient {
            None => finish(b.param("float2", "pairs"), &format!("{BODY}{LOSS}")),
            Some(gradient) => {
                let b = output(b.param("const float", "dloss"), "out", gradient.dtype);
                finish(b, &format!("{BODY}{GRADIENT}"))
            }
        }
    }
}

const BODY: &str = r#"
  __shared__ float scratch[32];
  const size_t row = blockIdx.x, from = row * STRIDE;
  const int label = labels[row];
  float most = -3e38f, sum = 0.0f;
  for (int i = threadIdx.x * V; i < CLASSES; i += 256 * V) {
    float v[V], high = most;
    read_logits(V, v, from + i);
#pragma unroll
    for (int j = 0; j < V; j++) high = fmaxf(high, v[j]);
    sum *= __expf(most - high);
    most = high;
#pragma unroll
    for (int j = 0; j < V; j++) sum += __expf(v[j] - most);
  }
  const float all = block_reduce<true>(most, scratch);
  sum = block_reduce<false>(sum * __expf(most - all), scratch);
  const float lse = all + logf(sum);
"#;

const LOSS: &str = r#"
  if (threadIdx.x == 0) {
    float own[1] = {0.0f};
    if (label >= 0) read_logits(1, own, from + label);
    pairs[row] = label >= 0 ? make_float2(lse - own[0], 1.0f) : make_float2(0.0f, 0.0f);
  }
"#;

const GRADIENT: &str = r#"
  float count = 0.0f;
  for (int i = threadIdx.x; i < ROWS; i += 256) count += labels[i] >= 0 ? 1.0f : 0.0f;
  count = fmaxf(block_reduce<false>(count, scratch), 1.0f);
  const float factor = label >= 0 ? dloss[0] / count : 0.0f;
  for (int i = threadIdx.x * V; i < CLASSES; i += 256 * V) {
    float v[V];
    read_logits(V, v, from + i);
#pragma unroll
    for (int j = 0; j < V; j++) v[j] = factor * (__expf(v[j] - lse) - (i + j == label ? 1.0f : 0.0f));
    write_out(V, v, row * OUT_STRIDE + i);
  }
"#;
