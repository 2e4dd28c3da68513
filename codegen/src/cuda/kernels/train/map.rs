//! Functions of single elements, a whole tree of them in one kernel.

use std::fmt::Write;

use rabitc_ir::DType;
use rabitc_ir::ops::gate::Activation;
use rabitc_rbx::SmArch;

use super::{Layout, builder, finish, input, output};
use crate::cuda::source::{Builder, CudaSpec, Source};
use crate::train::Term;

/// Threads of a block.
pub const THREADS: usize = 256;

/// A map; blocks go over [`THREADS`] groups of [`MapKernel::vector`] elements each. Other kernels make
/// its computation a part of theirs.
#[derive(Clone, Debug, PartialEq)]
pub struct MapKernel {
    /// Rows of the results.
    pub rows: usize,
    /// Columns of the results.
    pub columns: usize,
    /// What is read.
    pub operands: Vec<Layout>,
    /// The computation.
    pub terms: Vec<Term>,
    /// What is stored: the term, where to, whether it is added to what is there.
    pub stores: Vec<(usize, Layout, bool)>,
}

impl MapKernel {
    /// Elements that a thread computes.
    pub fn vector(&self) -> usize {
        let stores = self.stores.iter().map(|(_, layout, _)| layout.vector);
        let widest = self.operands.iter().map(|o| o.vector).chain(stores).min();
        let mut vector = widest.unwrap_or(1);
        for term in &self.terms {
            if let Term::Padded { operand, start } = term {
                let width = self.operands[*operand].columns;
                while !start.is_multiple_of(vector) || !width.is_multiple_of(vector) {
                    vector /= 2;
                }
            }
        }
        while !self.columns.is_multiple_of(vector) {
            vector /= 2;
        }
        vector
    }

    /// Blocks of a launch.
    pub fn blocks(&self) -> usize {
        (self.rows * (self.columns / self.vector())).div_ceil(THREADS)
    }

    /// Adds what the statements need: functions, and a parameter for each operand from `first` on and
    /// for each store.
    pub(crate) fn declare(&self, b: Builder, first: usize) -> Builder {
        let mut b = b
            .helper("#define EACH _Pragma(\"unroll\") for (int j = 0; j < V; j++)\n")
            .helper(FUNCTIONS);
        for (i, operand) in self.operands.iter().enumerate().skip(first) {
            b = input(b, &format!("from{i}"), operand.dtype);
        }
        for (i, (_, layout, _)) in self.stores.iter().enumerate() {
            b = output(b, &format!("to{i}"), layout.dtype);
        }
        b
    }

    /// The statements that compute V elements from `row` and `column` on and store them. Where the
    /// first operand is `given`, it is the array of that name.
    pub(crate) fn statements(&self, given: Option<&str>) -> String {
        let mut text = String::new();
        for (i, term) in self.terms.iter().enumerate() {
            let _ = writeln!(text, "  float t{i}[V];");
            let statement = match (term, given) {
                (Term::Load { operand: 0 }, Some(name)) => format!("EACH t{i}[j] = {name}[j];"),
                _ => self.statement(i, term),
            };
            let _ = writeln!(text, "  {statement}");
        }
        for (n, (term, layout, accumulate)) in self.stores.iter().enumerate() {
            let at = format!("row * {} + column", layout.stride);
            if *accumulate {
                let _ = writeln!(
                    text,
                    "  float sum{n}[V];\n  read_to{n}(V, sum{n}, {at});\n  EACH sum{n}[j] += \
                     t{term}[j];\n  write_to{n}(V, sum{n}, {at});"
                );
            } else {
                let _ = writeln!(text, "  write_to{n}(V, t{term}, {at});");
            }
        }
        text
    }

    fn statement(&self, i: usize, term: &Term) -> String {
        let each = |value: String| format!("EACH t{i}[j] = {value};");
        match term {
            Term::Load { operand } => {
                let stride = self.operands[*operand].stride;
                format!("read_from{operand}(V, t{i}, row * {stride} + column);")
            }
            Term::Column { operand } => format!("read_from{operand}(V, t{i}, column);"),
            Term::Padded { operand, start } => {
                let Layout {
                    stride, columns, ..
                } = self.operands[*operand];
                let end = start + columns;
                format!(
                    "if (column >= {start} && column < {end}) read_from{operand}(V, t{i}, row * \
                     {stride} + (column - {start}));\n  else EACH t{i}[j] = 0.0f;"
                )
            }
            Term::Add(a, b) => each(format!("t{a}[j] + t{b}[j]")),
            Term::Mul(a, b) => each(format!("t{a}[j] * t{b}[j]")),
            Term::Sum(parts) => {
                let parts: Vec<_> = parts.iter().map(|(f, t)| scaled(*f, *t)).collect();
                each(parts.join(" + "))
            }
            Term::Act(act, x) => each(format!("{}(t{x}[j])", act.name())),
            Term::ActSlope(act, x) => each(format!("{}_slope(t{x}[j])", act.name())),
            Term::Softcap(cap, x) => each(format!("{cap:e}f * tanh_exact(t{x}[j] / {cap:e}f)")),
            Term::SoftcapSlope(cap, x) => {
                each(format!("1.0f - square(tanh_exact(t{x}[j] / {cap:e}f))"))
            }
            Term::Round(DType::F16, x) => each(format!("f16_to_f32(f32_to_f16(t{x}[j]))")),
            Term::Round(_, x) => each(format!("bf16_to_f32(f32_to_bf16(t{x}[j]))")),
        }
    }

