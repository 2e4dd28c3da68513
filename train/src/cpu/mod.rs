//! The engine on this machine's processor.
//!
//! Kernels are those of `rabitc_codegen`, compiled when a graph is taken in; dense products are a
//! library's. Everything is f32. Work is cut into items that do not depend on the number of
//! threads, and each is computed by one thread in one order, so that results do not either.
//!
//! - [`lower`](mod@lower) and its neighbours: a plan's steps to launches.
//! - [`execute`]: runs launches.
//! - [`product`]: dense products; [`host`]: what plain code computes.
//! - [`store`]: weights, gradients, moments; [`optimizer`]: their update.

mod error;
mod execute;
mod host;
mod kernels;
mod lower;
mod lower_attention;
mod lower_kernels;
mod lower_losses;
mod optimizer;
mod product;
mod program;
mod store;
mod widen;

use std::collections::BTreeMap;

use rabitc_codegen::train::{Options, plan};
use rabitc_ir::{DType, Graph, Tensor};
use rabitc_runtime::aligned::AlignedBytes;
use rabitc_runtime::exec_memory::KernelFn;
use rabitc_runtime::pool::Pool;
use rabitc_runtime::topology::default_threads;

use crate::engine::{Engine, EngineError, Memory, Program, State, Trainable, Update};
pub use widen::widen;

use execute::Addresses;
use kernels::Kernels;
use store::Store;

/// Trains on the processor that it runs on.
pub struct CpuEngine {
    pool: Pool,
    kernels: Kernels,
    store: Store,
    programs: Vec<Loaded>,
    /// Intermediate values, of whichever program runs.
    arena: AlignedBytes,
    /// What the step in hand needs for itself.
    scratch: AlignedBytes,
    /// The kernels of updates.
    updates: Vec<KernelFn>,
}

/// A program with its kernels.
struct Loaded {
    program: program::Program,
    entries: Vec<KernelFn>,
}

impl CpuEngine {
    /// An engine with so many threads, or one a core.
    ///
    /// # Errors
    /// A processor that no code can be generated for; threads that the system refuses.
    pub fn new(threads: Option<usize>) -> Result<CpuEngine, EngineError> {
        let mut kernels = Kernels::new()?;
        let updates = kernels.load(&optimizer::specs())?;
        Ok(CpuEngine {
            pool: Pool::new(threads.unwrap_or_else(default_threads))?,
            kernels,
            store: Store::default(),
            programs: Vec::new(),
            arena: store::floats(0, "intermediate values")?,
            scratch: store::floats(0, "a step's own memory")?,
            updates,
        })
    }

    /// Makes room for `elements` in a step's own memory.
    fn reserve_scratch(&mut self, elements: usize) -> Result<(), EngineError> {
        if self.scratch.len() / 4 < elements {
            self.scratch = store::floats(elements, "a step's own memory")?;
        }
        Ok(())
    }

    /// Where everything is; inputs and known numbers as given.
    fn addresses(&mut self, inputs: Vec<*const i32>, constants: &[f32]) -> Addresses {
        let (mut gradients, mut moments) = (Vec::new(), Vec::new());
        for trained in &mut self.store.trained {
            gradients.push(trained.gradient.as_mut_ptr());
            moments.push([trained.moment1.as_mut_ptr(), trained.moment2.as_mut_ptr()]);
        }
        let weights = self.store.weights.iter_mut();
        Addresses {
            weights: weights.map(|w| w.data.as_mut_ptr()).collect(),
            gradients,
            moments,
            inputs,
            arena: self.arena.as_mut_ptr(),
            scratch: self.scratch.as_mut_ptr(),
            constants: constants.as_ptr(),
        }
    }
}

/// The inputs of a program in its order: each given, of its length, its indices within bounds.
fn inputs(
    program: &program::Program,
    given: &[(&str, &[i32])],
) -> Result<Vec<*const i32>, EngineError> {
    let mut found = Vec::new();
    for input in &program.inputs {
        let name = &input.name;
        let value = given.iter().find(|(n, _)| n == name);
        let (_, value) =
            value.ok_or_else(|| EngineError::new(format!("input `{name}` was not given")))?;
        if value.len() != input.len {
            let (found, expected) = (value.len(), input.len);
            return Err(EngineError::new(format!(
                "input `{name}` has {found} elements, the program takes {expected}"
            )));
        }
        found.push(*value);
    }
    for check in &program.checks {
        let (node, limit) = (&check.node, check.limit);
        let bad = found[check.input]
            .iter()
            .find(|x| match usize::try_from(**x) {
                Ok(x) => x >= limit,
                Err(_) => !check.optional,
            });
        if let Some(x) = bad {
            let name = &program.inputs[check.input].name;
            return Err(EngineError::new(format!(
                "%{node}: {x} in input `{name}` is outside 0..{limit}"
            )));
        }
    }
    Ok(found.into_iter().map(<[i32]>::as_ptr).collect())
}

