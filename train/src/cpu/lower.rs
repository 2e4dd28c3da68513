//! A plan's steps as launches: what all of them need, products and maps.

use std::collections::HashMap;

use rabitc_codegen::kernels::Spec;
use rabitc_codegen::kernels::train::map::MapKernel;
use rabitc_codegen::train::{Map, Place, Plan, Step, View};
use rabitc_ir::DType;

use super::host::Host;
use super::lower_kernels::kernel;
use super::product::Product;
use super::program::{Base, Check, Input, Launch, Output, Pointer, Program, Work};
use super::store::Store;
use crate::engine::EngineError;

/// Elements that places in the step's own memory begin at multiples of: a cache line.
const LINE: usize = 16;

/// A program on its way.
pub struct Lower<'a> {
    plan: &'a Plan,
    store: &'a Store,
    program: Program,
    kernels: HashMap<String, usize>,
    /// Where each value begins, as far as one has asked.
    places: Vec<Option<Pointer>>,
    /// Elements of its own that the step in hand has taken so far.
    scratch: usize,
    /// Whether the next launch need not wait for the one before.
    beside: bool,
    node: String,
}

/// The program of `plan`.
pub fn lower(plan: &Plan, store: &Store) -> Result<Program, EngineError> {
    let mut lower = Lower {
        plan,
        store,
        program: Program {
            arena: plan.arena,
            ..Program::default()
        },
        kernels: HashMap::new(),
        places: vec![None; plan.values.len()],
        scratch: 0,
        beside: false,
        node: String::new(),
    };
    for step in &plan.steps {
        lower.step(step)?;
    }
    for (name, value) in &plan.outputs {
        let from = lower.place(*value)?;
        lower.program.outputs.push(Output {
            name: name.clone(),
            shape: plan.values[*value].shape.clone(),
            integers: plan.values[*value].dtype == DType::I32,
            from,
        });
    }
    Ok(lower.program)
}

