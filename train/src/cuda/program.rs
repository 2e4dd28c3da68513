//! A graph on a device: its plan, its kernels and products, and the launches as recorded.

use std::sync::Arc;

use rabitc_codegen::cuda::train::{Arg, Launches, launches};
use rabitc_codegen::train::{Kernel as PlanKernel, Place, Plan, Step, View};
use rabitc_ir::{Op, Tensor};
use rabitc_rbx::SmArch;
use rabitc_runtime::cuda::driver::{Device, DeviceMemory};
use rabitc_runtime::cuda::graph::Graph;
use rabitc_runtime::cuda::launch::Kernel;

use super::blas::{Blas, Product};
use super::kernels::Kernels;
use crate::engine::EngineError;

/// Inputs and constants begin at multiples of this many bytes.
const ALIGNMENT: usize = 256;

/// Work of one step.
enum Work {
    Product(Box<Product>, [View; 3]),
    Launches(Vec<Ready>),
}

/// One launch, its kernel loaded.
struct Ready {
    kernel: Arc<Kernel>,
    grid: [u32; 3],
    args: Vec<Arg>,
}

/// A number that an input's elements must be below, and whether they may be negative.
#[derive(Clone, Copy)]
struct Limit {
    below: usize,
    negative: bool,
}

/// A program.
pub struct Program {
    /// Its plan.
    pub plan: Plan,
    work: Vec<Work>,
    /// Inputs and constants, with the places of those in it by value.
    fixed: DeviceMemory,
    offsets: Vec<usize>,
    limits: Vec<Option<Limit>>,
    /// Bytes of scratch memory that it needs.
    pub scratch: usize,
    recorded: Option<Graph>,
    ran: bool,
}

/// Finds the weight or gradient of a place: its address and its bytes.
pub type Named<'a> = dyn Fn(&Place) -> Result<(u64, usize), EngineError> + 'a;

/// Where values are that belong to the engine.
pub struct Addresses<'a> {
    /// The arena of intermediate values.
    pub arena: u64,
    /// Scratch memory.
    pub scratch: u64,
    /// Address and bytes of weights, and of gradients.
    pub named: &'a Named<'a>,
}

fn message(e: impl std::fmt::Display) -> EngineError {
    EngineError::new(e.to_string())
}

impl Program {
    /// Compiles what a plan needs.
    ///
    /// # Errors
    /// Steps that no kernel takes, or too little memory.
    pub fn new(
        device: &Arc<Device>,
        plan: Plan,
        kernels: &mut Kernels,
        blas: &Blas,
    ) -> Result<Program, EngineError> {
        let arch: SmArch = device.info.arch;
        let all = plan.steps.iter().map(|step| launches(&plan, step, arch));
        let all: Vec<Launches> = all.collect::<Result<_, _>>().map_err(message)?;
        let sources = all.iter().flat_map(|l| &l.launches).map(|l| &l.source);
        kernels.prepare(sources)?;
        let mut work = Vec::with_capacity(all.len());
        for (step, launches) in plan.steps.iter().zip(&all) {
            work.push(match step {
                Step::Gemm(gemm) => {
                    let product = Box::new(blas.prepare(&plan, gemm)?);
                    Work::Product(product, [gemm.a, gemm.b, gemm.c])
                }
                _ => Work::Launches(resolve(launches, kernels)?),
            });
        }
        let (fixed, offsets) = fixed(device, &plan)?;
        Ok(Program {
            limits: limits(&plan),
            scratch: all.iter().map(|l| l.scratch).max().unwrap_or(0),
            plan,
            work,
            fixed,
            offsets,
            recorded: None,
            ran: false,
        })
    }

    /// Forgets what was recorded, because memory has moved.
    pub fn forget(&mut self) {
        self.recorded = None;
    }

    /// Whether a run replays what was recorded.
    pub fn is_recorded(&self) -> bool {
        self.recorded.is_some()
    }

