//! What an artifact holds for NVIDIA GPUs: kernels by architecture, their launches, and what is
//! made of the artifact's tensors when a model is loaded.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A GPU architecture by its compute capability: `sm_90` is 9.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SmArch(u32);

impl SmArch {
    /// The oldest architecture that kernels can be generated for.
    pub const OLDEST: SmArch = SmArch(80);

    /// The architecture of compute capability `major.minor`.
    pub fn new(major: u32, minor: u32) -> SmArch {
        SmArch(major * 10 + minor)
    }

    /// The number in the name: 90 for `sm_90`.
    pub fn number(self) -> u32 {
        self.0
    }

    /// Whether machine code for this architecture runs on `card`: the same major version, and a
    /// minor version that is not newer.
    pub fn code_runs_on(self, card: SmArch) -> bool {
        self.0 / 10 == card.0 / 10 && self.0 <= card.0
    }

    /// Whether blocks can form clusters that see each other's shared memory, copy in bulk, and
    /// start before the kernel ahead of them has ended.
    pub fn has_clusters(self) -> bool {
        self.0 >= 90
    }

    /// Bytes of shared memory that one block can have.
    pub fn shared_bytes(self) -> usize {
        match self.0 {
            80 | 87 => 163 << 10,
            81..90 | 120.. => 99 << 10,
            _ => 227 << 10,
        }
    }
}

impl fmt::Display for SmArch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}", self.0)
    }
}

impl FromStr for SmArch {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let number = s.strip_prefix("sm_").and_then(|n| n.parse::<u32>().ok());
        match number {
            Some(n) if (SmArch::OLDEST.0..=200).contains(&n) => Ok(SmArch(n)),
            Some(_) => Err(format!("{s} is older than {}, or unknown", SmArch::OLDEST)),
            None => Err(format!(
                "`{s}` is no GPU architecture; write sm_80, sm_89, sm_90, …"
            )),
        }
    }
}

impl From<SmArch> for String {
    fn from(arch: SmArch) -> String {
        arch.to_string()
    }
}

impl TryFrom<String> for SmArch {
    type Error = String;
    fn try_from(s: String) -> Result<Self, String> {
        s.parse()
    }
}

/// Everything for one GPU architecture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GpuTarget {
    /// The architecture that the machine code is for.
    pub arch: SmArch,
    /// Bit planes of the activations in residual-binary products, 8 or 16.
    pub planes: usize,
    /// The compiler that made the code.
    pub compiler: String,
    /// The tensor that holds one cubin a kernel.
    pub cubin_section: String,
    /// The tensor that holds one PTX text a kernel, for newer architectures.
    pub ptx_section: String,
    /// The kernels.
    pub kernels: Vec<GpuKernel>,
    /// Device memory that is filled once, when the model is loaded.
    pub derived: Vec<Derived>,
    /// The rotary tables, indexed by [`GpuArg::Rope`].
    pub rope_tables: Vec<RopeTable>,
    /// What fills the derived tensors, in order.
    pub setup: Vec<GpuStep>,
    /// The forward passes, by tokens, fewest first.
    pub programs: Vec<GpuProgram>,
    /// The launch after the first program that takes the most probable token and moves on to it.
    pub next: GpuStep,
    /// The launch instead of `next` that draws a token.
    pub sample: GpuStep,
    /// Index of the kernel that reads memory and does nothing else, for measurements: parameters
    /// are the memory, the number of 16-byte pieces (u64), and a word that it never writes.
    pub probe: usize,
    /// Tokens that [`GpuArg::Ring`] has room for.
    pub ring: usize,
}

/// One GPU kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuKernel {
    /// Name of the function; says the op and its configuration.
    pub name: String,
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
    /// First byte and length of its cubin.
    pub cubin: (usize, usize),
    /// First byte and length of its PTX.
    pub ptx: (usize, usize),
    /// What the compiler says it uses.
    pub resources: Resources,
    /// Where the work can be cut in several ways, what the choice rests on: the cost model, or the
    /// card it was measured on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen_by: Option<String>,
}

