//! Native code: every kernel for every target.

use anyhow::Result;
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

/// Generates code for `kernels` at every level and writes out the stages that `emits` asks for.
pub fn generate(kernels: &[Box<dyn Spec>], levels: &[Level], emits: &[Emit]) -> Result<Code> {
    let backend = Cranelift;
    let options = Options {
        ir: emit::wanted(emits, "clif"),
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
            let kernel = spec.build(backend.vector_bytes(level));
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
    for (stage, text) in [("kir", &kir), ("clif", &ir), ("asm", &asm)] {
        emit::text(emits, stage, text)?;
    }
    Ok(code)
}