    /// The address of a value.
    ///
    /// # Errors
    /// A weight that is not there, or is not as large as the plan says.
    pub fn address(&self, value: usize, at: &Addresses<'_>) -> Result<u64, EngineError> {
        let found = &self.plan.values[value];
        match &found.place {
            Place::Arena(offset) => Ok(at.arena + *offset as u64),
            Place::Input(_) | Place::Constant(_) => Ok(self.fixed.at(self.offsets[value])),
            named => {
                let (address, bytes) = (at.named)(named)?;
                match bytes == found.bytes() {
                    true => Ok(address),
                    false => {
                        let (name, expected) = (&found.name, found.bytes());
                        let reason = format!("%{name} has {expected} bytes, found {bytes}");
                        Err(EngineError::new(reason))
                    }
                }
            }
        }
    }

    /// The address of a view's first element.
    fn pointer(&self, view: View, at: &Addresses<'_>) -> Result<u64, EngineError> {
        let element = self.plan.values[view.value].dtype.bits() / 8;
        Ok(self.address(view.value, at)? + (view.offset * element) as u64)
    }

    /// Copies inputs to the device.
    ///
    /// # Errors
    /// An input that is missing, has another length, or has elements outside the table that they
    /// index.
    pub fn write_inputs(&self, inputs: &[(&str, &[i32])]) -> Result<(), EngineError> {
        for (i, value) in self.plan.values.iter().enumerate() {
            let Place::Input(name) = &value.place else {
                continue;
            };
            let given = inputs.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
            let given = given.ok_or_else(|| message(format!("input `{name}` was not given")))?;
            if given.len() != value.columns {
                let (found, expected) = (given.len(), value.columns);
                let reason = format!("input `{name}` has {expected} elements, found {found}");
                return Err(EngineError::new(reason));
            }
            if let Some(limit) = self.limits[i] {
                let fits = |x: &&i32| match usize::try_from(**x) {
                    Ok(x) => x < limit.below,
                    Err(_) => limit.negative,
                };
                if let Some(bad) = given.iter().find(|x| !fits(x)) {
                    let below = limit.below;
                    let reason = format!("input `{name}` has {bad}, it must be below {below}");
                    return Err(EngineError::new(reason));
                }
            }
            // The device waits meanwhile.
            let mut bytes = Vec::with_capacity(given.len() * 4);
            given
                .iter()
                .for_each(|x| bytes.extend_from_slice(&x.to_le_bytes()));
            self.fixed.write(self.offsets[i], &bytes).map_err(message)?;
        }
        Ok(())
    }

    /// Puts the launches of step `i` on the device's stream.
    ///
    /// # Errors
    /// A launch that the driver refuses.
    pub fn launch(&self, i: usize, blas: &Blas, at: &Addresses<'_>) -> Result<(), EngineError> {
        match &self.work[i] {
            Work::Product(product, [a, b, c]) => {
                let [a, b, c] = [a, b, c].map(|v| self.pointer(*v, at));
                // SAFETY: the addresses of the views that the product was prepared for, in memory
                // that the engine keeps as long as there is work on the stream.
                unsafe { blas.run(product, a?, b?, c?) }
            }
            Work::Launches(launches) => {
                for launch in launches {
                    let pointers = launch.args.iter().map(|arg| match arg {
                        Arg::View(view) => self.pointer(*view, at),
                        Arg::Scratch(offset) => Ok(at.scratch + *offset as u64),
                    });
                    let pointers = pointers.collect::<Result<Vec<_>, _>>()?;
                    // SAFETY: one pointer a parameter, as the kernel's source was made for them;
                    // sizes are those of the plan, which the engine's memory has.
                    unsafe { launch.kernel.launch(launch.grid, &pointers) }.map_err(message)?;
                }
                Ok(())
            }
        }
    }

