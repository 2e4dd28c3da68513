//! Rows of a table by token id.

use rabitc_rbx::SmArch;

use super::{Layout, builder, finish, input, output};
use crate::cuda::source::{CudaSpec, Source};

/// Rows of the table by id, times a scale; ids are within it. A thread a group of elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Embed {
    /// The table.
    pub table: Layout,
    /// The result.
    pub out: Layout,
    /// Factor on every element.
    pub scale: f32,
}

impl Embed {
    fn vector(&self) -> usize {
        Layout::common(&[self.table, self.out])
    }

    /// Blocks of a launch.
    pub fn blocks(&self) -> usize {
        (self.out.rows * (self.out.columns / self.vector())).div_ceil(256)
    }
}

impl CudaSpec for Embed {
    fn name(&self) -> String {
        let (table, out) = (self.table.word(), self.out.word());
        format!("train_embed_{table}_{out}_s{:08x}", self.scale.to_bits())
    }

    fn source(&self, arch: SmArch) -> Source {
        let b = builder(self.name(), arch, 256)
            .int("V", self.vector())
            .int("GROUPS", self.out.columns / self.vector())
            .helper(&format!(
                "constexpr size_t ALL = {}ull * GROUPS;\n",
                self.out.rows
            ))
            .int("TABLE_STRIDE", self.table.stride)
            .int("OUT_STRIDE", self.out.stride)
            .float("SCALE", self.scale);
        let b = input(b, "table", self.table.dtype).param("const int", "ids");
        finish(output(b, "out", self.out.dtype), BODY)
    }
}

const BODY: &str = r#"
  const size_t group = (size_t)blockIdx.x * 256 + threadIdx.x;
  if (group >= ALL) return;
  const size_t row = group / GROUPS;
  const int column = (int)(group % GROUPS) * V;
  float v[V];
  read_table(V, v, (size_t)ids[row] * TABLE_STRIDE + column);
#pragma unroll
  for (int j = 0; j < V; j++) v[j] *= SCALE;
  write_out(V, v, row * OUT_STRIDE + column);
"#;
