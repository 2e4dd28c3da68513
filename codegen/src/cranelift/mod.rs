//! The Cranelift backend: pure Rust, always there, 128-bit vectors.

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
use crate::kir::check::check;
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
    let kernel_name = || kernel.name.clone();
    check(kernel).map_err(|reason| CodegenError::InvalidKernel {
        kernel: kernel_name(),
        reason,
    })?;
    match kernel.vector_bytes() {
        None | Some(VECTOR_BYTES) => {}
        Some(found) => {
            return Err(CodegenError::VectorWidth {
                kernel: kernel_name(),
                backend: Cranelift.name(),
                level,
                found,
                supported: VECTOR_BYTES,
            });
        }
    }
    let failed = |reason: String| CodegenError::Backend {
        backend: Cranelift.name(),
        kernel: kernel_name(),
        level,
        reason,
    };
    let isa = isa::for_level(level).map_err(failed)?;
    let prepared = prepare::prepare(kernel);
    let func = lower::lower(&prepared, level, &*isa);
    let ir = if options.ir {
        func.display().to_string()
    } else {
        String::new()
    };
    let mut context = Context::for_function(func);
    context.set_disasm(options.asm);
    let compiled = context
        .compile(&*isa, &mut ControlPlane::default())
        .map_err(|e| failed(format!("{:?}", e.inner)))?;
    stands_alone(kernel, compiled)?;
    let mut code = compiled.code_buffer().to_vec();
    prefetch::rewrite(&mut code, compiled.buffer.traps(), level.arch()).map_err(failed)?;
    Ok(Object {
        code,
        ir,
        asm: prefetch::rewrite_text(compiled.vcode.as_deref().unwrap_or_default(), level.arch()),
    })
}

/// Refuses code that refers to anything outside itself.
fn stands_alone(kernel: &Kernel, compiled: &CompiledCode) -> Result<(), CodegenError> {
    let outside = compiled
        .buffer
        .relocs()
        .first()
        .map(|r| format!("{:?}", r.target));
    let calls = compiled
        .buffer
        .call_sites()
        .next()
        .map(|_| "a function".to_string());
    let aligned = (compiled.buffer.alignment > CODE_ALIGN).then(|| {
        format!(
            "its own address, at a multiple of {}",
            compiled.buffer.alignment
        )
    });
    match outside.or(calls).or(aligned) {
        None => Ok(()),
        Some(symbol) => Err(CodegenError::ExternalSymbol {
            kernel: kernel.name.clone(),
            symbol,
        }),
    }
}
