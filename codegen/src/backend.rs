//! What turns kernels into machine code.
//!
//! A backend knows the kernel IR and nothing of models or graphs. Its output is a flat blob that
//! can be copied to any 64-byte boundary and called there: no relocation, no external symbol, no
//! writable data.

use crate::error::CodegenError;
use crate::kir::Kernel;
use crate::kir::check::check;
use crate::level::Level;

/// Which texts to produce beside the code. They cost more time than the code itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The backend's own IR: [`Object::ir`].
    pub ir: bool,
    /// The assembly: [`Object::asm`].
    pub asm: bool,
}

/// A compiled kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Machine code and its constants. The entry point is the first byte, which must be loaded at
    /// a multiple of 64 bytes; the calling convention is that of [`crate::kir`].
    pub code: Vec<u8>,
    /// The backend's own IR as it was handed to the code generator (CLIF, LLVM IR); empty unless
    /// asked for.
    pub ir: String,
    /// Assembly in the backend's syntax; empty unless asked for.
    pub asm: String,
}

/// A code generator.
pub trait Backend {
    /// Name, as on the command line.
    fn name(&self) -> &'static str;

    /// The levels it generates code for.
    fn levels(&self) -> &[Level];

    /// Bytes of a vector in kernels for `level`.
    fn vector_bytes(&self, level: Level) -> usize;

    /// Compiles a kernel whose vectors have [`Backend::vector_bytes`] bytes. The same kernel gives
    /// the same bytes.
    ///
    /// # Errors
    /// A level or a vector width that the backend does not have, an invalid kernel, code that
    /// would refer to something outside itself.
    fn compile(
        &self,
        kernel: &Kernel,
        level: Level,
        options: Options,
    ) -> Result<Object, CodegenError>;

    /// Checks that a kernel is one that this backend can compile for `level`.
    ///
    /// # Errors
    /// An invalid kernel, or vectors wider than [`Backend::vector_bytes`].
    fn admit(&self, kernel: &Kernel, level: Level) -> Result<(), CodegenError> {
        check(kernel).map_err(|reason| CodegenError::InvalidKernel {
            kernel: kernel.name.clone(),
            reason,
        })?;
        let supported = self.vector_bytes(level);
        match kernel.vector_bytes() {
            Some(found) if found > supported => Err(CodegenError::VectorWidth {
                kernel: kernel.name.clone(),
                backend: self.name(),
                level,
                found,
                supported,
            }),
            _ => Ok(()),
        }
    }
}
