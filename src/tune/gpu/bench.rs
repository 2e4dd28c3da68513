//! The candidates of one product on a card: compiled, checked, ready to be launched.

use std::rc::Rc;

use anyhow::{Context, Result, anyhow, bail};
use rabitc_codegen::cuda::kernels::rb_fold::RbFold;
use rabitc_codegen::cuda::kernels::rb_prepare::{Before, Order, RbPrepare};
use rabitc_codegen::cuda::kernels::rb_repack::RbRepack;
use rabitc_codegen::cuda::plan::product::Product;
use rabitc_codegen::cuda::{Compiler, CudaSpec};
use rabitc_codegen::kernels::Float;
use rabitc_runtime::cuda::driver::DeviceMemory;
use rabitc_runtime::cuda::workbench::{Launch, Tool, Workbench};

use super::compilation::Compilation;
use super::problem::{Problem, Stored};
use crate::compile::gpu::{compile_all, kernel};

/// Copies of a layer start at multiples of this many bytes.
const ALIGNMENT: usize = 256;
/// Random bytes that stand for signs.
const PATTERN: usize = 1 << 20;
/// Prepared inputs hold a multiple of so many tokens.
const UNIT_TOKENS: usize = 256;

/// A product's memory on a card, and its candidates.
pub struct Bench<'a> {
    bench: &'a Workbench,
    product: &'a Product,
    problem: Problem,
    memory: Memory,
    candidates: Vec<Ready>,
}

struct Memory {
    /// The layer's signs, and more of the same size.
    signs: DeviceMemory,
    g: DeviceMemory,
    h: DeviceMemory,
    /// h in the order of the products of many tokens.
    h_steps: DeviceMemory,
    x: DeviceMemory,
    /// x as the candidates want it that do not read it as it is.
    prepared: Vec<Prepared>,
    residual: DeviceMemory,
    out: DeviceMemory,
    state: DeviceMemory,
}

/// x in f16, in an order.
struct Prepared {
    order: Order,
    x: DeviceMemory,
    factor: DeviceMemory,
}

struct Ready {
    tool: Tool,
    params: Vec<String>,
    grid: [u32; 3],
    index: usize,
}