/// What a kernel uses, as the compiler reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of static shared memory.
    pub shared: u32,
    /// Bytes that a thread stores for want of registers.
    pub spill_stores: u32,
    /// Bytes that a thread loads back.
    pub spill_loads: u32,
    /// Bytes of a thread's stack frame.
    pub stack: u32,
}

/// Device memory made from tensors of the artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Derived {
    /// Name, that of a tensor with a suffix.
    pub name: String,
    /// Size.
    pub bytes: usize,
}

/// cos and sin of position · inv_freq for every position of the context, F32
/// `[positions, 2 · len(inv_freq)]`, as [`crate::plan::Host::RopeTable`] has it for a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RopeTable {
    /// One frequency a pair of channels, radians a position.
    pub inv_freq: Vec<f32>,
    /// Factor on cos and sin.
    pub attention_factor: f32,
}

/// One forward pass over up to `max_tokens` tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GpuProgram {
    /// `decode`, `few_4`, `few_8`, `few_16`, `prefill` or `prompt`.
    pub name: String,
    /// Tokens that one run takes at most.
    pub max_tokens: usize,
    /// Rows that the steps from `head` on take at most; of more, they run several times.
    pub max_rows: usize,
    /// Index of the first step that works on the rows whose logits are asked for; those before work
    /// on all tokens.
    pub head: usize,
    /// Bytes of the arena.
    pub arena_bytes: usize,
    /// Where the logits of up to `max_rows` rows are in the arena.
    pub logits: usize,
    /// The launches, each after those before it.
    pub steps: Vec<GpuStep>,
}

/// One launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuStep {
    /// The graph node that it computes (a part of).
    pub node: String,
    /// Index into the target's kernels.
    pub kernel: usize,
    /// Blocks along x, y and z.
    pub grid: [Blocks; 3],
    /// One pointer a parameter.
    pub args: Vec<GpuArg>,
}

/// A number of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blocks {
    /// So many.
    Fixed(u32),
    /// One for every so many tokens, rounded up.
    PerTokens(u32),
    /// One for every so many rows, rounded up.
    PerRows(u32),
}

impl Blocks {
    /// One block.
    pub const ONE: Blocks = Blocks::Fixed(1);

    /// The number for a run of `tokens` tokens and `rows` rows.
    pub fn count(self, tokens: usize, rows: usize) -> u32 {
        let per =
            |n: usize, each: u32| n.div_ceil(each.max(1) as usize).min(u32::MAX as usize) as u32;
        match self {
            Blocks::Fixed(n) => n,
            Blocks::PerTokens(each) => per(tokens, each),
            Blocks::PerRows(each) => per(rows, each),
        }
    }
}

/// A pointer argument of a GPU kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuArg {
    /// A byte offset into the arena.
    Arena(usize),
    /// A tensor of the artifact.
    Weight(String),
    /// A derived tensor.
    Derived(usize),
    /// The keys of a layer, F16 `[n_kv_heads][capacity][head_dim rounded up to 8]`.
    Keys(usize),
    /// The values of a layer, laid out like the keys.
    Values(usize),
    /// A rotary table.
    Rope(usize),
    /// Token ids, `i32[T]`.
    Ids,
    /// Row indices, `i32[R]`.
    Rows,
    /// The tokens chosen last, `i32`, by position modulo its length.
    Ring,
    /// `i32[4]`: position of the first token, T, R, and the positions that the cache has room for.
    State,
    /// One byte a token of the vocabulary, not 0 if the sequence has the token.
    Seen,
    /// How tokens are drawn: temperature, top-p, min-p and repetition penalty as f32, top-k as u32,
    /// the two halves of the seed, four unused bytes, and the number of the next draw as u64.
    Sampling,
}
