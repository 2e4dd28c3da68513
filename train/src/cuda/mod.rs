//! Training on NVIDIA GPUs.
//!
//! Dense products go to cuBLASLt, with bf16 factors and f32 sums; everything else to kernels that
//! are generated for the graph and compiled by NVRTC when the graph is taken in. Everything runs
//! in one order on one stream, and sums have a fixed order: the same calls give the same bits on
//! the same kind of device.

mod blas;
mod check;
mod held;
mod kernels;
mod profile;
mod program;
mod weights;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use rabitc_codegen::train::{self, Options, Place, View};
use rabitc_ir::{DType, Graph, Tensor};
use rabitc_rbx::SmArch;
use rabitc_runtime::Error;
use rabitc_runtime::cuda::driver::{Device, DeviceMemory};

pub use blas::cublaslt;
pub use check::{Checked, check};

use self::blas::Blas;
use self::held::Held;
use self::kernels::Kernels;
use self::program::{Addresses, Program};
use self::weights::Weights;
use crate::engine::{Engine, EngineError, Memory, Program as Handle, State, Trainable, Update};

/// An engine on one device.
pub struct CudaEngine {
    // Freed from the top: programs before the memory that they use.
    programs: Vec<Program>,
    kernels: Kernels,
    blas: Blas,
    held: Option<Held>,
    weights: Weights,
    arena: Option<DeviceMemory>,
    scratch: Option<DeviceMemory>,
    /// Bytes that were free before anything was allocated, and the fewest since.
    free: (usize, usize),
    device: Arc<Device>,
}

fn message(e: Error) -> EngineError {
    EngineError::new(e.to_string())
}

impl CudaEngine {
    /// An engine without weights on device `ordinal`.
    ///
    /// # Errors
    /// No driver, no such device, one older than bf16 matrix instructions (sm_80), no NVRTC, or no
    /// cuBLASLt.
    pub fn new(ordinal: usize) -> Result<CudaEngine, EngineError> {
        let device = Device::open(ordinal).map_err(message)?;
        if device.info.arch < SmArch::OLDEST {
            let (name, arch, oldest) = (&device.info.name, device.info.arch, SmArch::OLDEST);
            let reason = format!("device {ordinal}, {name}, is {arch}: training needs {oldest}");
            return Err(EngineError::new(reason));
        }
        let free = device.free_bytes().map_err(message)?;
        let mut kernels = Kernels::new(&device)?;
        kernels.prepare(held::sources(device.info.arch).iter())?;
        Ok(CudaEngine {
            programs: Vec::new(),
            blas: Blas::open(&device)?,
            kernels,
            held: None,
            weights: Weights::new(&device),
            arena: None,
            scratch: None,
            free: (free, free),
            device,
        })
    }

    /// The gradient held for a trained weight.
    ///
    /// # Errors
    /// A weight that is not trained, or a device that was lost.
    pub fn gradient(&self, name: &str) -> Result<Tensor, EngineError> {
        self.bind()?;
        let gradient = self.held()?.read_gradient(name)?;
        Ok(Tensor::f32(&self.weights.get(name)?.shape, gradient))
    }

    /// Makes a weight, or replaces it, from its elements as they are stored, little endian: what
    /// [`Engine::set_weight`] does, without a copy in between.
    ///
    /// # Errors
    /// Elements that are no floats or do not fill the shape, another type or shape than before, or
    /// too little memory.
    pub fn set_weight_bytes(
        &mut self,
        name: &str,
        dtype: DType,
        shape: &[usize],
        bytes: &[u8],
    ) -> Result<(), EngineError> {
        self.bind()?;
        self.weights.set(name, dtype, shape, bytes)?;
        self.watch()
    }

    fn bind(&self) -> Result<(), EngineError> {
        self.device.bind().map_err(message)
    }

    fn held(&self) -> Result<&Held, EngineError> {
        let missing = || EngineError::new("nothing is trained yet");
        self.held.as_ref().ok_or_else(missing)
    }

