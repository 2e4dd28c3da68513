//! An artifact, opened: its weights mapped, its native code loaded.

use std::path::Path;
#[cfg(feature = "cuda")]
use std::sync::Arc;

use rabitc_rbx::{Artifact, Level, Manifest, Target};

#[cfg(feature = "cuda")]
use crate::cuda::model::CudaModel;
use crate::device::Device;
use crate::error::Error;
use crate::exec_memory::{ExecMemory, KernelFn};

/// A model that sessions run.
pub struct Model {
    artifact: Artifact,
    code: Code,
}

/// The code that was loaded.
enum Code {
    Cpu {
        level: Level,
        // Keeps the code that `kernels` points into mapped.
        _memory: ExecMemory,
        kernels: Vec<KernelFn>,
    },
    #[cfg(feature = "cuda")]
    Cuda(Arc<CudaModel>),
}

impl Model {
    /// Opens an artifact, picks the best code that this machine's processor runs and loads it.
    ///
    /// # Errors
    /// A file that is no artifact or a damaged one, or one with no code for this machine.
    pub fn open(path: &Path) -> Result<Model, Error> {
        Model::open_on(path, Device::Cpu)
    }

    /// Opens an artifact for a device; on a GPU, the weights are copied there.
    ///
    /// # Errors
    /// A file that is no artifact or a damaged one, no such device, no code for it, or too little
    /// memory on it.
    pub fn open_on(path: &Path, device: Device) -> Result<Model, Error> {
        let artifact = Artifact::open(path)?;
        let code = match device {
            Device::Cpu => load_cpu(&artifact)?,
            #[cfg(feature = "cuda")]
            Device::Cuda(n) => Code::Cuda(Arc::new(CudaModel::load(&artifact, n)?)),
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => {
                let reason = "this program was built without the feature cuda".into();
                return Err(Error::Cuda { reason });
            }
        };
        Ok(Model { artifact, code })
    }

    /// The artifact.
    pub fn artifact(&self) -> &Artifact {
        &self.artifact
    }

    /// The artifact's manifest.
    pub fn manifest(&self) -> &Manifest {
        self.artifact.manifest()
    }

    /// The CPU level of the code that was loaded, if it is for the processor.
    pub fn level(&self) -> Option<Level> {
        match &self.code {
            Code::Cpu { level, .. } => Some(*level),
            #[cfg(feature = "cuda")]
            Code::Cuda(_) => None,
        }
    }

    /// The model on a GPU, if that is where it is.
    #[cfg(feature = "cuda")]
    pub fn cuda(&self) -> Option<&Arc<CudaModel>> {
        match &self.code {
            Code::Cpu { .. } => None,
            Code::Cuda(model) => Some(model),
        }
    }

    /// Bits of the activations of residual-binary products, if the model is on a GPU.
    pub fn gpu_planes(&self) -> Option<usize> {
        match &self.code {
            Code::Cpu { .. } => None,
            #[cfg(feature = "cuda")]
            Code::Cuda(model) => Some(model.target(self.manifest()).planes),
        }
    }

    /// Name of the kernel that draws tokens, if the model is on a GPU.
    pub fn gpu_sampler(&self) -> Option<&str> {
        match &self.code {
            Code::Cpu { .. } => None,
            #[cfg(feature = "cuda")]
            Code::Cuda(model) => {
                let target = model.target(self.manifest());
                Some(&target.kernels[target.sample.kernel].name)
            }
        }
    }

    /// Bytes of weights that a step for one token reads on a GPU, if that is where the model is.
    pub fn gpu_step_bytes(&self) -> Option<u64> {
        match &self.code {
            Code::Cpu { .. } => None,
            #[cfg(feature = "cuda")]
            Code::Cuda(model) => {
                let target = model.target(self.manifest());
                let steps = target.programs.first()?.steps.iter();
                Some(steps.map(|s| model.bytes_read(target, s)).sum())
            }
        }
    }

    /// Says that a GPU's driver compiled the code from PTX, where no machine code of the artifact fits
    /// the card.
    pub fn compiled_by_driver(&self) -> Option<String> {
        match &self.code {
            Code::Cpu { .. } => None,
            #[cfg(feature = "cuda")]
            Code::Cuda(model) => model.from_ptx.then(|| {
                let (card, from) = (model.device().info.arch, model.target(self.manifest()).arch);
                format!("no machine code for {card}: the driver compiled the PTX of {from}")
            }),
        }
    }

    /// What runs the model, for people: a CPU level, or a GPU's name.
    pub fn runs_on(&self) -> String {
        match &self.code {
            Code::Cpu { level, .. } => level.to_string(),
            #[cfg(feature = "cuda")]
            Code::Cuda(model) => {
                let info = &model.device().info;
                let note = if model.from_ptx {
                    ", code compiled by the driver from PTX"
                } else {
                    ""
                };
                format!("{} ({}{note})", info.name, info.arch)
            }
        }
    }