    /// Runs all steps. The first run launches one after the other, so that what libraries load
    /// lazily is there; then they are recorded and replayed.
    ///
    /// # Errors
    /// What a launch gives.
    pub fn run(
        &mut self,
        device: &Arc<Device>,
        blas: &Blas,
        at: &Addresses<'_>,
    ) -> Result<(), EngineError> {
        let steps = 0..self.plan.steps.len();
        if !self.ran {
            steps.clone().try_for_each(|i| self.launch(i, blas, at))?;
            self.ran = true;
            return Ok(());
        }
        if self.recorded.is_none() {
            let launch = || {
                let launched = steps.clone().try_for_each(|i| self.launch(i, blas, at));
                launched.map_err(|e| rabitc_runtime::Error::Cuda { reason: e.reason })
            };
            self.recorded = Some(Graph::record(device, launch).map_err(message)?);
        }
        match &self.recorded {
            Some(graph) => graph.run().map_err(message),
            None => Ok(()),
        }
    }

    /// The elements of a view, floats widened, in the view's shape.
    ///
    /// # Errors
    /// A device that was lost.
    pub fn read(
        &self,
        view: View,
        at: &Addresses<'_>,
        device: &Device,
    ) -> Result<Tensor, EngineError> {
        let value = &self.plan.values[view.value];
        let element = value.dtype.bits() / 8;
        let address = self.pointer(view, at)?;
        let whole = (view.rows.max(1) - 1) * view.stride + view.columns;
        let mut bytes = vec![0; whole * element];
        device.read_at(address, &mut bytes).map_err(message)?;
        let rows = (0..view.rows).map(|r| r * view.stride * element);
        let width = view.columns * element;
        let dense: Vec<u8> = rows.flat_map(|r| &bytes[r..r + width]).copied().collect();
        let shape = match value.shape.len() == 1 && view.rows == 1 {
            true => vec![view.columns],
            false => vec![view.rows, view.columns],
        };
        let tensor = Tensor::from_le_bytes(value.dtype, &shape, &dense);
        tensor.ok_or_else(|| message(format!("%{} was read badly", value.name)))
    }
}

fn resolve(launches: &Launches, kernels: &Kernels) -> Result<Vec<Ready>, EngineError> {
    let launches = launches.launches.iter();
    let resolved = launches.map(|launch| {
        Ok(Ready {
            kernel: kernels.get(&launch.source.name)?,
            grid: launch.grid,
            args: launch.args.clone(),
        })
    });
    resolved.collect()
}

/// Memory for inputs and constants, the constants in it, and the places by value.
fn fixed(device: &Arc<Device>, plan: &Plan) -> Result<(DeviceMemory, Vec<usize>), EngineError> {
    let (mut end, mut offsets) = (0, Vec::with_capacity(plan.values.len()));
    for value in &plan.values {
        offsets.push(end);
        if matches!(value.place, Place::Input(_) | Place::Constant(_)) {
            end += value.bytes().next_multiple_of(ALIGNMENT);
        }
    }
    let memory = DeviceMemory::zeroed(device, end, "inputs and constants").map_err(message)?;
    for (value, offset) in plan.values.iter().zip(&offsets) {
        if let Place::Constant(data) = &value.place {
            let bytes: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
            memory.write(*offset, &bytes).map_err(message)?;
        }
    }
    Ok((memory, offsets))
}

/// What the elements of each input must be within: that of the smallest table that they index.
fn limits(plan: &Plan) -> Vec<Option<Limit>> {
    let mut limits: Vec<Option<Limit>> = vec![None; plan.values.len()];
    for step in &plan.steps {
        let Step::Kernel(step) = step else { continue };
        let (below, negative) = match &step.kernel {
            PlanKernel::Op(Op::Embed(_)) => (step.operands[0].rows, false),
            PlanKernel::Op(Op::ScatterAdd(_)) => (step.results[0].rows, false),
            PlanKernel::CrossEntropyWithGrad
            | PlanKernel::Op(Op::CrossEntropy(_) | Op::CrossEntropyGrad(_)) => {
                (step.operands[0].columns, true)
            }
            _ => continue,
        };
        let limit = &mut limits[step.operands[1].value];
        let old = limit.unwrap_or(Limit { below, negative });
        *limit = Some(Limit {
            below: old.below.min(below),
            negative: old.negative && negative,
        });
    }
    limits
}