    /// Statements that bring what [`MapKernel::statements`] will read at `row` and `column` closer, from
    /// operand `first` on.
    pub(crate) fn prefetches(&self, first: usize) -> String {
        let loads = self.terms.iter().filter_map(|term| match term {
            Term::Load { operand } if *operand >= first => Some(*operand),
            _ => None,
        });
        let prefetch = |operand: usize| {
            let stride = self.operands[operand].stride;
            format!("  prefetch(from{operand} + row * {stride} + column);\n")
        };
        loads.map(prefetch).collect()
    }

    /// A number that stands for all that sets this map apart.
    pub(crate) fn word(&self) -> String {
        format!("{:016x}", hash(&self.config()))
    }

    /// What sets this map apart, as text.
    fn config(&self) -> String {
        let operands = Layout::words(&self.operands);
        let (rows, columns) = (self.rows, self.columns);
        let (terms, stores) = (&self.terms, &self.stores);
        format!("{rows} {columns} {operands} {terms:?} {stores:?}")
    }
}

fn scaled(factor: f32, term: usize) -> String {
    match factor == 1.0 {
        true => format!("t{term}[j]"),
        false => format!("{factor:e}f * t{term}[j]"),
    }
}

/// FNV-1a: names must not depend on the process.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl CudaSpec for MapKernel {
    fn name(&self) -> String {
        let words: Vec<&str> = self.terms.iter().filter_map(word).take(4).collect();
        let (rows, columns) = (self.rows, self.columns);
        let words = words.join("_");
        format!("map_{words}_{rows}x{columns}_{}", self.word())
    }

    fn source(&self, arch: SmArch) -> Source {
        let b = builder(self.name(), arch, THREADS as u32)
            .int("V", self.vector())
            .int("GROUPS", self.columns / self.vector())
            .helper(&format!(
                "constexpr size_t ALL = {}ull * GROUPS;\n",
                self.rows
            ));
        let statements = self.statements(None);
        let body = BODY.replace("$STATEMENTS", statements.trim_end());
        finish(self.declare(b, 0), &body)
    }
}

/// The word of a term in a kernel's name.
fn word(term: &Term) -> Option<&'static str> {
    Some(match term {
        Term::Load { .. } | Term::Column { .. } => return None,
        Term::Padded { .. } => "pad",
        Term::Add(..) => "add",
        Term::Mul(..) => "mul",
        Term::Sum(_) => "sum",
        Term::Act(Activation::Silu, _) => "silu",
        Term::Act(Activation::GeluTanh, _) => "gelu",
        Term::ActSlope(..) => "slope",
        Term::Softcap(..) => "softcap",
        Term::SoftcapSlope(..) => "capslope",
        Term::Round(..) => "round",
    })
}

/// Divisors are between 1 and infinity, where a quotient to two units in the last place takes a few
/// instructions and the nearest one many.
const FUNCTIONS: &str = r#"
__device__ __forceinline__ void prefetch(const void* p) { asm volatile("prefetch.global.L1 [%0];" :: "l"(p)); }
__device__ __forceinline__ float square(float x) { return x * x; }
__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }
__device__ __forceinline__ float silu(float x) { return x * sigmoid(x); }
__device__ __forceinline__ float silu_slope(float x) {
  const float s = sigmoid(x);
  return s * (1.0f + x * (1.0f - s));
}
__device__ __forceinline__ float tanh_exact(float x) {
  const float e = __expf(-2.0f * fabsf(x));
  return copysignf(__fdividef(1.0f - e, 1.0f + e), x);
}
__device__ __forceinline__ float gelu_tanh(float x) {
  return 0.5f * x * (1.0f + tanh_exact(0.7978845608f * (x + 0.044715f * x * x * x)));
}
__device__ __forceinline__ float gelu_tanh_slope(float x) {
  const float t = tanh_exact(0.7978845608f * (x + 0.044715f * x * x * x));
  return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * 0.7978845608f * (1.0f + 3.0f * 0.044715f * x * x);
}
"#;

const BODY: &str = r#"
  const size_t group = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (group >= ALL) return;
  const size_t row = group / GROUPS;
  const int column = (int)(group % GROUPS) * V;
$STATEMENTS
"#;
