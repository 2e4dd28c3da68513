//! Native code: every kernel for every target.

use anyhow::{Result, bail};
use rabitc_codegen::backend::{Backend, Options};
use rabitc_codegen::cranelift::Cranelift;
use rabitc_codegen::kernels::Spec;
use rabitc_codegen::kir::print::print;
use rabitc_rbx::{Level, Target};

use super::emit::{self, Emit};

/// Entry points start at multiples of this many bytes.
const ALIGNMENT: usize = 64;

/// Code for every target, and the kernels' signatures.
pub struct Code {
    /// One a level.
    pub targets: Vec<Target>,
    /// The code of each target.
    pub sections: Vec<Vec<u8>>,
    /// The kernel table.
    pub kernels: Vec<rabitc_rbx::Kernel>,
}

/// Which code generator is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// LLVM where this program was built with it, else Cranelift.
    #[default]
    Auto,
    /// Cranelift: always there, 128-bit vectors.
    Cranelift,
    /// LLVM: vectors as wide as the level has.
    Llvm,
}

impl BackendChoice {
    /// The choice by its word on the command line; any other word is `auto`.
    pub fn parse(word: &str) -> BackendChoice {
        match word {
            "cranelift" => BackendChoice::Cranelift,
            "llvm" => BackendChoice::Llvm,
            _ => BackendChoice::Auto,
        }
    }

    /// The code generator.
    ///
    /// # Errors
    /// LLVM, if this program was built without it.
    pub fn backend(self) -> Result<Box<dyn Backend>> {
        match self {
            BackendChoice::Cranelift => Ok(Box::new(Cranelift)),
            #[cfg(feature = "llvm")]
            BackendChoice::Auto | BackendChoice::Llvm => Ok(Box::new(rabitc_codegen::llvm::Llvm)),
            #[cfg(not(feature = "llvm"))]
            BackendChoice::Auto => Ok(Box::new(Cranelift)),
            #[cfg(not(feature = "llvm"))]
            BackendChoice::Llvm => anyhow::bail!(
                "this rabitc was built without LLVM: run scripts/setup-llvm, then build it with \
                 --features llvm"
            ),
        }
    }
}

/// Generates code for `kernels` at every level and writes out the stages that `emits` asks for.
pub fn generate(
    kernels: &[Box<dyn Spec>],
    levels: &[Level],
    choice: BackendChoice,
    emits: &[Emit],
) -> Result<Code> {
    let backend = choice.backend()?;
    let ir_stage = match backend.name() {
        "cranelift" => "clif",
        _ => "llvm",
    };
    for stage in ["clif", "llvm"] {
        if stage != ir_stage && emit::wanted(emits, stage) {
            bail!("--emit {stage}: the backend is {}", backend.name());
        }
    }
    let options = Options {
        ir: emit::wanted(emits, ir_stage),
        asm: emit::wanted(emits, "asm"),
    };
    let mut code = Code {
        targets: Vec::new(),
        sections: Vec::new(),
        kernels: Vec::new(),
    };
    let (mut kir, mut ir, mut asm) = (String::new(), String::new(), String::new());
    for (n, &level) in levels.iter().enumerate() {
        let (mut section, mut entries) = (Vec::new(), Vec::new());
        for spec in kernels {
            let kernel = spec.build(backend.vectors(level));
            let object = backend.compile(&kernel, level, options)?;
            section.resize(usize::next_multiple_of(section.len(), ALIGNMENT), 0);
            entries.push(section.len());
            section.extend_from_slice(&object.code);
            if n == 0 {
                kir.push_str(&print(&kernel));
                code.kernels.push(rabitc_rbx::Kernel {
                    name: kernel.name.clone(),
                    params: kernel.params.iter().map(|p| p.name.clone()).collect(),
                    scalars: kernel.scalars.clone(),
                });
            }
            let title = format!(
                "; {} for {level}, {} bytes\n",
                kernel.name,
                object.code.len()
            );
            ir.push_str(&format!("{title}{}\n", object.ir));
            asm.push_str(&format!("{title}{}\n", object.asm));
        }
        code.targets.push(Target {
            level,
            backend: backend.name().to_string(),
            section: format!("rbx/code/cpu.{level}"),
            entries,
        });
        code.sections.push(section);
    }
    for (stage, text) in [("kir", &kir), (ir_stage, &ir), ("asm", &asm)] {
        emit::text(emits, stage, text)?;
    }
    Ok(code)
}
