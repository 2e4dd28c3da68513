//! Which engine trains.

use anyhow::Result;
use rabitc_ir::DType;
use rabitc_runtime::Device;
use rabitc_train::cpu::CpuEngine;
use rabitc_train::cuda::CudaEngine;
use rabitc_train::engine::{Engine, EngineError};
use rabitc_train::interpreter::InterpreterEngine;
use rabitc_train::job::Engines;

use super::args::Args;

/// The engine that the command line asks for.
pub struct Chosen {
    reference: bool,
    device: Device,
    /// One a core if `None`.
    threads: Option<usize>,
}

impl Chosen {
    /// The choice of a command line.
    pub fn new(args: &Args) -> Result<Chosen> {
        Ok(Chosen {
            reference: args.reference,
            device: args.device.device,
            threads: args.threads.threads,
        })
    }
}

impl Engines for Chosen {
    fn engine(&self) -> Result<Box<dyn Engine>, EngineError> {
        match (self.reference, self.device) {
            (true, _) => Ok(Box::new(InterpreterEngine::new())),
            (_, Device::Cpu) => Ok(Box::new(CpuEngine::new(self.threads)?)),
            (_, Device::Cuda(ordinal)) => Ok(Box::new(CudaEngine::new(ordinal)?)),
        }
    }

    fn storage(&self) -> DType {
        match self.device {
            Device::Cpu => DType::F32,
            Device::Cuda(_) => DType::BF16,
        }
    }
}
