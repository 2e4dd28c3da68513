//! The loss of language modelling, and its gradient.

use rabitc_rbx::SmArch;

use super::{Layout, builder, finish, input, output};
use crate::cuda::source::{CudaSpec, REDUCTIONS, Source};

/// A block a row. As the loss: −ln softmax(logits)[label] and 1, or zeros where the label is negative,
/// f32 `[rows, 2]`. As the gradient: dloss · (softmax − onehot) / the rows that count, of which the
/// number is a parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct CrossEntropy {
    /// The logits.
    pub logits: Layout,
    /// Whether the loss is asked for.
    pub loss: bool,
    /// The gradient, if it is asked for.
    pub gradient: Option<Layout>,
}

impl CudaSpec for CrossEntropy {
    fn name(&self) -> String {
        let gradient = self.gradient.map(|g| format!("_d{}", g.word()));
        format!(
            "cross_entropy_{}{}{}",
            self.logits.word(),
            if self.loss { "" } else { "_no_loss" },
            gradient.unwrap_or_default()
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        let out = self.gradient.unwrap_or(self.logits);
        let b = builder(self.name(), arch, 256)
            .int("V", Layout::common(&[self.logits, out]).min(4))
            .int("CLASSES", self.logits.columns)
            .int("STRIDE", self.logits.stride)
            .int("OUT_STRIDE", out.stride)
            .helper(REDUCTIONS);
        let mut b = input(b, "logits", self.logits.dtype).param("const int", "labels");
        let mut body = BODY.to_string();
        if let Some(gradient) = self.gradient {
            b = b
                .param("const float", "dloss")
                .param("const float", "count");
            b = output(b, "out", gradient.dtype);
            body.push_str(GRADIENT);
        }
        if self.loss {
            b = b.param("float2", "pairs");
            body.push_str(LOSS);
        }
        finish(b, &body)
    }
}

/// How many labels are not negative, f32; one block.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelCount {
    /// Labels.
    pub rows: usize,
}

impl CudaSpec for LabelCount {
    fn name(&self) -> String {
        format!("label_count_{}", self.rows)
    }

    fn source(&self, arch: SmArch) -> Source {
        let b = builder(self.name(), arch, 1024)
            .int("ROWS", self.rows)
            .param("const int", "labels")
            .param("float", "count");
        finish(b, COUNT)
    }
}

const COUNT: &str = r#"
  __shared__ int counts[32];
  int own = 0;
  for (int i = threadIdx.x; i < ROWS; i += 1024) own += labels[i] >= 0;
  own = __reduce_add_sync(~0u, own);
  if ((threadIdx.x & 31) == 0) counts[threadIdx.x >> 5] = own;
  __syncthreads();
  if (threadIdx.x < 32) {
    own = __reduce_add_sync(~0u, counts[threadIdx.x]);
    if (threadIdx.x == 0) count[0] = own;
  }
"#;

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
  const float factor = label >= 0 ? dloss[0] / fmaxf(count[0], 1.0f) : 0.0f;
  for (int i = threadIdx.x * V; i < CLASSES; i += 256 * V) {
    float v[V];
    read_logits(V, v, from + i);
#pragma unroll
    for (int j = 0; j < V; j++) v[j] = factor * (__expf(v[j] - lse) - (i + j == label ? 1.0f : 0.0f));
    write_out(V, v, row * OUT_STRIDE + i);
  }
"#;
