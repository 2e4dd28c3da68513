//! GPU kernels of training graphs: snapshots of what is emitted, and NVRTC's opinion of it.

mod cuda_train_cases;

use cuda_train_cases::{attention, cases};
use rabitc_codegen::cuda::Compiler;
use rabitc_rbx::SmArch;

#[test]
fn what_is_emitted_does_not_change_by_itself() {
    for (name, spec) in cases() {
        let source = spec.source(SmArch::new(9, 0));
        assert_eq!(source.name, spec.name());
        insta::with_settings!({ snapshot_path => "cuda_train", prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, source.text);
        });
    }
}

#[test]
fn every_kernel_compiles_and_none_spills() {
    let compiler = match Compiler::new() {
        Ok(compiler) => compiler,
        Err(error) => return println!("skipped: {error}"),
    };
    for (name, spec) in cases().into_iter().chain(attention::others()) {
        for arch in [SmArch::new(8, 0), SmArch::new(9, 0)] {
            let compiled = compiler.compile(&spec.source(arch), arch);
            let found = compiled.unwrap_or_else(|e| panic!("{name}: {e}")).resources;
            let spilled = (found.spill_stores, found.spill_loads);
            assert_eq!(spilled, (0, 0), "{name} for {arch} spills: {found:?}");
        }
    }
}
