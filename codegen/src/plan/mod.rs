//! The execution plan: graph nodes become kernel launches, launches get phases, buffers get
//! places in one arena.

pub(crate) mod launch;
mod lower;
mod lower_heads;
mod lower_rb;
pub mod nodes;
mod phase;
pub(crate) mod place;

use std::collections::HashMap;

use rabitc_ir::Graph;
use rabitc_rbx::{Arg, Host, Program, Step, Work};

use crate::CodegenError;
use crate::kernels::Spec;
use launch::{HostLaunch, Launch, LaunchWork, Operand};

/// How a program is planned.
#[derive(Clone, Copy, Debug)]
pub struct PlanOptions {
    /// Name of the program.
    pub name: &'static str,
    /// Tokens that one run takes at most.
    pub max_tokens: usize,
    /// Rows of a dense weight computed together.
    pub row_tile: usize,
    /// Tokens that share one pass over a dense weight.
    pub token_tile: usize,
}

impl PlanOptions {
    /// One token at a time.
    pub const DECODE: PlanOptions = PlanOptions {
        name: "decode",
        max_tokens: 1,
        row_tile: 4,
        token_tile: 1,
    };
    /// Blocks of tokens.
    pub const PREFILL: PlanOptions = PlanOptions {
        name: "prefill",
        max_tokens: 32,
        row_tile: 2,
        token_tile: 4,
    };
}

/// The kernels that the programs of one artifact share, each once.
#[derive(Default)]
pub struct KernelTable {
    /// The kernels in order of first use.
    pub specs: Vec<Box<dyn Spec>>,
    numbers: HashMap<String, usize>,
}

impl KernelTable {
    /// The number of a kernel; a new one if no kernel has its name yet.
    pub fn number(&mut self, spec: Box<dyn Spec>) -> usize {
        let next = self.specs.len();
        let number = *self.numbers.entry(spec.name()).or_insert(next);
        if number == next {
            self.specs.push(spec);
        }
        number
    }
}

/// Plans one program of `graph`, whose weights are named tensors of the artifact.
pub fn plan(
    graph: &Graph,
    options: PlanOptions,
    kernels: &mut KernelTable,
) -> Result<Program, CodegenError> {
    let lowered = lower::lower(graph, options)?;
    let phases = phase::phases(&lowered.launches, lowered.buffers.len());
    let live = phase::lifetimes(&lowered, &phases);
    let placement = place::place(&lowered.buffers, &live, options.max_tokens)
        .ok_or_else(|| CodegenError::plan("the buffers of a step overflow the address space"))?;
    let mut order: Vec<usize> = (0..lowered.launches.len()).collect();
    order.sort_by_key(|i| phases[*i]);
    let mut launches: Vec<Option<Launch>> = lowered.launches.into_iter().map(Some).collect();
    let steps = order
        .into_iter()
        .filter_map(|i| launches[i].take().map(|l| (phases[i], l)))
        .map(|(phase, launch)| step(launch, phase, &placement.offsets, kernels))
        .collect();
    Ok(Program {
        name: options.name.to_string(),
        max_tokens: options.max_tokens,
        arena_bytes: placement.bytes,
        logits: placement.offsets[lowered.logits],
        steps,
    })
}

fn step(launch: Launch, phase: usize, offsets: &[usize], kernels: &mut KernelTable) -> Step {
    let arg = |operand: Operand| match operand {
        Operand::Read(b, offset) | Operand::Write(b, offset) => Arg::Arena(offsets[b] + offset),
        Operand::Weight(name) => Arg::Weight(name),
        Operand::Keys(layer) => Arg::Keys(layer),
        Operand::Values(layer) => Arg::Values(layer),
        Operand::Ids => Arg::Ids,
        Operand::Rows => Arg::Rows,
    };
    let work = match launch.work {
        LaunchWork::Kernel {
            spec,
            args,
            scalars,
            items,
        } => Work::Kernel {
            kernel: kernels.number(spec),
            args: args.into_iter().map(arg).collect(),
            scalars,
            items,
        },
        LaunchWork::Host(HostLaunch::RopeTable {
            inv_freq,
            attention_factor,
            out,
        }) => Work::Host(Host::RopeTable {
            inv_freq,
            attention_factor,
            out: arg(out),
        }),
    };
    Step {
        node: launch.node,
        phase,
        work,
    }
}
