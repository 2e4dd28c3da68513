//! What turns kernels into machine code.
//!
//! A backend knows the kernel IR and nothing of models or graphs. Its output is a flat blob that
//! can be copied to any 64-byte boundary and called there: no relocation, no external symbol, no
//! writable data.

use crate::error::CodegenError;
use crate::kernels::Vectors;
use crate::kir::check::check;
use crate::kir::visit::each_statement;
use crate::kir::{Inst, Kernel, Stmt};
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

/// Whether a kernel permutes bytes over vectors of more than 16.
fn permutes(kernel: &Kernel) -> bool {
    let mut found = false;
    each_statement(&kernel.body, &mut |stmt| {
        if let Stmt::Let(v, Inst::Permute { .. }) = stmt {
            found |= kernel.ty(*v).bytes() > 16;
        }
    });
    found
}

/// A code generator.
pub trait Backend {
    /// Name, as on the command line.
    fn name(&self) -> &'static str;

    /// The levels it generates code for.
    fn levels(&self) -> &[Level];

    /// Bytes of a vector in kernels for `level`.
    fn vector_bytes(&self, level: Level) -> usize;

    /// What kernels for `level` are written for.
    fn vectors(&self, level: Level) -> Vectors {
        let bytes = self.vector_bytes(level);
        Vectors {
            bytes,
            permute: level.has_byte_permute() && bytes == level.widest_vector(),
        }
    }

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
        if permutes(kernel) && !self.vectors(level).permute {
            return Err(CodegenError::Backend {
                kernel: kernel.name.clone(),
                backend: self.name(),
                level,
                reason: "it permutes the bytes of a whole vector, which needs x86-64-v4-vnni \
                         and its full width"
                    .into(),
            });
        }
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
