//! Root-mean-square normalisation of groups of channels.

use rabitc_ir::DType;
use rabitc_rbx::SmArch;

use super::map::MapKernel;
use super::{Layout, builder, finish, input, output};
use crate::cuda::source::{Builder, CudaSpec, REDUCTIONS, Source};

/// x / √(mean(x²) + eps) ⊙ w over each group; a warp or a block a group, which it holds in registers.
#[derive(Clone, Debug, PartialEq)]
pub struct RmsNorm {
    /// What is normalised: of a map, the first of its results.
    pub x: Layout,
    /// The weight's element type.
    pub weight: DType,
    /// The result.
    pub out: Layout,
    /// Channels of a group.
    pub group: usize,
    /// Added to the mean square.
    pub eps: f32,
    /// Multiply by 1 + w.
    pub unit_offset: bool,
    /// The map that computes x, where it is computed here.
    pub map: Option<MapKernel>,
}

/// Threads that share a group of so many channels.
pub(crate) fn lanes(group: usize) -> usize {
    if group <= 1024 { 32 } else { 256 }
}

/// The vector that groups of a matrix are read by.
pub(crate) fn vector(layouts: &[Layout], group: usize) -> usize {
    let mut vector = Layout::common(layouts).min(4);
    while !group.is_multiple_of(vector) {
        vector /= 2;
    }
    vector
}

/// What a group's kernel is made for: vectors of so many channels, the threads that share a group, and
/// the vectors that each of them has at most.
pub(crate) fn pieces(b: Builder, group: usize, vector: usize) -> Builder {
    let lanes = lanes(group);
    b.int("V", vector)
        .int("GROUP", group)
        .int("LANES", lanes)
        .int("PIECES", group.div_ceil(lanes * vector))
}

impl RmsNorm {
    fn vector(&self) -> usize {
        let own = vector(&[self.x, self.out], self.group);
        let map = self.map.as_ref().map_or(own, MapKernel::vector);
        own.min(map)
    }

    /// Blocks of a launch.
    pub fn blocks(&self) -> usize {
        let groups = self.x.rows * (self.x.columns / self.group);
        groups.div_ceil(256 / lanes(self.group))
    }
}

impl CudaSpec for RmsNorm {
    fn name(&self) -> String {
        let map = self.map.as_ref().map(|map| format!("_of_{}", map.word()));
        format!(
            "train_rms_norm_{}_{}_{}_g{}_e{:08x}{}{}",
            self.x.word(),
            self.weight,
            self.out.word(),
            self.group,
            self.eps.to_bits(),
            if self.unit_offset { "_offset" } else { "" },
            map.unwrap_or_default()
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        let b = builder(self.name(), arch, 256)
            .int("GROUPS", self.x.columns / self.group)
            .int("ALL", self.x.rows * (self.x.columns / self.group))
            .int("X_STRIDE", self.x.stride)
            .int("OUT_STRIDE", self.out.stride)
            .float("EPS", self.eps)
            .float("OFFSET", if self.unit_offset { 1.0 } else { 0.0 })
            .helper(REDUCTIONS);
        let b = pieces(b, self.group, self.vector());
        let (b, read) = match &self.map {
            None => (input(b, "x", self.x.dtype), READ.to_string()),
            Some(map) => {
                let copy = format!("  EACH xs[p][j] = t{}[j];", map.stores[0].0);
                (map.declare(b, 0), map.statements(None) + &copy)
            }
        };
        let b = output(input(b, "weight", self.weight), "out", self.out.dtype);
        finish(b, &BODY.replace("$READ", &indented(&read)))
    }
}

/// Statements as they stand in the loop over a group's channels.
pub(crate) fn indented(statements: &str) -> String {
    let lines: Vec<_> = statements.lines().map(|l| format!("  {l}")).collect();
    lines.join("\n")
}

const READ: &str = "  read_x(V, xs[p], row * X_STRIDE + column);";

const BODY: &str = r#"
  __shared__ float scratch[32];
  const int lane = threadIdx.x % LANES, group = blockIdx.x * (256 / LANES) + threadIdx.x / LANES;
  if (group >= ALL) return;
  const size_t row = group / GROUPS;
  float xs[PIECES][V], square = 0.0f;
#pragma unroll
  for (int p = 0; p < PIECES; p++) {
    const int i = (p * LANES + lane) * V, column = (group % GROUPS) * GROUP + i;
    if (i >= GROUP) continue;
$READ
#pragma unroll
    for (int j = 0; j < V; j++) square += xs[p][j] * xs[p][j];
  }
  square = LANES == 32 ? warp_sum(square) : block_reduce<false>(square, scratch);
  const float scale = rsqrtf(square / GROUP + EPS);
#pragma unroll
  for (int p = 0; p < PIECES; p++) {
    const int i = (p * LANES + lane) * V, column = (group % GROUPS) * GROUP + i;
    if (i >= GROUP) continue;
    float w[V];
    read_weight(V, w, i);
#pragma unroll
    for (int j = 0; j < V; j++) xs[p][j] *= scale * (OFFSET + w[j]);
    write_out(V, xs[p], row * OUT_STRIDE + column);
  }
"#;
