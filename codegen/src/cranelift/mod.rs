//! The Cranelift backend: pure Rust, always there, 128-bit vectors.
//!
//! A kernel is verified, prepared (`prepare`: folding, sharing, hoisting), lowered to CLIF
//! (`lower` and its neighbours) and compiled by Cranelift; then prefetches are put in
//! (`prefetch`), and code that needs anything from outside is refused. The order in which a
//! kernel computes things is the order of the machine code, except for what leaves a loop, so a
//! kernel that keeps few values alive at a time has no spills.
//!
//! This backend knows nothing of models or graphs, and emits code for machines other than its own.

mod arith;
mod isa;
mod lanes;
mod lower;
mod memory;
mod prefetch;
mod prepare;

use crate::backend::{Backend, Object, Options};
use crate::error::CodegenError;
use crate::kir::Kernel;
use crate::level::Level;
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::{CompiledCode, Context};

/// Bytes of a vector: CLIF has no wider ones.
const VECTOR_BYTES: usize = 16;

/// What code blobs are aligned to at most; see [`Object::code`].
const CODE_ALIGN: u32 = 64;

/// The Cranelift backend.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cranelift;

impl Backend for Cranelift {
    fn name(&self) -> &'static str {
        "cranelift"
    }

    fn levels(&self) -> &[Level] {
        &Level::ALL
    }

    fn vector_bytes(&self, _level: Level) -> usize {
        VECTOR_BYTES
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

/// Compiles a kernel whose vectors are 16 bytes.
///
/// # Errors
/// An invalid kernel, wider vectors, code that would need a symbol from outside.
pub fn compile(kernel: &Kernel, level: Level, options: Options) -> Result<Object, CodegenError> {
    Cranelift.admit(kernel, level)?;
    let failed = |reason: String| CodegenError::Backend {
        backend: Cranelift.name(),
        kernel: kernel.name.clone(),
        level,
        reason,
    };
    let isa = isa::for_level(level).map_err(failed)?;
    let func = lower::lower(&prepare::prepare(kernel), level, &*isa);
    let ir = match options.ir {
        true => func.display().to_string(),
        false => String::new(),
    };
    let mut context = Context::for_function(func);
    context.set_disasm(options.asm);
    let compiled = context
        .compile(&*isa, &mut ControlPlane::default())
        .map_err(|e| failed(e.inner.to_string()))?;
    if let Some(symbol) = refers_to(compiled) {
        let kernel = kernel.name.clone();
        return Err(CodegenError::ExternalSymbol { kernel, symbol });
    }
    let mut code = compiled.code_buffer().to_vec();
    prefetch::rewrite(&mut code, compiled.buffer.traps(), level.arch()).map_err(failed)?;
    let asm = compiled.vcode.as_deref().unwrap_or_default();
    let asm = prefetch::rewrite_text(asm, compiled.buffer.traps(), level.arch());
    Ok(Object { code, ir, asm })
}

/// What the code refers to outside itself. References within the code, as to its constants, have
/// been resolved by now.
fn refers_to(compiled: &CompiledCode) -> Option<String> {
    let buffer = &compiled.buffer;
    if let Some(relocation) = buffer.relocs().first() {
        return Some(format!("{:?}", relocation.target));
    }
    if buffer.call_sites().next().is_some() {
        return Some("a function".to_owned());
    }
    let too_aligned = buffer.alignment > CODE_ALIGN;
    too_aligned.then(|| format!("its own address, at a multiple of {}", buffer.alignment))
}