    /// Where the weight or gradient of that place is, and its bytes.
    fn named(&self, place: &Place) -> Result<(u64, usize), EngineError> {
        match place {
            Place::Weight(name) => {
                let weight = self.weights.get(name)?;
                Ok((weight.address(), weight.bytes))
            }
            Place::Gradient(name) => self.held()?.gradient(name),
            place => Err(EngineError::new(format!("{place:?} has no name"))),
        }
    }

    /// Makes arena and scratch memory as large as a program needs.
    fn reserve(&mut self, arena: usize, scratch: usize) -> Result<(), EngineError> {
        self.device.synchronize().map_err(message)?;
        let device = Arc::clone(&self.device);
        let grow = |old: &mut Option<DeviceMemory>, bytes: usize, what| {
            if old.as_ref().is_some_and(|m| m.bytes() >= bytes) {
                return Ok::<bool, EngineError>(false);
            }
            *old = None;
            *old = Some(DeviceMemory::zeroed(&device, bytes, what).map_err(message)?);
            Ok(true)
        };
        let moved = grow(&mut self.arena, arena, "the values of a step")?;
        let moved = grow(&mut self.scratch, scratch, "scratch memory")? || moved;
        if moved {
            self.programs.iter_mut().for_each(Program::forget);
        }
        self.watch()
    }

    /// Notes how much memory is free.
    fn watch(&mut self) -> Result<(), EngineError> {
        let free = self.device.free_bytes().map_err(message)?;
        self.free.1 = self.free.1.min(free);
        Ok(())
    }

    /// Calls `work` with a program and the addresses of what it uses.
    fn with<R>(
        &mut self,
        program: usize,
        work: impl FnOnce(&mut Program, &Self, &Addresses<'_>) -> Result<R, EngineError>,
    ) -> Result<R, EngineError> {
        if program >= self.programs.len() {
            return Err(EngineError::new(format!("there is no program {program}")));
        }
        let mut taken = self.programs.swap_remove(program);
        let at = |memory: &Option<DeviceMemory>| memory.as_ref().map_or(0, |m| m.at(0));
        let result = {
            let this: &Self = self;
            let addresses = Addresses {
                arena: at(&this.arena),
                scratch: at(&this.scratch),
                named: &|place| this.named(place),
            };
            work(&mut taken, this, &addresses)
        };
        self.programs.push(taken);
        let last = self.programs.len() - 1;
        self.programs.swap(program, last);
        result
    }

    /// Outputs of a program, after it ran.
    fn outputs(
        &self,
        program: &Program,
        at: &Addresses<'_>,
    ) -> Result<BTreeMap<String, Tensor>, EngineError> {
        let mut out = BTreeMap::new();
        for (name, value) in &program.plan.outputs {
            let found = &program.plan.values[*value];
            let view = View {
                value: *value,
                offset: 0,
                rows: found.rows,
                columns: found.columns,
                stride: found.columns,
            };
            let mut tensor = program.read(view, at, &self.device)?;
            tensor.shape.clone_from(&found.shape);
            if tensor.dtype != DType::I32 {
                tensor.dtype = DType::F32;
            }
            out.insert(name.clone(), tensor);
        }
        Ok(out)
    }
}

impl Engine for CudaEngine {
    fn describe(&self) -> String {
        format!("{}, bf16 products", self.device.info.name)
    }

    fn deterministic(&self) -> bool {
        true
    }

    fn set_weight(&mut self, name: &str, value: &Tensor) -> Result<(), EngineError> {
        self.set_weight_bytes(name, value.dtype, &value.shape, &value.to_le_bytes())
    }

    fn weight(&mut self, name: &str) -> Result<Tensor, EngineError> {
        self.bind()?;
        self.weights.read(name)
    }