impl<'a> Bench<'a> {
    /// Loads the candidates, fills the card's memory with so many copies of the signs, and checks what
    /// every candidate computes for a layer.
    ///
    /// # Errors
    /// A candidate that computes something else; memory that the card does not have.
    pub fn new(
        bench: &'a Workbench,
        compiler: &Compiler,
        product: &'a Product,
        candidates: &[Compilation],
        stored: Rc<Stored>,
        copies: usize,
    ) -> Result<Bench<'a>> {
        let problem = Problem::new(&product.task, stored);
        let memory = Memory::new(bench, compiler, product, &problem, copies)?;
        let mut all = Bench {
            bench,
            product,
            problem,
            memory,
            candidates: Vec::new(),
        };
        all.candidates = all.load(candidates)?;
        all.prepare(compiler)?;
        for candidate in 0..all.candidates() {
            all.check(candidate)
                .with_context(|| all.describe(candidate).0)?;
        }
        Ok(all)
    }

    /// How many candidates there are; the first is the cost model's choice.
    pub fn candidates(&self) -> usize {
        self.candidates.len()
    }

    /// A candidate's kernel, and its time by the cost model in seconds.
    pub fn describe(&self, candidate: usize) -> (String, f64) {
        let candidate = &self.product.candidates[self.candidates[candidate].index];
        (candidate.spec.name(), candidate.cost)
    }

    fn load(&self, candidates: &[Compilation]) -> Result<Vec<Ready>> {
        let ready = candidates.iter().map(|c| {
            let grid = self.product.candidates[c.index].grid;
            let tool = self
                .bench
                .load(&kernel(&c.source, &c.code), &c.code.cubin)?;
            Ok(Ready {
                tool,
                params: c.source.params.clone(),
                grid: [grid[0] as u32, grid[1] as u32, 1],
                index: c.index,
            })
        });
        ready.collect()
    }

    /// Makes the inputs of candidates that do not read x as it is.
    fn prepare(&mut self, compiler: &Compiler) -> Result<()> {
        let orders = self.candidates.iter().map(|c| self.order(c));
        for order in orders.flatten().collect::<Vec<_>>() {
            if self.memory.prepared.iter().any(|p| p.order == order) {
                continue;
            }
            let prepared =
                Prepared::new(self.bench, compiler, self.product, order, &self.memory.x)?;
            self.memory.prepared.push(prepared);
        }
        Ok(())
    }

    fn order(&self, candidate: &Ready) -> Option<Order> {
        self.product.candidates[candidate.index].input
    }

    /// Bytes of the product's signs.
    pub fn sign_bytes(&self) -> usize {
        self.product.task.layout.sign_bytes()
    }

    /// A candidate's kernel, and its blocks for all tokens.
    pub fn tool(&self, candidate: usize) -> (&Tool, [u32; 3]) {
        let ready = &self.candidates[candidate];
        (&ready.tool, ready.grid)
    }

    /// A launch of a candidate on copy `n` of the signs.
    pub fn launch(&self, candidate: usize, n: usize) -> Launch<'_> {
        let (memory, ready) = (&self.memory, &self.candidates[candidate]);
        let order = self.order(ready);
        let prepared = memory.prepared.iter().find(|p| Some(p.order) == order);
        let place = |name: &String| match (&name[..], prepared) {
            ("signs", _) => (&memory.signs, n * stride(self.product)),
            ("g", _) => (&memory.g, 0),
            ("h", _) => (&memory.h, 0),
            ("h_steps", _) => (&memory.h_steps, 0),
            ("x", Some(prepared)) => (&prepared.x, 0),
            ("x", None) => (&memory.x, 0),
            ("factor", Some(prepared)) => (&prepared.factor, 0),
            ("residual", _) => (&memory.residual, 0),
            ("state", _) => (&memory.state, 0),
            // `out`, or `gated`; `check` notices whatever else it might be.
            _ => (&memory.out, 0),
        };
        let args = ready.params.iter().map(place).collect();
        // SAFETY: `Memory` is laid out by the task that the kernel is specialised for, and copies
        // of the signs lie a stride apart.
        unsafe { Launch::new(&ready.tool, ready.grid, args) }
    }

    fn check(&self, candidate: usize) -> Result<()> {
        let columns = self.product.task.columns;
        let (mut row, out) = (vec![f32::NAN; columns], &self.memory.out);
        let bytes = columns * 4;
        for token in self.problem.tokens() {
            out.write(token * bytes, bytemuck::cast_slice(&row))?;
        }
        self.bench.run(&[self.launch(candidate, 0)])?;
        for token in self.problem.tokens() {
            out.read(token * bytes, bytemuck::cast_slice_mut(&mut row))?;
            if let Some(n) = row.iter().position(|v| v.is_nan()) {
                bail!("token {token}, column {n} is not written");
            }
            self.problem.check(token, &row)?;
        }
        Ok(())
    }
}

/// Bytes from one copy of the signs to the next.
pub fn stride(product: &Product) -> usize {
    let bytes = product.task.layout.sign_bytes();
    bytes.next_multiple_of(ALIGNMENT).max(ALIGNMENT)
}

impl Memory {
    fn new(
        bench: &Workbench,
        compiler: &Compiler,
        product: &Product,
        problem: &Problem,
        copies: usize,
    ) -> Result<Memory> {
        let task = &product.task;
        let layout = &task.layout;
        let sign_bytes = stride(product).checked_mul(copies);
        let filled = |bytes: &[u8]| {
            let memory = bench.memory(bytes.len())?;
            if !bytes.is_empty() {
                memory.write(0, bytes)?;
            }
            Ok::<_, anyhow::Error>(memory)
        };
        // Position, tokens, rows, capacity.
        let tokens = task.tokens as u32;
        let state = [0, tokens, tokens, 0];
        let memory = Memory {
            signs: bench.memory(sign_bytes.ok_or_else(|| anyhow!("too many signs"))?)?,
            g: bench.memory(layout.scale_count() * 4)?,
            h: bench.memory(layout.h_count() * 2)?,
            h_steps: bench.memory(layout.h_count() * 2)?,
            prepared: Vec::new(),
            x: filled(bytemuck::cast_slice(&problem.input()))?,
            residual: filled(bytemuck::cast_slice(problem.residual()))?,
            out: bench.memory(task.tokens * task.columns * 4)?,
            state: filled(bytemuck::cast_slice(&state))?,
        };
        memory.fill(bench, compiler, product, problem)?;
        Ok(memory)
    }

