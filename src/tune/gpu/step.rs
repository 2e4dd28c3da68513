//! Layers of a program on a card: every launch of them, and not the products alone.
//!
//! What wins among products that follow each other may lose in a model, where attention and whatever
//! else a layer has stands between them and needs room on the multiprocessors too. So the last word
//! is with launches as a model has them, in memory that is laid out like a model's.

use std::ops::Range;

use anyhow::{Context, Result, anyhow};
use rabitc_codegen::cuda::plan::GpuPlan;
use rabitc_codegen::cuda::plan::product::Product;
use rabitc_codegen::cuda::{Compiler, Source};
use rabitc_ir::{Graph, Op};
use rabitc_rbx::gpu::{GpuArg, GpuProgram, GpuStep};
use rabitc_runtime::cuda::driver::DeviceMemory;
use rabitc_runtime::cuda::workbench::{Launch, Recording, Tool, Workbench};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::chain::Chain;
use super::demand::Demand;
use crate::compile::gpu::{compile_all, kernel};

/// Positions that are cached ahead of the step.
pub const POSITIONS: usize = 256;
/// Everything starts at a multiple of so many bytes.
const ALIGNMENT: usize = 256;
/// Bytes of numbers that stand for signs, scales, inputs and caches.
const PATTERN: usize = 1 << 20;
/// Seed of the numbers.
const SEED: u64 = 5;

/// Some layers of a program, ready to be launched.
pub struct Step<'a> {
    bench: &'a Workbench,
    memory: DeviceMemory,
    /// Kernels that are no products.
    tools: Vec<Tool>,
    launches: Vec<Part>,
    /// How many layers: launches of the product that begins one.
    pub layers: usize,
}

/// A launch, and where in the memory its arguments are.
struct Part {
    kernel: Kernel,
    grid: [u32; 3],
    offsets: Vec<usize>,
}

/// What is launched.
#[derive(Clone, Copy)]
enum Kernel {
    /// One of [`Step::tools`].
    Tool(usize),
    /// The product in this place, cut in any way.
    Product(usize),
}

impl<'a> Step<'a> {
    /// Layers of the program whose products are `products`, over `bytes` bytes of signs if the model
    /// has so many.
    ///
    /// # Errors
    /// A kernel that does not compile, or memory that the card does not have.
    pub fn new(
        bench: &'a Workbench,
        compiler: &Compiler,
        demand: &Demand,
        products: &[&Product],
        bytes: usize,
    ) -> Result<Step<'a>> {
        let (plan, name) = (&demand.plan, products[0].program);
        let program = plan.programs.iter().find(|p| p.name == name);
        let program = program.ok_or_else(|| anyhow!("there is no program {name}"))?;
        let place = |step: &GpuStep| place(plan, products, step);
        let size = |step: &GpuStep| place(step).map_or(0, |p| products[p].task.layout.sign_bytes());
        let kept = layers(&program.steps[..program.head], &size, bytes);
        let steps = &program.steps[kept];
        let tokens = products[0].task.tokens;
        let mut places = Places::new(demand, program, tokens);
        let (mut launches, mut others) = (Vec::new(), Vec::new());
        for step in steps {
            let kernel = match place(step) {
                Some(place) => Kernel::Product(place),
                None => Kernel::Tool(number(&mut others, step.kernel)),
            };
            let offsets = step.args.iter().map(|arg| places.of(arg));
            launches.push(Part {
                kernel,
                grid: step.grid.map(|blocks| blocks.count(tokens, tokens)),
                offsets: offsets
                    .collect::<Result<_>>()
                    .with_context(|| step.node.clone())?,
            });
        }
        let first = steps.first().map(|s| s.kernel);
        Ok(Step {
            bench,
            memory: places.fill(bench)?,
            tools: tools(bench, compiler, demand, products[0], &others)?,
            layers: steps.iter().filter(|s| Some(s.kernel) == first).count(),
            launches,
        })
    }

    /// The layers with the products' candidates as `chosen` has them.
    ///
    /// # Errors
    /// Work that cannot be recorded.
    pub fn record<'b>(&'b self, chain: &'b Chain<'_>, chosen: &[usize]) -> Result<Recording<'b>> {
        let launches = self.launches.iter().map(|part| {
            let (tool, grid) = match part.kernel {
                Kernel::Tool(n) => (&self.tools[n], part.grid),
                Kernel::Product(place) => chain.product(place).tool(chosen[place]),
            };
            let args = part.offsets.iter().map(|at| (&self.memory, *at)).collect();
            // SAFETY: the plan says how long each argument is, and `Places` lays them out by it; all
            // ways to cut a product of few tokens take the same arguments.
            unsafe { Launch::new(tool, grid, args) }
        });
        Ok(self.bench.record(&launches.collect::<Vec<_>>())?)
    }
}

/// The place of the product that a step computes, if it is one of `products`.
fn place(plan: &GpuPlan, products: &[&Product], step: &GpuStep) -> Option<usize> {
    let name = plan.kernels[step.kernel].name();
    let is = |p: &&Product| p.candidates[p.chosen].spec.name() == name;
    products.iter().position(is)
}

/// The index of `kernel` among `all`; it is added if it is new.
fn number(all: &mut Vec<usize>, kernel: usize) -> usize {
    let known = all.iter().position(|k| *k == kernel);
    known.unwrap_or_else(|| {
        all.push(kernel);
        all.len() - 1
    })
}

