//! An artifact on a device: its kernels loaded, its weights copied and repacked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rabitc_rbx::gpu::{GpuArg, GpuStep};
use rabitc_rbx::{Artifact, GpuTarget, Manifest};

use super::driver::{Device, DeviceMemory};
use super::launch::Kernel;
use crate::error::Error;

/// Tensors start at multiples of this many bytes.
const ALIGNMENT: usize = 256;

/// An artifact's weights and kernels on a device.
pub struct CudaModel {
    pub(crate) device: Arc<Device>,
    pub(crate) target: usize,
    pub(crate) kernels: Vec<Kernel>,
    /// Whether the driver compiled the kernels from PTX.
    pub from_ptx: bool,
    memory: DeviceMemory,
    weights: BTreeMap<String, usize>,
    derived: Vec<usize>,
}

impl CudaModel {
    /// Picks the code for the device, copies weights, and runs what is to be done at load.
    ///
    /// # Errors
    /// No driver or device, no code for it, or too little memory.
    pub fn load(artifact: &Artifact, ordinal: usize) -> Result<CudaModel, Error> {
        let device = Device::open(ordinal)?;
        let (index, from_ptx) = choose(artifact.manifest(), &device)?;
        let target = &artifact.manifest().gpus[index];
        let section = if from_ptx {
            &target.ptx_section
        } else {
            &target.cubin_section
        };
        let code = artifact.bytes(section)?;
        let kernels = target.kernels.iter().map(|kernel| {
            let (start, length) = if from_ptx { kernel.ptx } else { kernel.cubin };
            let image = code.get(start..).and_then(|c| c.get(..length));
            let image =
                image.ok_or_else(|| plan_error(format!("has no code for {}", kernel.name)))?;
            let loaded = Kernel::load(&device, kernel, image)?;
            if kernel.overlaps {
                loaded.prefer_shared_memory()?;
            }
            Ok(loaded)
        });
        let kernels = kernels.collect::<Result<Vec<_>, Error>>()?;
        let mut end = 0;
        let mut reserve = |bytes: usize| {
            let start = end;
            end += bytes.next_multiple_of(ALIGNMENT);
            start
        };
        let mut weights = BTreeMap::new();
        for name in kept_weights(target) {
            weights.insert(name.clone(), reserve(artifact.bytes(&name)?.len()));
        }
        let derived = target.derived.iter().map(|d| reserve(d.bytes)).collect();
        let model = CudaModel {
            memory: DeviceMemory::zeroed(&device, end, "the model")?,
            target: index,
            device,
            kernels,
            from_ptx,
            weights,
            derived,
        };
        model.fill(artifact)?;
        Ok(model)
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Bytes of device memory that weights take.
    pub fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// The target whose code was loaded.
    pub fn target<'a>(&self, manifest: &'a Manifest) -> &'a GpuTarget {
        &manifest.gpus[self.target]
    }

    /// The address of a weight or derived tensor; `None` for arguments of other kinds.
    pub(crate) fn resolve(&self, arg: &GpuArg) -> Option<u64> {
        let offset = match arg {
            GpuArg::Weight(name) => *self.weights.get(name)?,
            GpuArg::Derived(number) => *self.derived.get(*number)?,
            _ => return None,
        };
        Some(self.memory.at(offset))
    }

    /// Address and size of the memory of all weights.
    pub(crate) fn all_memory(&self) -> (u64, usize) {
        (self.memory.at(0), self.memory.bytes())
    }

    /// Bytes of weights that a step names; of an embedding, a row is read.
    pub(crate) fn bytes_read(&self, target: &GpuTarget, step: &GpuStep) -> u64 {
        if target.kernels[step.kernel].name.starts_with("embed") {
            return 0;
        }
        let end = self.memory.bytes();
        let sizes = step.args.iter().map(|arg| match arg {
            GpuArg::Derived(number) => target.derived[*number].bytes,
            GpuArg::Weight(name) => {
                let start = self.weights.get(name).copied().unwrap_or(end);
                let later = self
                    .weights
                    .values()
                    .chain(&self.derived)
                    .filter(|o| **o > start);
                later.min().copied().unwrap_or(end) - start
            }
            _ => 0,
        });
        sizes.sum::<usize>() as u64
    }

    /// Copies weights and runs the steps at load. Weights that only those read pass through a
    /// buffer that is freed afterwards.
    fn fill(&self, artifact: &Artifact) -> Result<(), Error> {
        for (name, offset) in &self.weights {
            self.memory.write(*offset, artifact.bytes(name)?)?;
        }
        let target = self.target(artifact.manifest());
        let mut most = 0;
        for step in &target.setup {
            most = most.max(self.passing_bytes(artifact, step)?);
        }
        let passing = DeviceMemory::zeroed(&self.device, most, "loading the model")?;
        for step in &target.setup {
            let mut end = 0;
            let pointers = step.args.iter().map(|arg| match arg {
                GpuArg::Weight(name) if !self.weights.contains_key(name) => {
                    let bytes = artifact.bytes(name)?;
                    let start = end;
                    end += bytes.len().next_multiple_of(ALIGNMENT);
                    passing.write(start, bytes)?;
                    Ok(passing.at(start))
                }
                arg => self
                    .resolve(arg)
                    .ok_or_else(|| plan_error(format!("has {arg:?} at load"))),
            });
            let pointers = pointers.collect::<Result<Vec<_>, _>>()?;
            let grid = step.grid.map(|b| b.count(1, 1));
            // SAFETY: the reader checked the pointers' number against the kernel table; they point
            // into memory of `self` and into `passing`, and the work is waited for below.
            unsafe { self.kernels[step.kernel].launch(grid, &pointers) }?;
        }
        self.device.synchronize()
    }

    fn passing_bytes(&self, artifact: &Artifact, step: &GpuStep) -> Result<usize, Error> {
        let mut bytes = 0;
        for arg in &step.args {
            if let GpuArg::Weight(name) = arg
                && !self.weights.contains_key(name)
            {
                bytes += artifact.bytes(name)?.len().next_multiple_of(ALIGNMENT);
            }
        }
        Ok(bytes)
    }
}

/// The weights that programs read.
fn kept_weights(target: &GpuTarget) -> BTreeSet<String> {
    let steps = target.programs.iter().flat_map(|p| &p.steps);
    let args = steps.flat_map(|s| &s.args);
    let names = args.filter_map(|a| match a {
        GpuArg::Weight(name) => Some(name.clone()),
        _ => None,
    });
    names.collect()
}

/// The newest machine code that runs on the device, or else the newest PTX that the driver can
/// compile for it.
fn choose(manifest: &Manifest, device: &Device) -> Result<(usize, bool), Error> {
    let card = device.info.arch;
    let best = |usable: &dyn Fn(&GpuTarget) -> bool| {
        let targets = manifest.gpus.iter().enumerate().filter(|(_, t)| usable(t));
        targets.max_by_key(|(_, t)| t.arch).map(|(i, _)| i)
    };
    if let Some(index) = best(&|t| t.arch.code_runs_on(card)) {
        return Ok((index, false));
    }
    if let Some(index) = best(&|t| t.arch <= card) {
        return Ok((index, true));
    }
    let offered: Vec<_> = manifest.gpus.iter().map(|t| t.arch.to_string()).collect();
    Err(Error::NoGpuCode {
        offered: if offered.is_empty() {
            "no code".into()
        } else {
            offered.join(", ")
        },
        device: device.ordinal,
        card: card.to_string(),
    })
}

fn plan_error(reason: String) -> Error {
    Error::Plan { reason }
}