impl Lower<'_> {
    fn step(&mut self, step: &Step) -> Result<(), EngineError> {
        self.scratch = 0;
        self.node = step.node().to_string();
        for view in step.operands().iter().chain(&step.results()) {
            self.place(view.value)?;
        }
        match step {
            Step::Gemm(gemm) => {
                let product = Product::of(gemm, |view| self.at(view));
                let items = product.items();
                self.push(Work::Product(product), items);
                Ok(())
            }
            Step::Map(map) => self.map(map),
            Step::Kernel(step) => kernel(self, step),
        }
    }

    fn map(&mut self, map: &Map) -> Result<(), EngineError> {
        let dtype = |view: &View| self.plan.values[view.value].dtype;
        if let Some(dtype) = map.operands.iter().map(dtype).find(|d| *d != DType::F32) {
            return Err(self.error(format!("it reads {dtype}, it must be f32")));
        }
        let spec = MapKernel::of(map);
        let reads = map.operands.iter();
        let views = reads.chain(map.stores.iter().map(|store| &store.to));
        let pointers = views.map(|view| self.at(view)).collect();
        let items = spec.items();
        self.launch(spec, pointers, &[], items);
        Ok(())
    }

    /// An error that names the node in hand.
    pub fn error(&self, reason: impl std::fmt::Display) -> EngineError {
        EngineError::new(format!("%{}: {reason}", self.node))
    }

    /// Adds a kernel's launch.
    pub fn launch(
        &mut self,
        spec: impl Spec + 'static,
        pointers: Vec<Pointer>,
        scalars: &[usize],
        items: usize,
    ) {
        let name = spec.name();
        let known = self.kernels.get(&name).copied();
        let spec = known.unwrap_or_else(|| {
            self.program.specs.push(Box::new(spec));
            self.kernels.insert(name, self.program.specs.len() - 1);
            self.program.specs.len() - 1
        });
        let work = Work::Kernel {
            spec,
            pointers,
            scalars: scalars.iter().map(|n| *n as i64).collect(),
        };
        self.push(work, items);
    }

    /// Adds a computation of plain code.
    pub fn host(&mut self, host: Host) {
        let items = host.items();
        self.push(Work::Host(host), items);
    }

    /// States that the next launch need not wait for the one before.
    pub fn beside(&mut self) -> &mut Self {
        self.beside = true;
        self
    }

    fn push(&mut self, work: Work, items: usize) {
        let beside = std::mem::take(&mut self.beside);
        self.program.launches.push(Launch {
            work,
            items,
            beside,
        });
    }

    /// `elements` that the step in hand has for itself.
    pub fn scratch(&mut self, elements: usize) -> Pointer {
        let at = Pointer {
            base: Base::Scratch,
            offset: self.scratch,
        };
        self.scratch += elements.next_multiple_of(LINE);
        self.program.scratch = self.program.scratch.max(self.scratch);
        at
    }

    /// States that the indices in `view` must be below `limit`.
    pub fn check(&mut self, view: &View, limit: usize, optional: bool) -> Result<(), EngineError> {
        let Base::Input(input) = self.at(view).base else {
            return Err(self.error("indices must be an input"));
        };
        self.program.checks.push(Check {
            input,
            limit,
            optional,
            node: self.node.clone(),
        });
        Ok(())
    }

    /// The first element of a view of the step in hand.
    pub fn at(&self, view: &View) -> Pointer {
        let place = self.places[view.value];
        place
            .expect("a step's views are placed first")
            .plus(view.offset)
    }

    /// The first element of a matrix whose rows lie one after the other.
    pub fn dense(&self, view: &View) -> Result<Pointer, EngineError> {
        match view.is_dense() {
            true => Ok(self.at(view)),
            false => Err(self.error("it would have to read columns of a larger matrix")),
        }
    }

    /// Where a value begins.
    fn place(&mut self, value: usize) -> Result<Pointer, EngineError> {
        if let Some(place) = self.places[value] {
            return Ok(place);
        }
        let place = self.find(value)?;
        self.places[value] = Some(place);
        Ok(place)
    }

    fn find(&mut self, value: usize) -> Result<Pointer, EngineError> {
        let plan = self.plan;
        let value = &plan.values[value];
        if value.dtype.bits() != 32 {
            let (name, dtype) = (&value.name, value.dtype);
            return Err(EngineError::new(format!(
                "%{name} is {dtype}: a value must be f32"
            )));
        }
        let (base, offset) = match &value.place {
            Place::Weight(name) => {
                let index = self.store.weight(name)?;
                let weight = &self.store.weights[index];
                if weight.shape != value.shape {
                    let (found, expected) = (&weight.shape, &value.shape);
                    return Err(EngineError::new(format!(
                        "weight `{name}` is {found:?}, the graph expects {expected:?}"
                    )));
                }
                (Base::Weight(index), 0)
            }
            Place::Gradient(name) => {
                let index = self.store.trained(name)?;
                let held = self.store.trained[index].gradient.len() / 4;
                if held != value.rows * value.columns {
                    let found = &value.shape;
                    return Err(EngineError::new(format!(
                        "the gradient of `{name}` is {found:?} in the graph, of {held} elements"
                    )));
                }
                (Base::Gradient(index), 0)
            }
            Place::Input(name) => (self.input(name, value.columns, value.dtype)?, 0),
            Place::Constant(numbers) => {
                let offset = self.program.constants.len();
                self.program.constants.extend(numbers);
                (Base::Constants, offset)
            }
            Place::Arena(bytes) => (Base::Arena, bytes / 4),
        };
        Ok(Pointer { base, offset })
    }

    fn input(&mut self, name: &str, len: usize, dtype: DType) -> Result<Base, EngineError> {
        if dtype != DType::I32 {
            return Err(self.error(format!("input `{name}` is {dtype}, it must be i32")));
        }
        let known = self.program.inputs.iter().position(|i| i.name == name);
        if let Some(index) = known {
            return match self.program.inputs[index].len == len {
                true => Ok(Base::Input(index)),
                false => Err(self.error(format!("input `{name}` has two lengths"))),
            };
        }
        self.program.inputs.push(Input {
            name: name.to_string(),
            len,
        });
        Ok(Base::Input(self.program.inputs.len() - 1))
    }
}
