//! The plan of a GPU target: graph nodes become kernel launches in one order, buffers get places.
//!
//! Several programs come from one graph: `decode` for one token, three for up to 4, 8 and 16 tokens,
//! whose kernels read all weights once for all of them, and `prefill` and `prompt` for blocks of
//! tokens, on matrix units.

pub mod cost;
mod fuse;
mod gemv_cut;
mod gemv_tile;
mod group_cut;
mod group_tile;
mod heads;
mod lower;
mod lowered;
mod many_tokens;
mod ops;
mod prefill_cut;
pub mod product;
mod residual_binary;
#[cfg(test)]
mod several_tests;
mod several_tokens;
mod table;
mod token_cut;
mod token_tile;

use rabitc_ir::Graph;
use rabitc_rbx::SmArch;
use rabitc_rbx::gpu::{Blocks, Derived, GpuArg, GpuProgram, GpuStep, RopeTable};

use crate::CodegenError;
use crate::cuda::kernels::argmax::Argmax;
use crate::cuda::kernels::read_memory::ReadMemory;
use crate::cuda::kernels::sample::Sample;
use crate::cuda::source::CudaSpec;
pub use gemv_tile::{candidates as gemv_candidates, choose as choose_gemv_tile};
pub use product::cheapest;
use product::{Measured, Product};

/// How a program is planned.
#[derive(Clone, Copy, Debug)]
pub struct Mode {
    /// Name of the program.
    pub name: &'static str,
    /// Tokens of a run at most.
    pub max_tokens: usize,
    /// Rows of logits that are computed together at most.
    pub max_rows: usize,
    /// Whether products use f16 matrix units, which pay with many tokens.
    pub many: bool,
}

/// Rows of logits that programs of many tokens compute together. A vocabulary is wide: logits of
/// all tokens would take more memory than everything else. Products on matrix units work on tiles of
/// up to so many tokens, and their buffers hold whole tiles.
const ROWS: usize = 256;

/// The programs of a target.
pub const MODES: [Mode; 6] = [
    Mode {
        name: "decode",
        max_tokens: 1,
        max_rows: 1,
        many: false,
    },
    Mode {
        name: "few_4",
        max_tokens: 4,
        max_rows: 4,
        many: false,
    },
    Mode {
        name: "few_8",
        max_tokens: 8,
        max_rows: 8,
        many: false,
    },
    Mode {
        name: "few_16",
        max_tokens: 16,
        max_rows: 16,
        many: false,
    },
    Mode {
        name: "prefill",
        max_tokens: 512,
        max_rows: ROWS,
        many: true,
    },
    Mode {
        name: "prompt",
        max_tokens: 2048,
        max_rows: ROWS,
        many: true,
    },
];

/// What a target's plan is made for.
#[derive(Clone, Copy, Debug)]
pub struct GpuOptions {
    /// The architecture.
    pub arch: SmArch,
    /// Bit planes of activations, 8 or 16.
    pub planes: usize,
}

/// A target's plan, before its kernels are compiled.
pub struct GpuPlan {
    /// The kernels, each once.
    pub kernels: Vec<Box<dyn CudaSpec>>,
    /// Device memory that is filled when a model is loaded.
    pub derived: Vec<Derived>,
    /// The rotary tables.
    pub rope_tables: Vec<RopeTable>,
    /// What fills the derived memory.
    pub setup: Vec<GpuStep>,
    /// The forward passes.
    pub programs: Vec<GpuProgram>,
    /// The launch that takes the most probable token after `decode` and moves on to it.
    pub next: GpuStep,
    /// The launch that draws a token instead.
    pub sample: GpuStep,
    /// Number of the kernel that bandwidth is measured with.
    pub probe: usize,
    /// The products that could be cut in other ways, each problem once.
    pub products: Vec<Product>,
}

/// Tokens that are generated at most before the host has to read them.
pub const RING: usize = 1024;

/// Plans every program of `graph`, whose weights are named tensors of the artifact; `measured` knows
/// which ways to cut products are fast.
///
/// # Errors
/// A node or a shape that there is no GPU kernel for, by name.
pub fn plan(
    graph: &Graph,
    options: GpuOptions,
    measured: Measured,
) -> Result<GpuPlan, CodegenError> {
    let mut table = table::Table::new(measured);
    let fusions = fuse::find(graph);
    let mut programs = Vec::new();
    for mode in MODES {
        table.program = mode.name;
        let lowered = lower::lower(graph, mode, options, &fusions, &mut table)?;
        programs.push(lowered::finish(lowered, mode)?);
    }
    let vocab = graph
        .outputs()
        .first()
        .and_then(|(_, id)| graph.ty(*id).last())
        .unwrap_or(1);
    let logits = GpuArg::Arena(programs[0].logits);
    let choice = [logits, GpuArg::Ids, GpuArg::Ring, GpuArg::State];
    let next = GpuStep {
        node: "next".into(),
        kernel: table.kernel(Argmax { vocab, ring: RING }),
        grid: [Blocks::ONE; 3],
        args: choice.to_vec(),
    };
    let blocks = Blocks::Fixed(Sample::grid(options.arch) as u32);
    let sample = GpuStep {
        node: "sample".into(),
        kernel: table.kernel(Sample { vocab, ring: RING }),
        grid: [blocks, Blocks::ONE, Blocks::ONE],
        args: [&choice[..], &[GpuArg::Seen, GpuArg::Sampling]].concat(),
    };
    Ok(GpuPlan {
        next,
        sample,
        probe: table.kernel(ReadMemory),
        kernels: table.specs,
        products: table.products,
        derived: table.derived,
        rope_tables: table.rope_tables,
        setup: table.setup,
        programs,
    })
}
