//! The text of one kernel and how it is launched.

use std::fmt::Display;
use std::fmt::Write;

use rabitc_rbx::SmArch;

use crate::kernels::Float;

/// The configuration of one GPU kernel.
pub trait CudaSpec {
    /// A name that encodes the whole configuration: letters, digits and `_`. It is the name of the
    /// function.
    fn name(&self) -> String;
    /// The kernel for an architecture.
    fn source(&self, arch: SmArch) -> Source;
}

/// A kernel as text, with what a launch has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Name of the function.
    pub name: String,
    /// CUDA C++ that includes nothing.
    pub text: String,
    /// Names of the parameters, all pointers.
    pub params: Vec<String>,
    /// Threads of a block.
    pub threads: u32,
    /// Blocks of a cluster; 1 for none.
    pub cluster: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// Whether it may start before the kernel ahead of it has ended.
    pub overlaps: bool,
    /// Whether machine code is compiled with what the architecture has for itself (`sm_90a` for
    /// `sm_90`); the text has another form under `#if` for PTX.
    pub arch_specific: bool,
}

/// Builds a [`Source`]: constants, then helpers, then the kernel's body.
pub struct Builder {
    name: String,
    arch: SmArch,
    constants: String,
    helpers: String,
    params: Vec<(String, String)>,
    threads: u32,
    min_blocks: u32,
    registers: Option<u32>,
    cluster: u32,
    shared: usize,
    arch_specific: bool,
}

impl Builder {
    /// A kernel of `threads` threads a block.
    pub fn new(name: String, arch: SmArch, threads: u32) -> Builder {
        Builder {
            name,
            arch,
            constants: String::new(),
            helpers: String::new(),
            params: Vec::new(),
            threads,
            min_blocks: 1,
            registers: None,
            cluster: 1,
            shared: 0,
            arch_specific: false,
        }
    }

    /// An integer constant.
    pub fn int(mut self, name: &str, value: impl Display) -> Builder {
        let _ = writeln!(self.constants, "constexpr int {name} = {value};");
        self
    }

    /// A truth value.
    pub fn flag(mut self, name: &str, value: bool) -> Builder {
        let _ = writeln!(self.constants, "constexpr bool {name} = {value};");
        self
    }

    /// An f32 constant, bit for bit.
    pub fn float(mut self, name: &str, value: f32) -> Builder {
        let text = match value.is_finite() {
            true => format!("{value:e}f"),
            false => "__int_as_float(0x7f800000)".into(),
        };
        let _ = writeln!(self.constants, "constexpr float {name} = {text};");
        self
    }

    /// A helper's text.
    pub fn helper(mut self, text: &str) -> Builder {
        self.helpers.push_str(text.trim_start_matches('\n'));
        self.helpers.push('\n');
        self
    }

    /// A function `name(p, i)` that reads element i of a float tensor as f32.
    pub fn loader(self, name: &str, float: Float) -> Builder {
        let read = match float {
            Float::F32 => "((const float*)p)[i]",
            Float::F16 => "f16_to_f32(((const u16*)p)[i])",
            Float::BF16 => "bf16_to_f32(((const u16*)p)[i])",
        };
        self.helper(&format!(
            "__device__ __forceinline__ float {name}(const void* p, size_t i) {{ return {read}; }}\n"
        ))
    }

    /// A pointer parameter: its type without the star, and its name.
    pub fn param(mut self, ty: &str, name: &str) -> Builder {
        self.params.push((ty.into(), name.into()));
        self
    }

    /// A parameter that is there only under a condition; otherwise a null constant of that name.
    pub fn param_if(mut self, present: bool, ty: &str, name: &str) -> Builder {
        if present {
            return self.param(ty, name);
        }
        let _ = writeln!(self.helpers, "#define {name} ((({ty}*)0))");
        self
    }

    /// Blocks of a multiprocessor that registers must suffice for.
    pub fn min_blocks(mut self, blocks: u32) -> Builder {
        self.min_blocks = blocks;
        self
    }

    /// Registers of a thread at most, in place of what [`Builder::min_blocks`] leaves.
    pub fn registers(mut self, registers: u32) -> Builder {
        self.registers = Some(registers);
        self
    }

    /// Blocks of a cluster.
    pub fn cluster(mut self, blocks: u32) -> Builder {
        self.cluster = blocks;
        self
    }

    /// Bytes of dynamic shared memory.
    pub fn shared(mut self, bytes: usize) -> Builder {
        self.shared = bytes;
        self
    }

