//! Reads memory and does nothing else: what bandwidth is measured with.

use rabitc_rbx::SmArch;

use crate::cuda::source::{Builder, CudaSpec, Source};

/// Reads `count[0]` pieces of 16 bytes; writes only if they have a sum that they never have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadMemory;

impl CudaSpec for ReadMemory {
    fn name(&self) -> String {
        "read_memory".into()
    }

    fn source(&self, arch: SmArch) -> Source {
        Builder::new(self.name(), arch, 512)
            .param("const uint4", "from")
            .param("const u64", "count")
            .param("u32", "out")
            .body(BODY)
    }
}

const BODY: &str = r#"
  allow_next();
  wait_for_previous();
  const u64 end = *count, step = (u64)gridDim.x * 512;
  u32 sum = 0;
  for (u64 i = (u64)blockIdx.x * 512 + threadIdx.x; i < end; i += step * 8) {
    uint4 v[8];
#pragma unroll
    for (int j = 0; j < 8; j++) v[j] = i + j * step < end ? __ldcs(from + i + j * step) : make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int j = 0; j < 8; j++) sum |= v[j].x & v[j].y & v[j].z & v[j].w & 1;
  }
  if (sum == 2) *out = sum;
"#;
