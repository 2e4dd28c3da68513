//! Kernels of training graphs: one file each.
//!
//! They are made for one number of tokens, so every size is a constant. Sums are taken in a fixed
//! order: the same inputs give the same bits.

pub mod adamw;
pub mod attention;
pub mod attention_grad;
mod attention_tiles;
pub mod column_sum;
pub mod cross_entropy;
pub mod effective_scale_grad;
pub mod effective_weight;
pub mod embed;
pub mod kl_divergence;
pub mod map;
pub mod rms_norm;
pub mod rms_norm_grad;
pub mod rope;
pub mod row_reduce;
pub mod sample;
pub mod scatter_add;
pub mod square_norm;
pub mod squared_error;

use rabitc_ir::DType;
use rabitc_rbx::SmArch;

use crate::cuda::source::{Builder, Source};

/// How a matrix lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Element type: f32, f16 or bf16.
    pub dtype: DType,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Elements from one row to the next.
    pub stride: usize,
    /// How many elements in a row can be read at once: each group of so many columns lies at a
    /// multiple of its size.
    pub vector: usize,
}

impl Layout {
    /// The word in kernel names.
    pub fn word(&self) -> String {
        let (dtype, rows, columns) = (self.dtype, self.rows, self.columns);
        let (stride, vector) = (self.stride, self.vector);
        match stride == columns {
            true => format!("{dtype}_{rows}x{columns}v{vector}"),
            false => format!("{dtype}_{rows}x{columns}s{stride}v{vector}"),
        }
    }

    /// Words of several.
    pub fn words(all: &[Layout]) -> String {
        let words: Vec<_> = all.iter().map(Layout::word).collect();
        words.join("_")
    }

    /// The largest vector that all can be read by.
    pub fn common(all: &[Layout]) -> usize {
        all.iter().map(|l| l.vector).min().unwrap_or(1)
    }
}

/// The C++ type of an element.
pub(crate) fn c_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float",
        DType::I32 => "int",
        _ => "u16",
    }
}

/// Begins a kernel: the helpers that all of these use.
pub(crate) fn builder(name: String, arch: SmArch, threads: u32) -> Builder {
    Builder::new(name, arch, threads).helper(ACCESS)
}

/// Ends a kernel. A step is hundreds of launches, many of them short: each lets the next one start
/// while its last blocks run, and reads and writes nothing before the one ahead of it has ended.
pub(crate) fn finish(builder: Builder, body: &str) -> Source {
    let body = body.trim_start_matches('\n');
    builder.body(&format!("  allow_next();\n  wait_for_previous();\n{body}"))
}

/// Macros for the element type of a parameter: `read_X<V>(v, i)` and `write_X<V>(v, i)` for the
/// parameter `X`.
pub(crate) fn accessors(name: &str, dtype: DType) -> String {
    format!(
        "#define read_{name}(V, v, i) read_{dtype}<V>(v, {name} + (i))\n\
         #define write_{name}(V, v, i) write_{dtype}<V>(v, {name} + (i))\n"
    )
}

/// Adds a matrix parameter that is read.
pub(crate) fn input(builder: Builder, name: &str, dtype: DType) -> Builder {
    let ty = format!("const {}", c_type(dtype));
    builder.helper(&accessors(name, dtype)).param(&ty, name)
}

/// Adds a matrix parameter that is written.
pub(crate) fn output(builder: Builder, name: &str, dtype: DType) -> Builder {
    let accessors = accessors(name, dtype);
    builder.helper(&accessors).param(c_type(dtype), name)
}

/// Reads and writes of V elements at once, as f32.
const ACCESS: &str = r#"
__device__ __forceinline__ u32 pack_bf16(float low, float high) {
  u32 r; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low)); return r;
}
__device__ __forceinline__ u16 f32_to_bf16(float f) { return (u16)pack_bf16(f, 0.0f); }
template <int V> __device__ __forceinline__ void read_f32(float* v, const float* p) {
  if constexpr (V % 4 == 0) {
#pragma unroll
    for (int j = 0; j < V; j += 4) {
      const float4 x = *(const float4*)(p + j);
      v[j] = x.x; v[j + 1] = x.y; v[j + 2] = x.z; v[j + 3] = x.w;
    }
  } else if constexpr (V == 2) {
    const float2 x = *(const float2*)p;
    v[0] = x.x; v[1] = x.y;
  } else {
#pragma unroll
    for (int j = 0; j < V; j++) v[j] = p[j];
  }
}
template <int V> __device__ __forceinline__ void write_f32(const float* v, float* p) {
  if constexpr (V % 4 == 0) {
#pragma unroll
    for (int j = 0; j < V; j += 4) *(float4*)(p + j) = make_float4(v[j], v[j + 1], v[j + 2], v[j + 3]);
  } else if constexpr (V == 2) {
    *(float2*)p = make_float2(v[0], v[1]);
  } else {
#pragma unroll
    for (int j = 0; j < V; j++) p[j] = v[j];
  }
}
__device__ __forceinline__ void split_bf16(float* v, u32 x) { v[0] = __uint_as_float(x << 16); v[1] = __uint_as_float(x & 0xffff0000u); }
template <int V> __device__ __forceinline__ void read_bf16(float* v, const u16* p) {
  if constexpr (V % 8 == 0) {
#pragma unroll
    for (int j = 0; j < V; j += 8) {
      const uint4 x = *(const uint4*)(p + j);
      split_bf16(v + j, x.x); split_bf16(v + j + 2, x.y); split_bf16(v + j + 4, x.z); split_bf16(v + j + 6, x.w);
    }
  } else if constexpr (V % 4 == 0) {
    const uint2 x = *(const uint2*)p;
    split_bf16(v, x.x); split_bf16(v + 2, x.y);
  } else if constexpr (V == 2) {
    split_bf16(v, *(const u32*)p);
  } else {
#pragma unroll
    for (int j = 0; j < V; j++) v[j] = bf16_to_f32(p[j]);
  }
}
template <int V> __device__ __forceinline__ void write_bf16(const float* v, u16* p) {
  if constexpr (V % 8 == 0) {
#pragma unroll
    for (int j = 0; j < V; j += 8)
      *(uint4*)(p + j) = make_uint4(pack_bf16(v[j], v[j + 1]), pack_bf16(v[j + 2], v[j + 3]), pack_bf16(v[j + 4], v[j + 5]), pack_bf16(v[j + 6], v[j + 7]));
  } else if constexpr (V % 4 == 0) {
    *(uint2*)p = make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]));
  } else if constexpr (V == 2) {
    *(u32*)p = pack_bf16(v[0], v[1]);
  } else {
#pragma unroll
    for (int j = 0; j < V; j++) p[j] = f32_to_bf16(v[j]);
  }
}
template <int V> __device__ __forceinline__ void read_f16(float* v, const u16* p) {
#pragma unroll
  for (int j = 0; j < V; j++) v[j] = f16_to_f32(p[j]);
}
template <int V> __device__ __forceinline__ void write_f16(const float* v, u16* p) {
#pragma unroll
  for (int j = 0; j < V; j++) p[j] = f32_to_f16(v[j]);
}
"#;