    /// Lets machine code use what only this architecture has.
    pub fn arch_specific(mut self) -> Builder {
        self.arch_specific = true;
        self
    }

    /// The kernel with this body.
    pub fn body(self, body: &str) -> Source {
        let params: Vec<_> = self
            .params
            .iter()
            .map(|(ty, n)| format!("{ty}* {n}"))
            .collect();
        let launch = if self.arch.has_clusters() {
            OVERLAP
        } else {
            NO_OVERLAP
        };
        let bounds = match self.registers {
            Some(most) => format!("__maxnreg__({most})"),
            None => format!("__launch_bounds__({}, {})", self.threads, self.min_blocks),
        };
        let text = format!(
            "// {}, for {}\n{PRELUDE}{launch}\n{}\n{}extern \"C\" __global__ void {bounds}\n{}(\n    {})\n{{\n{}\n}}\n",
            self.name,
            self.arch,
            self.constants,
            self.helpers,
            self.name,
            params.join(",\n    "),
            body.trim_matches('\n'),
        );
        Source {
            name: self.name,
            text,
            params: self.params.into_iter().map(|(_, name)| name).collect(),
            threads: self.threads,
            cluster: self.cluster,
            shared: self.shared as u32,
            overlaps: self.arch.has_clusters(),
            arch_specific: self.arch_specific,
        }
    }
}

/// What every kernel begins with.
const PRELUDE: &str = r#"typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

struct State { int start, tokens, rows, capacity; };

__device__ __forceinline__ float f16_to_f32(u16 h) { float f; asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h)); return f; }
__device__ __forceinline__ u16 f32_to_f16(float f) { u16 h; asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f)); return h; }
__device__ __forceinline__ float bf16_to_f32(u16 h) { return __uint_as_float((u32)h << 16); }
"#;

/// Programmatic dependent launch: the next kernel may start while this one runs, and what it reads
/// of ours comes after `wait_for_previous`.
const OVERLAP: &str = r#"__device__ __forceinline__ void allow_next() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
__device__ __forceinline__ void wait_for_previous() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
"#;

const NO_OVERLAP: &str = r#"__device__ __forceinline__ void allow_next() {}
__device__ __forceinline__ void wait_for_previous() {}
"#;

/// Sums and maxima over a warp and over a block.
pub const REDUCTIONS: &str = r#"
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(~0u, v, o);
  return v;
}
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int o = 16; o; o >>= 1) v = fmaxf(v, __shfl_xor_sync(~0u, v, o));
  return v;
}
// The sum (or the largest, if MAX) of v over all threads, for every thread. `scratch` has 32 floats.
template <bool MAX> __device__ __forceinline__ float block_reduce(float v, float* scratch) {
  v = MAX ? warp_max(v) : warp_sum(v);
  __syncthreads();
  if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = v;
  __syncthreads();
  const int warps = blockDim.x >> 5, lane = threadIdx.x & 31;
  v = lane < warps ? scratch[lane] : (MAX ? -3e38f : 0.0f);
  return MAX ? warp_max(v) : warp_sum(v);
}
"#;

/// The functions of gated units and soft caps.
pub const ACTIVATIONS: &str = r#"
__device__ __forceinline__ float silu(float x) { return x / (1.0f + __expf(-x)); }
__device__ __forceinline__ float tanh_exact(float x) {
  const float e = __expf(-2.0f * fabsf(x));
  return copysignf((1.0f - e) / (1.0f + e), x);
}
__device__ __forceinline__ float gelu_tanh(float x) {
  return 0.5f * x * (1.0f + tanh_exact(0.7978845608f * (x + 0.044715f * x * x * x)));
}
"#;

/// Clusters: meeting, and writing into the shared memory of another block.
pub const CLUSTER: &str = r#"
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }
__device__ __forceinline__ void store_remote(float* p, int rank, float v) {
  u32 address = (u32)__cvta_generic_to_shared(p), remote;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
  asm volatile("st.shared::cluster.f32 [%0], %1;" :: "r"(remote), "f"(v) : "memory");
}
"#;

/// The same names where there are no clusters.
pub const NO_CLUSTER: &str = r#"
__device__ __forceinline__ void cluster_arrive() {}
__device__ __forceinline__ void cluster_wait() { __syncthreads(); }
__device__ __forceinline__ void store_remote(float* p, int, float v) { *p = v; }
"#;
