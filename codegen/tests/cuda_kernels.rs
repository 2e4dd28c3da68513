//! GPU kernels: snapshots of what is emitted, and NVRTC's opinion of it.

mod cuda_cases;
mod cuda_chains;

use cuda_cases::cases;
use rabitc_codegen::cuda::Compiler;
use rabitc_rbx::SmArch;

const SM_90: &str = "sm_90";

#[test]
fn what_is_emitted_does_not_change_by_itself() {
    for (name, spec) in cases() {
        let source = spec.source(SM_90.parse().unwrap());
        assert_eq!(source.name, spec.name());
        insta::with_settings!({ snapshot_path => "cuda", prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, source.text);
        });
    }
}

/// NVRTC, or a word on why a test does nothing.
fn compiler() -> Option<Compiler> {
    match Compiler::new() {
        Ok(compiler) => Some(compiler),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

#[test]
fn every_kernel_compiles_for_every_architecture_and_none_spills() {
    let Some(compiler) = compiler() else { return };
    for (name, spec) in cases() {
        for arch in ["sm_80", "sm_89", SM_90].map(|a| a.parse::<SmArch>().unwrap()) {
            // What is only for architectures with clusters.
            if name.starts_with("prompt") && !arch.has_clusters() {
                continue;
            }
            let source = spec.source(arch);
            let compiled = compiler
                .compile(&source, arch)
                .unwrap_or_else(|e| panic!("{name}: {e}"));
            let r = compiled.resources;
            assert_eq!(
                (r.spill_stores, r.spill_loads),
                (0, 0),
                "{name} for {arch} spills: {r:?}"
            );
            assert!(
                !compiled.cubin.is_empty() && compiled.ptx.contains(&source.name),
                "{name}"
            );
            // Drivers compile PTX for cards that do not have what is `sm_90a`'s own.
            assert!(
                !compiled.ptx.contains("wgmma") && !compiled.ptx.contains("sm_90a"),
                "{name}"
            );
            println!(
                "{name} {arch}: {} registers, {} bytes shared",
                r.registers,
                source.shared + r.shared
            );
        }
    }
}

#[test]
fn the_same_text_gives_the_same_bytes() {
    let Some(compiler) = compiler() else { return };
    let (_, spec) = cases().swap_remove(0);
    let arch: SmArch = SM_90.parse().unwrap();
    let compile = || compiler.compile(&spec.source(arch), arch).unwrap();
    assert_eq!(compile(), compile());
}