    fn train(&mut self, what: &[Trainable]) -> Result<(), EngineError> {
        self.bind()?;
        if self.held.is_some() {
            return Err(EngineError::new("what is trained was said already"));
        }
        let address = |one: &Trainable| {
            let weight = self.weights.get(&one.name)?;
            let fits = weight.dtype == one.dtype && weight.shape == one.shape;
            let trains = matches!(one.dtype, DType::F32 | DType::BF16);
            match fits && trains {
                true => Ok(weight.address()),
                false => {
                    let (name, dtype, shape) = (&one.name, one.dtype, &one.shape);
                    let (old, held) = (weight.dtype, &weight.shape);
                    Err(EngineError::new(format!(
                        "`{name}` cannot be trained as {dtype}{shape:?}: it is {old}{held:?}, and \
                         weights are trained as f32 or bf16"
                    )))
                }
            }
        };
        self.held = Some(Held::new(&self.device, what, address)?);
        self.watch()
    }

    fn state(&mut self, name: &str, which: State) -> Result<Tensor, EngineError> {
        self.bind()?;
        let shape = self.weights.get(name)?.shape.clone();
        Ok(Tensor::f32(&shape, self.held()?.moment(name, which)?))
    }

    fn set_state(&mut self, name: &str, which: State, value: &Tensor) -> Result<(), EngineError> {
        self.bind()?;
        self.held()?.set_moment(name, which, value.floats())
    }

    fn program(&mut self, graph: &Graph, tokens: usize) -> Result<Handle, EngineError> {
        self.bind()?;
        let trained: HashSet<String> = self.held.iter().flat_map(Held::names).cloned().collect();
        let options = Options {
            tokens,
            storage: DType::BF16,
            trained,
            join_norms: true,
        };
        let plan = train::plan(graph, &options).map_err(|e| EngineError::new(e.to_string()))?;
        let program = Program::new(&self.device, plan, &mut self.kernels, &self.blas)?;
        self.reserve(program.plan.arena, program.scratch)?;
        self.programs.push(program);
        let handle = self.programs.len() - 1;
        // Whatever is missing or has another size is said now.
        self.with(handle, |program, _, at| {
            let values = 0..program.plan.values.len();
            values
                .into_iter()
                .try_for_each(|v| program.address(v, at).map(|_| ()))
        })?;
        Ok(Handle(handle))
    }

    fn run(
        &mut self,
        program: Handle,
        inputs: &[(&str, &[i32])],
    ) -> Result<BTreeMap<String, Tensor>, EngineError> {
        self.bind()?;
        let (settled, outputs) = self.with(program.0, |program, this, at| {
            let settled = program.is_recorded();
            program.write_inputs(inputs)?;
            program.run(&this.device, &this.blas, at)?;
            Ok((settled, this.outputs(program, at)?))
        })?;
        // Replaying allocates nothing.
        if !settled {
            self.watch()?;
        }
        Ok(outputs)
    }

    fn gradient_norm(&mut self) -> Result<f64, EngineError> {
        self.bind()?;
        self.held()?.norm(&self.kernels)
    }

    fn update(&mut self, update: &Update) -> Result<(), EngineError> {
        self.bind()?;
        self.held()?.update(&self.kernels, update)
    }

    fn clear_gradients(&mut self) -> Result<(), EngineError> {
        self.bind()?;
        self.held()?.clear()
    }

    fn memory(&self) -> Memory {
        let (gradients, moments) = self.held.as_ref().map_or((0, 0), Held::bytes);
        Memory {
            weights: self.weights.bytes(),
            gradients,
            moments,
            activations: self.arena.as_ref().map_or(0, |m| m.bytes() as u64),
            peak: (self.free.0 - self.free.1.min(self.free.0)) as u64,
        }
    }
}

impl Drop for CudaEngine {
    fn drop(&mut self) {
        // Nothing may be freed while kernels use it.
        let _ = self.device.bind().and_then(|()| self.device.synchronize());
    }
}