/// Whole layers from the first product on, which `size` says are products by their bytes, until they
/// have `least` bytes. A layer begins with the product that the first begins with.
fn layers(steps: &[GpuStep], size: &dyn Fn(&GpuStep) -> usize, least: usize) -> Range<usize> {
    let Some(begin) = steps.iter().position(|s| size(s) > 0) else {
        return 0..0;
    };
    let mut bytes = 0;
    for (n, step) in steps.iter().enumerate().skip(begin) {
        if bytes >= least && step.kernel == steps[begin].kernel {
            return begin..n;
        }
        bytes += size(step);
    }
    begin..steps.len()
}

fn tools(
    bench: &Workbench,
    compiler: &Compiler,
    demand: &Demand,
    product: &Product,
    numbers: &[usize],
) -> Result<Vec<Tool>> {
    let kernels = numbers.iter().map(|n| &demand.plan.kernels[*n]);
    let sources: Vec<Source> = kernels.map(|k| k.source(product.arch)).collect();
    let compiled = compile_all(compiler, &sources, product.arch)?;
    let tools = sources.iter().zip(&compiled);
    let tools = tools.map(|(source, c)| Ok(bench.load(&kernel(source, c), &c.cubin)?));
    tools.collect()
}

/// Where the arguments of launches are in one piece of memory.
struct Places<'a> {
    demand: &'a Demand,
    /// Tokens of a run.
    tokens: usize,
    /// Positions that a cache has room for.
    capacity: usize,
    arena: usize,
    known: Vec<(GpuArg, usize)>,
    end: usize,
}

impl<'a> Places<'a> {
    fn new(demand: &'a Demand, program: &GpuProgram, tokens: usize) -> Places<'a> {
        let mut places = Places {
            demand,
            tokens,
            capacity: (POSITIONS + tokens).next_multiple_of(16),
            arena: 0,
            known: Vec::new(),
            end: 0,
        };
        places.arena = places.reserve(program.arena_bytes);
        places
    }

    fn reserve(&mut self, bytes: usize) -> usize {
        let start = self.end;
        self.end = (start + bytes).next_multiple_of(ALIGNMENT);
        start
    }

    /// The offset of an argument, which gets a place if it has none yet.
    fn of(&mut self, arg: &GpuArg) -> Result<usize> {
        if let GpuArg::Arena(offset) = arg {
            return Ok(self.arena + offset);
        }
        if let Some((_, at)) = self.known.iter().find(|(known, _)| known == arg) {
            return Ok(*at);
        }
        let at = self.bytes(arg).map(|bytes| self.reserve(bytes))?;
        self.known.push((arg.clone(), at));
        Ok(at)
    }

    fn bytes(&self, arg: &GpuArg) -> Result<usize> {
        let (plan, graph) = (&self.demand.plan, &self.demand.graph);
        let found = match arg {
            GpuArg::Weight(name) => weight_bytes(graph, name),
            GpuArg::Derived(n) => plan.derived.get(*n).map(|d| d.bytes),
            GpuArg::Keys(layer) | GpuArg::Values(layer) => {
                cache_row(graph, *layer).and_then(|row| row.checked_mul(self.capacity))
            }
            GpuArg::Rope(n) => plan
                .rope_tables
                .get(*n)
                .map(|t| t.inv_freq.len() * 8 * self.capacity),
            GpuArg::Ids | GpuArg::Rows => Some(self.tokens * 4),
            GpuArg::State => Some(16),
            _ => None,
        };
        found.ok_or_else(|| anyhow!("{arg:?} is nothing that a layer reads"))
    }

    /// The memory, with numbers everywhere.
    fn fill(&self, bench: &Workbench) -> Result<DeviceMemory> {
        let memory = bench.memory(self.end)?;
        let pattern = numbers();
        for at in (0..memory.bytes()).step_by(PATTERN) {
            let length = PATTERN.min(memory.bytes() - at);
            memory.write(at, &bytemuck::cast_slice(&pattern)[..length])?;
        }
        for (arg, at) in &self.known {
            let tokens = self.tokens as u32;
            let state = [POSITIONS as u32, tokens, tokens, self.capacity as u32];
            match arg {
                GpuArg::State => memory.write(*at, bytemuck::cast_slice(&state))?,
                GpuArg::Ids | GpuArg::Rows => memory.clear(*at, self.tokens * 4)?,
                _ => {}
            }
        }
        Ok(memory)
    }
}

/// Random words that are small numbers as f16, bf16 and f32 alike, and signs as good as any.
fn numbers() -> Vec<u16> {
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    // Of f16, 0.125 to 0.5 with either sign.
    let number = |_| random.random::<u16>() & 0x87ff | 0x3000;
    (0..PATTERN / 2).map(number).collect()
}

fn weight_bytes(graph: &Graph, name: &str) -> Option<usize> {
    let is = |id: &_| matches!(graph.op(*id), Op::Weight(w) if w.name == name);
    let id = graph.order().into_iter().find(is)?;
    graph.ty(id).storage_bytes()
}

/// Bytes of the keys of a position in a layer's cache.
fn cache_row(graph: &Graph, layer: usize) -> Option<usize> {
    let row = |id| match graph.op(id) {
        Op::Attention(op) if op.layer == layer => op
            .n_kv_heads
            .checked_mul(op.head_dim.next_multiple_of(8) * 2),
        _ => None,
    };
    graph.order().into_iter().find_map(row)
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod tests;
