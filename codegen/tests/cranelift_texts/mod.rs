//! What Cranelift makes of kernels, for snapshots.

use rabitc_codegen::backend::{Backend, Options};
use rabitc_codegen::cranelift::Cranelift;
use rabitc_codegen::kernels::Spec;
use rabitc_codegen::kir::print::print;
use rabitc_codegen::level::Level;

/// The kernel IR and the x86-64-v3 assembly of each kernel, by the name of its snapshot.
pub fn texts(specs: &[Box<dyn Spec>]) -> Vec<(String, String)> {
    let options = Options {
        ir: false,
        asm: true,
    };
    let texts = specs.iter().flat_map(|spec| {
        let (kernel, name) = (spec.build(Cranelift.vectors(Level::X86V3)), spec.name());
        let object = Cranelift.compile(&kernel, Level::X86V3, options);
        let asm = object.unwrap_or_else(|e| panic!("{name}: {e}")).asm;
        [
            (format!("{name}.kir"), print(&kernel)),
            (format!("{name}.asm"), asm),
        ]
    });
    texts.collect()
}

/// Compiles each kernel for every level.
pub fn compile_for_every_level(specs: &[Box<dyn Spec>]) {
    for spec in specs {
        for level in Level::ALL {
            let kernel = spec.build(Cranelift.vectors(level));
            let object = Cranelift.compile(&kernel, level, Options::default());
            let object = object.unwrap_or_else(|e| panic!("{} for {level}: {e}", spec.name()));
            assert!(!object.code.is_empty());
        }
    }
}
