//! Native code: every kernel for every target.

use anyhow::{Result, bail};
use rabitc_codegen::backend::{Backend, Options};
use rabitc_codegen::cranelift::Cranelift;
use rabitc_codegen::kernels::Spec;
use rabitc_codegen::kir::Kernel;
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
///
/// # Errors
/// A stage that the backend does not have, a kernel that it cannot compile, or a stage that cannot be
/// written.
pub fn generate(
    kernels: &[Box<dyn Spec>],
    levels: &[Level],
    choice: BackendChoice,
    emits: &[Emit],
) -> Result<Code> {
    let backend = choice.backend()?;
    let ir_stage = ir_stage(&*backend, emits)?;
    let mut generator = Generator {
        kernels,
        options: Options {
            ir: emit::wanted(emits, ir_stage),
            asm: emit::wanted(emits, "asm"),
        },
        backend: &*backend,
        ir: String::new(),
        asm: String::new(),
    };
    let mut code = Code {
        targets: Vec::new(),
        sections: Vec::new(),
        kernels: Vec::new(),
    };
    for &level in levels {
        let (target, section) = generator.level(level)?;
        code.targets.push(target);
        code.sections.push(section);
    }
    let mut kir = String::new();
    // Parameters are the same at every level; the text is that of the first.
    if let Some(&level) = levels.first() {
        for spec in kernels {
            let kernel = spec.build(backend.vectors(level));
            kir.push_str(&print(&kernel));
            code.kernels.push(signature(&kernel));
        }
    }
    for (stage, text) in [
        ("kir", &kir),
        (ir_stage, &generator.ir),
        ("asm", &generator.asm),
    ] {
        emit::text(emits, stage, text)?;
    }
    Ok(code)
}

/// The stage that is the backend's own IR. Asking for another backend's is an error.
fn ir_stage(backend: &dyn Backend, emits: &[Emit]) -> Result<&'static str> {
    let (own, other) = match backend.name() {
        "cranelift" => ("clif", "llvm"),
        _ => ("llvm", "clif"),
    };
    if emit::wanted(emits, other) {
        bail!("--emit {other}: the backend is {}", backend.name());
    }
    Ok(own)
}

/// What the artifact says of a kernel.
fn signature(kernel: &Kernel) -> rabitc_rbx::Kernel {
    rabitc_rbx::Kernel {
        name: kernel.name.clone(),
        params: kernel.params.iter().map(|p| p.name.clone()).collect(),
        scalars: kernel.scalars.clone(),
    }
}

/// Generates level after level, and keeps what the stages show.
struct Generator<'a> {
    kernels: &'a [Box<dyn Spec>],
    backend: &'a dyn Backend,
    options: Options,
    ir: String,
    asm: String,
}

impl Generator<'_> {
    /// The code of all kernels, one after the other, and where each begins.
    fn level(&mut self, level: Level) -> Result<(Target, Vec<u8>)> {
        let (mut section, mut entries) = (Vec::new(), Vec::new());
        for spec in self.kernels {
            let kernel = spec.build(self.backend.vectors(level));
            let object = self.backend.compile(&kernel, level, self.options)?;
            section.resize(usize::next_multiple_of(section.len(), ALIGNMENT), 0);
            entries.push(section.len());
            section.extend_from_slice(&object.code);
            let (name, bytes) = (&kernel.name, object.code.len());
            let title = format!("; {name} for {level}, {bytes} bytes\n");
            self.ir.push_str(&format!("{title}{}\n", object.ir));
            self.asm.push_str(&format!("{title}{}\n", object.asm));
        }
        let target = Target {
            level,
            backend: self.backend.name().to_string(),
            section: format!("rbx/code/cpu.{level}"),
            entries,
        };
        Ok((target, section))
    }
}
