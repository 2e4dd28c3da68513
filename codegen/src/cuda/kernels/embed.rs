//! Rows of the embedding table by token id.

use rabitc_rbx::SmArch;

use crate::cuda::source::{Builder, CudaSpec, Source};
use crate::kernels::Float;

/// out[t] = table[ids[t]] · scale; a block is a token.
#[derive(Clone, Debug, PartialEq)]
pub struct Embed {
    /// Channels.
    pub d: usize,
    /// Rows of the table.
    pub vocab: usize,
    /// Form of the table.
    pub table: Float,
    /// Factor.
    pub scale: f32,
}

impl CudaSpec for Embed {
    fn name(&self) -> String {
        let scale = self.scale.to_bits();
        format!(
            "embed_{}x{}_{}_s{scale:08x}",
            self.vocab,
            self.d,
            self.table.name()
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        Builder::new(self.name(), arch, 256)
            .int("D", self.d)
            .int("VOCAB", self.vocab)
            .float("SCALE", self.scale)
            .loader("load_table", self.table)
            .param("const int", "ids")
            .param("const void", "table")
            .param("float", "out")
            .body(BODY)
    }
}

const BODY: &str = r#"
  allow_next();
  wait_for_previous();
  const int token = blockIdx.x;
  // Ids are checked before they reach the device; a bad one must still not read outside the table.
  const int id = min(max(ids[token], 0), VOCAB - 1);
  for (int i = threadIdx.x; i < D; i += blockDim.x)
    out[(size_t)token * D + i] = load_table(table, (size_t)id * D + i) * SCALE;
"#;