    /// Random signs everywhere, and the problem's layer in the first copy, as a model is loaded.
    fn fill(
        &self,
        bench: &Workbench,
        compiler: &Compiler,
        product: &Product,
        problem: &Problem,
    ) -> Result<()> {
        let (arch, layout) = (product.arch, &product.task.layout);
        let stored = problem.stored();
        let pattern: Vec<u8> = stored.signs.iter().copied().cycle().take(PATTERN).collect();
        for at in (0..self.signs.bytes()).step_by(PATTERN) {
            let length = PATTERN.min(self.signs.bytes() - at);
            self.signs.write(at, &pattern[..length])?;
        }
        let repack = RbRepack {
            layout: layout.clone(),
        };
        let fold = RbFold {
            layout: layout.clone(),
            g: Float::F16,
            h: Float::F16,
            norm: None,
        };
        let sources = [repack.source(arch), fold.source(arch)];
        let compiled = compile_all(compiler, &sources, arch)?;
        let [stored_signs, stored_g, stored_h] = [
            &stored.signs[..],
            bytemuck::cast_slice(&stored.g),
            bytemuck::cast_slice(stored.h()),
        ]
        .map(|bytes| {
            let memory = bench.memory(bytes.len())?;
            memory.write(0, bytes).map(|()| memory)
        });
        let (stored_signs, stored_g, stored_h) = (stored_signs?, stored_g?, stored_h?);
        let places = [
            vec![&stored_signs, &self.signs],
            vec![&stored_g, &stored_h, &self.g, &self.h, &self.h_steps],
        ];
        let blocks = [repack.grid(), fold.grid()];
        for (n, places) in places.into_iter().enumerate() {
            let tool = bench.load(&kernel(&sources[n], &compiled[n]), &compiled[n].cubin)?;
            let args = places.into_iter().map(|memory| (memory, 0)).collect();
            // SAFETY: both kernels read a stored layer, copied whole, and write what the layout
            // that they are specialised for takes, which is what the memory was sized by.
            let launch = unsafe { Launch::new(&tool, [blocks[n] as u32, 1, 1], args) };
            bench.run(&[launch])?;
        }
        Ok(())
    }
}

impl Prepared {
    /// `x` in an order, by the kernel that a model would use.
    fn new(
        bench: &Workbench,
        compiler: &Compiler,
        product: &Product,
        order: Order,
        x: &DeviceMemory,
    ) -> Result<Prepared> {
        let (task, d_in) = (&product.task, product.task.layout.stored.d_in);
        let prepare = RbPrepare {
            d_in,
            x_stride: task.x_stride,
            x_aligned: task.x_stride.is_multiple_of(4) && d_in.is_multiple_of(4),
            before: Before::Nothing,
            order,
        };
        let tokens = task.tokens.next_multiple_of(UNIT_TOKENS);
        let bytes = (prepare.padded() * 2).checked_mul(tokens);
        let prepared = Prepared {
            order,
            x: bench.memory(bytes.ok_or_else(|| anyhow!("too many tokens"))?)?,
            factor: bench.memory(tokens * 4)?,
        };
        let source = prepare.source(product.arch);
        let compiled = compile_all(compiler, std::slice::from_ref(&source), product.arch)?;
        let tool = bench.load(&kernel(&source, &compiled[0]), &compiled[0].cubin)?;
        let args = vec![(x, 0), (&prepared.x, 0), (&prepared.factor, 0)];
        // SAFETY: the kernel reads the tokens of the task, which `x` was sized by, and writes as many
        // rows of `padded` f16 elements.
        let launch = unsafe { Launch::new(&tool, [task.tokens as u32, 1, 1], args) };
        bench.run(&[launch])?;
        Ok(prepared)
    }
}
