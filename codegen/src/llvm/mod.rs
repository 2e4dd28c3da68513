//! The LLVM backend: vectors as wide as the level has, behind the cargo feature `llvm`.
//!
//! A kernel is verified and written as LLVM IR text (`lower` and its neighbours), which LLVM
//! parses, simplifies and compiles to an object file (`target`); `link` makes a blob of that which
//! stands alone, or refuses. The text form is that of LLVM 19, the version that the feature pins.
//!
//! Kernels come out as they were written: nothing is vectorised, unrolled or reassociated, and
//! products and sums are fused only where the kernel says so.
//!
//! This backend knows nothing of models or graphs, and emits code for machines other than its own.

mod arith;
mod inst;
mod lanes;
mod link;
mod lower;
mod memory;
mod relocate;
mod target;
mod text;

use crate::backend::{Backend, Object, Options};
use crate::error::CodegenError;
use crate::kir::Kernel;
use crate::level::Level;

/// The LLVM backend.
#[derive(Clone, Copy, Debug, Default)]
pub struct Llvm;

impl Backend for Llvm {
    fn name(&self) -> &'static str {
        "llvm"
    }

    fn levels(&self) -> &[Level] {
        &Level::ALL
    }

    fn vector_bytes(&self, level: Level) -> usize {
        level.widest_vector()
    }

    fn compile(
        &self,
        kernel: &Kernel,
        level: Level,
        options: Options,
    ) -> Result<Object, CodegenError> {
        compile(kernel, level, options)
    }
}

/// Compiles a kernel whose vectors are those of the level, or shorter.
///
/// # Errors
/// An invalid kernel, vectors wider than the level's, code that would need a symbol from outside.
pub fn compile(kernel: &Kernel, level: Level, options: Options) -> Result<Object, CodegenError> {
    Llvm.admit(kernel, level)?;
    let texts = target::emit(&lower::lower(kernel, level), level, options);
    let texts = texts.map_err(|reason| CodegenError::Backend {
        backend: Llvm.name(),
        kernel: kernel.name.clone(),
        level,
        reason,
    })?;
    Ok(Object {
        code: link::link(&kernel.name, level.arch(), &texts.object)?,
        ir: texts.ir,
        asm: texts.asm,
    })
}
