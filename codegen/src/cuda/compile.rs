//! Kernels to machine code.

use rabitc_rbx::SmArch;
use rabitc_rbx::gpu::Resources;

use super::nvrtc::Nvrtc;
use super::resources;
use super::source::Source;
use crate::CodegenError;

/// A compiled kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// Machine code, an ELF file.
    pub cubin: Vec<u8>,
    /// PTX, which drivers compile for newer architectures.
    pub ptx: String,
    /// What the kernel uses.
    pub resources: Resources,
}

/// Compiles kernels with NVRTC; needs no GPU.
pub struct Compiler {
    nvrtc: Nvrtc,
}

impl Compiler {
    /// Loads NVRTC.
    ///
    /// # Errors
    /// NVRTC is nowhere to be found.
    pub fn new() -> Result<Compiler, CodegenError> {
        Ok(Compiler {
            nvrtc: Nvrtc::load()?,
        })
    }

    /// NVRTC and its version, for people.
    pub fn describe(&self) -> String {
        let (major, minor) = self.nvrtc.version();
        format!("NVRTC {major}.{minor}")
    }

    /// The library in use.
    pub fn library(&self) -> &std::path::Path {
        self.nvrtc.path()
    }

    /// Compiles a kernel for an architecture. The same text gives the same bytes.
    ///
    /// # Errors
    /// A text that does not compile, which is a defect of this program, or an architecture that
    /// this NVRTC does not know.
    pub fn compile(&self, source: &Source, arch: SmArch) -> Result<Compiled, CodegenError> {
        let compile = |arch: String| {
            let options = [
                format!("--gpu-architecture={arch}"),
                "--std=c++17".into(),
                "--ptxas-options=-v".into(),
                // What comes out of a cache comes without a log.
                "--no-cache".into(),
                "--extra-device-vectorization".into(),
            ];
            self.nvrtc.compile(&source.name, &source.text, &options)
        };
        // Only Hopper has code that newer architectures do not run; PTX is for those.
        let specific = source.arch_specific && arch.number() == 90;
        let output = compile(format!("{arch}{}", if specific { "a" } else { "" }))?;
        let ptx = match specific {
            true => compile(format!("compute_{}", arch.number()))?.ptx,
            false => output.ptx,
        };
        let resources = resources::parse(&output.log).ok_or_else(|| CodegenError::Cuda {
            kernel: source.name.clone(),
            reason: format!("the compiler reports no resources: {}", output.log),
        })?;
        Ok(Compiled {
            cubin: output.cubin,
            ptx,
            resources,
        })
    }
}