impl Engine for CpuEngine {
    fn describe(&self) -> String {
        let (kernels, threads) = (self.kernels.describe(), self.pool.threads());
        format!("CPU ({kernels}, {threads} threads), products in f32")
    }

    fn deterministic(&self) -> bool {
        true
    }

    fn set_weight(&mut self, name: &str, value: &Tensor) -> Result<(), EngineError> {
        self.store.set(name, value)
    }

    fn weight(&mut self, name: &str) -> Result<Tensor, EngineError> {
        self.store.get(name)
    }

    fn train(&mut self, what: &[Trainable]) -> Result<(), EngineError> {
        self.store.train(what)
    }

    fn state(&mut self, name: &str, which: State) -> Result<Tensor, EngineError> {
        self.store.state(name, which)
    }

    fn set_state(&mut self, name: &str, which: State, value: &Tensor) -> Result<(), EngineError> {
        self.store.set_state(name, which, value)
    }

    fn program(&mut self, graph: &Graph, tokens: usize) -> Result<Program, EngineError> {
        let options = Options {
            tokens,
            storage: DType::F32,
            trained: self.store.trained_names().map(String::from).collect(),
            join_norms: false,
        };
        let plan = plan(&widen::widen(graph)?, &options)?;
        let program = lower::lower(&plan, &self.store)?;
        let entries = self.kernels.load(&program.specs)?;
        if self.arena.len() < program.arena {
            self.arena = AlignedBytes::zeroed(program.arena, "intermediate values")?;
        }
        self.reserve_scratch(program.scratch)?;
        self.programs.push(Loaded { program, entries });
        Ok(Program(self.programs.len() - 1))
    }

    fn run(
        &mut self,
        program: Program,
        given: &[(&str, &[i32])],
    ) -> Result<BTreeMap<String, Tensor>, EngineError> {
        let programs = std::mem::take(&mut self.programs);
        let result = match programs.get(program.0) {
            Some(loaded) => self.run_loaded(loaded, given),
            None => Err(EngineError::new("there is no such program")),
        };
        self.programs = programs;
        result
    }

    fn gradient_norm(&mut self) -> Result<f64, EngineError> {
        let (launches, sums) = optimizer::squares(&self.store);
        self.reserve_scratch(sums)?;
        let addresses = self.addresses(Vec::new(), &[]);
        // SAFETY: the launches are for the tensors of the store, at whose addresses they run, and
        // there is room for all sums.
        unsafe { execute::run(&self.pool, &launches, &self.updates, &addresses)? };
        let sums = self.scratch.as_f32()[..sums].iter();
        Ok(sums.map(|x| f64::from(*x)).sum::<f64>().sqrt())
    }

    fn update(&mut self, update: &Update) -> Result<(), EngineError> {
        let (launches, constants) = optimizer::update(&self.store, update)?;
        let addresses = self.addresses(Vec::new(), &constants);
        // SAFETY: as above; weights, gradients and moments of what is trained are of one size.
        unsafe { execute::run(&self.pool, &launches, &self.updates, &addresses) }
    }

    fn clear_gradients(&mut self) -> Result<(), EngineError> {
        for trained in &mut self.store.trained {
            trained.gradient.as_mut_slice().fill(0);
        }
        Ok(())
    }

    fn memory(&self) -> Memory {
        let bytes = |x: &AlignedBytes| x.len() as u64;
        let trained = self.store.trained.iter();
        Memory {
            weights: self.store.weights.iter().map(|w| bytes(&w.data)).sum(),
            gradients: trained.clone().map(|t| bytes(&t.gradient)).sum(),
            moments: trained.map(|t| bytes(&t.moment1) + bytes(&t.moment2)).sum(),
            activations: bytes(&self.arena) + bytes(&self.scratch),
            peak: 0,
        }
    }
}

impl CpuEngine {
    fn run_loaded(
        &mut self,
        loaded: &Loaded,
        given: &[(&str, &[i32])],
    ) -> Result<BTreeMap<String, Tensor>, EngineError> {
        let program = &loaded.program;
        let inputs = inputs(program, given)?;
        let addresses = self.addresses(inputs, &program.constants);
        // SAFETY: the plan gives every value the room of its size in the arena, which is as large
        // as the plan says, as is the steps' own memory; weights and gradients have been compared
        // with what the plan takes them for, inputs with their lengths and limits.
        unsafe { execute::run(&self.pool, &program.launches, &loaded.entries, &addresses)? };
        let outputs = program.outputs.iter().map(|output| {
            let n: usize = output.shape.iter().product();
            let at = output.from.offset;
            let data = match output.from.base {
                program::Base::Arena => &self.arena.as_f32()[at..at + n],
                _ => {
                    return Err(EngineError::new(format!(
                        "output `{}` is no result",
                        output.name
                    )));
                }
            };
            let tensor = match output.integers {
                true => Tensor::i32(
                    &output.shape,
                    data.iter().map(|x| x.to_bits() as i32).collect(),
                ),
                false => Tensor::f32(&output.shape, data.to_vec()),
            };
            Ok((output.name.clone(), tensor))
        });
        outputs.collect()
    }
}
