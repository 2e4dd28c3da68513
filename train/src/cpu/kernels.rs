//! Kernels compiled for this machine.

use std::collections::HashMap;

use rabitc_codegen::backend::{Backend, Options};
use rabitc_codegen::kernels::Spec;
use rabitc_rbx::Level;
use rabitc_runtime::exec_memory::{ExecMemory, KernelFn};

use crate::engine::EngineError;

/// Compiles kernels and keeps them. Entry points are valid as long as this lives.
pub struct Kernels {
    backend: Box<dyn Backend>,
    level: Level,
    entries: HashMap<String, KernelFn>,
    code: Vec<ExecMemory>,
}

impl Kernels {
    /// For the highest level that this machine runs: LLVM where this crate was built with it,
    /// else Cranelift.
    pub fn new() -> Result<Kernels, EngineError> {
        let level = Level::native();
        let level =
            level.ok_or_else(|| EngineError::new("no code can be generated for this CPU"))?;
        #[cfg(feature = "llvm")]
        let backend = Box::new(rabitc_codegen::llvm::Llvm);
        #[cfg(not(feature = "llvm"))]
        let backend = Box::new(rabitc_codegen::cranelift::Cranelift);
        Ok(Kernels {
            backend,
            level,
            entries: HashMap::new(),
            code: Vec::new(),
        })
    }

    /// Level and backend, for people.
    pub fn describe(&self) -> String {
        format!("{}, {}", self.level, self.backend.name())
    }

    /// The entry points of `specs`.
    pub fn load(&mut self, specs: &[Box<dyn Spec>]) -> Result<Vec<KernelFn>, EngineError> {
        let (mut names, mut blobs) = (Vec::new(), Vec::new());
        for spec in specs {
            let name = spec.name();
            if self.entries.contains_key(&name) || names.contains(&name) {
                continue;
            }
            let kernel = spec.build(self.backend.vectors(self.level));
            let object = self
                .backend
                .compile(&kernel, self.level, Options::default())?;
            names.push(name);
            blobs.push(object.code);
        }
        if !blobs.is_empty() {
            let blobs: Vec<&[u8]> = blobs.iter().map(Vec::as_slice).collect();
            let (code, offsets) = ExecMemory::load_blobs(&blobs)?;
            for (name, offset) in names.into_iter().zip(offsets) {
                self.entries.insert(name, code.kernel(offset)?);
            }
            self.code.push(code);
        }
        Ok(specs
            .iter()
            .map(|spec| self.entries[&spec.name()])
            .collect())
    }
}
