//! What can go wrong in code generation.

use crate::level::Level;
use thiserror::Error;

/// An error of code generation.
#[derive(Debug, Error)]
pub enum CodegenError {
    /// A level that the backend has no code generator for.
    #[error("the {backend} backend does not generate code for {level}")]
    UnsupportedLevel {
        /// Name of the backend.
        backend: &'static str,
        /// The level.
        level: Level,
    },
    /// A kernel that breaks a rule of the kernel IR.
    #[error("kernel {kernel} is not valid: {reason}")]
    InvalidKernel {
        /// Name of the kernel.
        kernel: String,
        /// The rule and the place.
        reason: String,
    },
    /// A kernel written for wider vectors than the backend has.
    #[error(
        "kernel {kernel} uses vectors of {found} bytes; the {backend} backend has {supported} \
         bytes on {level}: generate the kernel for that width"
    )]
    VectorWidth {
        /// Name of the kernel.
        kernel: String,
        /// Name of the backend.
        backend: &'static str,
        /// The level.
        level: Level,
        /// Bytes of a vector in the kernel.
        found: usize,
        /// Bytes of a vector in the backend.
        supported: usize,
    },
    /// Code that would need something outside itself.
    #[error(
        "the code of kernel {kernel} refers to {symbol}: only code that stands alone can be put \
         into an artifact"
    )]
    ExternalSymbol {
        /// Name of the kernel.
        kernel: String,
        /// What the code refers to.
        symbol: String,
    },
    /// The code generator failed; a defect of this program or of the library.
    #[error("the {backend} backend failed on kernel {kernel} for {level}: {reason}")]
    Backend {
        /// Name of the backend.
        backend: &'static str,
        /// Name of the kernel.
        kernel: String,
        /// The level.
        level: Level,
        /// The library's message.
        reason: String,
    },
    /// NVRTC cannot be found or used.
    #[error("NVRTC, the CUDA compiler, {reason}")]
    Nvrtc {
        /// Where it was looked for, or what failed, and the remedy.
        reason: String,
    },
    /// A GPU kernel that does not compile; a defect of this program or of the compiler.
    #[error("GPU kernel {kernel}: {reason}")]
    Cuda {
        /// Name of the kernel.
        kernel: String,
        /// The compiler's message.
        reason: String,
    },
    /// A graph that no program can be made of.
    #[error("{reason}")]
    Plan {
        /// The node and what is wrong.
        reason: String,
    },
}

impl CodegenError {
    /// A graph that no program can be made of.
    pub fn plan(reason: impl Into<String>) -> Self {
        CodegenError::Plan {
            reason: reason.into(),
        }
    }
}