    /// Format of the activations that residual-binary products read where the model runs: `int8`,
    /// `int16` or `f32`.
    pub fn activations(&self) -> String {
        match &self.code {
            Code::Cpu { .. } => self.manifest().activations.clone(),
            #[cfg(feature = "cuda")]
            Code::Cuda(model) => format!("int{}", model.target(self.manifest()).planes),
        }
    }

    /// What each step of a program computes.
    pub fn steps(&self, program: usize) -> Vec<StepInfo<'_>> {
        match &self.code {
            Code::Cpu { .. } => steps::cpu(self.manifest(), program),
            #[cfg(feature = "cuda")]
            Code::Cuda(model) => steps::cuda(model.target(self.manifest()), program),
        }
    }

    /// The name of a program.
    pub fn program_name(&self, program: usize) -> &str {
        match &self.code {
            Code::Cpu { .. } => &self.manifest().programs[program].name,
            #[cfg(feature = "cuda")]
            Code::Cuda(model) => &model.target(self.manifest()).programs[program].name,
        }
    }

    /// The kernels' entry points on the processor, in the order of the manifest's kernel table.
    pub(crate) fn kernels(&self) -> &[KernelFn] {
        match &self.code {
            Code::Cpu { kernels, .. } => kernels,
            #[cfg(feature = "cuda")]
            Code::Cuda(_) => &[],
        }
    }
}

/// What one step of a program computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepInfo<'a> {
    /// The graph node.
    pub node: &'a str,
    /// The kernel's name.
    pub kernel: String,
    /// Byte offset in the arena where the node's result is after the step, if it has one then.
    pub result: Option<usize>,
}

mod steps {
    use super::StepInfo;
    use rabitc_rbx::{Arg, Host, Manifest, Work};

    /// Steps on the processor.
    pub fn cpu(manifest: &Manifest, program: usize) -> Vec<StepInfo<'_>> {
        let steps = manifest.programs[program].steps.iter();
        let info = steps.map(|step| {
            let (kernel, out) = match &step.work {
                Work::Host(Host::RopeTable { inv_freq, out, .. }) => {
                    (format!("(host) rope_table_{}", inv_freq.len()), Some(out))
                }
                Work::Kernel { kernel, args, .. } => {
                    let kernel = &manifest.kernels[*kernel];
                    let place = kernel.params.iter().position(|p| p == "out");
                    (kernel.name.clone(), place.map(|p| &args[p]))
                }
            };
            let result = match out {
                Some(Arg::Arena(offset)) => Some(*offset),
                _ => None,
            };
            StepInfo {
                node: &step.node,
                kernel,
                result,
            }
        });
        info.collect()
    }

    /// Steps on a GPU.
    #[cfg(feature = "cuda")]
    pub fn cuda(target: &rabitc_rbx::GpuTarget, program: usize) -> Vec<StepInfo<'_>> {
        use rabitc_rbx::gpu::GpuArg;
        let steps = target.programs[program].steps.iter();
        let info = steps.map(|step| {
            let kernel = &target.kernels[step.kernel];
            let place = kernel.params.iter().position(|p| p == "out");
            let result = match place.map(|p| &step.args[p]) {
                Some(GpuArg::Arena(offset)) => Some(*offset),
                _ => None,
            };
            StepInfo {
                node: &step.node,
                kernel: kernel.name.clone(),
                result,
            }
        });
        info.collect()
    }
}

fn load_cpu(artifact: &Artifact) -> Result<Code, Error> {
    let target = choose_target(artifact.manifest())?;
    let memory = ExecMemory::load(artifact.bytes(&target.section)?)?;
    let entries = target.entries.iter();
    let kernels = entries
        .map(|e| memory.kernel(*e))
        .collect::<Result<_, _>>()?;
    Ok(Code::Cpu {
        level: target.level,
        _memory: memory,
        kernels,
    })
}

/// The highest level among the artifact's targets that this machine runs.
fn choose_target(manifest: &Manifest) -> Result<Target, Error> {
    let machine = Level::native();
    let runs = |t: &&Target| machine.is_some_and(|m| m.supports(t.level));
    let best = manifest.targets.iter().filter(runs).max_by_key(|t| t.level);
    best.cloned().ok_or_else(|| {
        let mut offered: Vec<_> = manifest
            .targets
            .iter()
            .map(|t| t.level.to_string())
            .collect();
        offered.extend(manifest.gpus.iter().map(|g| g.arch.to_string()));
        Error::NoCode {
            gpus: !manifest.gpus.is_empty(),
            offered: offered.join(", "),
            machine: machine.map_or("below every level", Level::name),
        }
    })
}
