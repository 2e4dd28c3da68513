//! The GPU's product of one token: snapshots of what is emitted, NVRTC's opinion of it, and how the
//! products are cut.

use rabitc_codegen::cuda::kernels::finish::Finish;
use rabitc_codegen::cuda::kernels::rb_gemv::{GemvTile, RbGemv};
use rabitc_codegen::cuda::layout::GpuLayout;
use rabitc_codegen::cuda::plan::{choose_gemv_tile, gemv_candidates};
use rabitc_codegen::cuda::{Compiler, CudaSpec};
use rabitc_ir::layout::SignLayout;
use rabitc_ir::ops::gate::Activation;
use rabitc_rbx::SmArch;

const SM_90: &str = "sm_90";
const ARCHS: [&str; 3] = ["sm_80", "sm_89", SM_90];

fn arch(name: &str) -> SmArch {
    name.parse().unwrap()
}

/// A product without a tile.
fn product(segments: &[usize], d_in: usize, paths: usize, finish: Finish, norm: bool) -> RbGemv {
    let stored = SignLayout {
        d_in,
        paths,
        segments: segments.to_vec(),
        row_tiles: 4,
    };
    RbGemv {
        layout: GpuLayout {
            stored,
            paired: matches!(finish, Finish::Gate(_)),
        },
        planes: 16,
        norm: norm.then_some(1e-5),
        each: None,
        x_aligned: d_in.is_multiple_of(8),
        finish,
        tile: GemvTile::UNCUT,
    }
}

/// Every shape that tests go through: the layers of Llama-2-7B, then odd ones.
fn products() -> Vec<(&'static str, RbGemv)> {
    let gate = Finish::Gate(Activation::Silu);
    let add = Finish::Residual(4096);
    let eight_planes = RbGemv {
        planes: 8,
        ..product(&[4096], 4096, 2, Finish::Store, false)
    };
    vec![
        ("qkv", product(&[4096; 3], 4096, 2, Finish::Store, true)),
        ("o", product(&[4096], 4096, 2, add, false)),
        ("gate_up", product(&[11008; 2], 4096, 2, gate, true)),
        ("down", product(&[4096], 11008, 2, add, false)),
        (
            "grouped",
            product(&[4096, 1024, 1024], 4096, 2, Finish::Store, true),
        ),
        ("eight_planes", eight_planes),
        (
            "each_token",
            RbGemv {
                each: Some(320),
                ..product(&[37], 301, 2, Finish::Residual(40), false)
            },
        ),
        ("odd", product(&[37, 5], 301, 3, Finish::Store, true)),
        (
            "odd_gate",
            product(&[37, 37], 301, 1, Finish::Gate(Activation::GeluTanh), true),
        ),
        (
            "many_paths",
            product(&[100], 2000, 19, Finish::Store, false),
        ),
        (
            "long",
            product(&[1000], 60000, 5, Finish::Residual(1000), false),
        ),
    ]
}

/// The products as they are planned for an architecture.
fn planned(arch: SmArch) -> Vec<(String, Box<dyn CudaSpec>)> {
    let tiled = products().into_iter().map(|(name, mut product)| {
        product.tile = choose_gemv_tile(&product, arch).unwrap();
        let spec: Box<dyn CudaSpec> = Box::new(product);
        (format!("gemv_{name}"), spec)
    });
    tiled.collect()
}

#[test]
fn what_is_emitted_does_not_change_by_itself() {
    let arch = arch(SM_90);
    for (name, spec) in planned(arch) {
        let source = spec.source(arch);
        assert_eq!(source.name, spec.name());
        insta::with_settings!({ snapshot_path => "cuda", prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, source.text);
        });
    }
}

/// Without clusters and bulk copies, lanes copy for themselves.
#[test]
fn what_is_emitted_for_sm_80_does_not_change_by_itself() {
    let arch = arch("sm_80");
    let (name, spec) = planned(arch).swap_remove(0);
    insta::with_settings!({ snapshot_path => "cuda", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!(format!("{name}_sm_80"), spec.source(arch).text);
    });
}

#[test]
fn every_kernel_compiles_for_every_architecture_and_none_spills() {
    let compiler = match Compiler::new() {
        Ok(compiler) => compiler,
        Err(error) => return println!("skipped: {error}"),
    };
    for arch in ARCHS.map(arch) {
        for (name, spec) in planned(arch) {
            let source = spec.source(arch);
            let compiled = compiler.compile(&source, arch).unwrap();
            let r = compiled.resources;
            let spilled = (r.spill_stores, r.spill_loads);
            assert_eq!(spilled, (0, 0), "{name} for {arch} spills: {r:?}");
            println!(
                "{name} {arch}: {} registers, {} bytes shared",
                r.registers, source.shared
            );
        }
    }
}

#[test]
fn every_candidate_fits_and_covers_all_rows() {
    for arch in ARCHS.map(arch) {
        for (name, product) in products() {
            let candidates = gemv_candidates(&product, arch);
            assert!(!candidates.is_empty(), "{name} for {arch}");
            for tile in candidates {
                let product = RbGemv {
                    tile,
                    ..product.clone()
                };
                let case = format!("{name} for {arch}: {tile:?}");
                assert!(product.shared_bytes() <= arch.shared_bytes(), "{case}");
                let units = product.layout.row_tiles() / if product.layout.paired { 2 } else { 1 };
                assert!(product.clusters() * product.tiles() >= units, "{case}");
                assert!(
                    tile.warps <= 16 && product.grid() == product.clusters() * tile.splits,
                    "{case}"
                );
            }
        }
    }
}

/// What a block takes of a multiprocessor: shared memory, and registers of the fullest quarter.
#[derive(Clone, Copy, Debug)]
struct Share {
    shared: usize,
    registers: usize,
}

const SHARED: usize = 228 << 10;
const REGISTERS: usize = 16384;

impl Share {
    fn of(compiler: &Compiler, spec: &dyn CudaSpec, arch: SmArch) -> Share {
        let source = spec.source(arch);
        let compiled = compiler.compile(&source, arch).unwrap();
        let each = (compiled.resources.registers as usize).next_multiple_of(8) * 32;
        Share {
            // The system takes a KiB of each block.
            shared: source.shared as usize + 1024,
            registers: (source.threads as usize).div_ceil(32).div_ceil(4) * each,
        }
    }

    fn fits_beside(self, other: Share) -> bool {
        self.shared + other.shared <= SHARED && self.registers + other.registers <= REGISTERS
    }
}

/// In a large model, one block of every two successive products must fit on a multiprocessor; of
/// gate/up, which streams most of its signs, no two, and of the others two, so that launches of one
/// product overlap too.
#[test]
fn kernels_of_a_large_model_overlap() {
    let compiler = match Compiler::new() {
        Ok(compiler) => compiler,
        Err(error) => return println!("skipped: {error}"),
    };
    let arch = arch(SM_90);
    let chain = planned(arch);
    let shares: Vec<_> = chain
        .iter()
        .take(4)
        .map(|(name, spec)| (name, Share::of(&compiler, spec.as_ref(), arch)))
        .collect();
    for (i, (name, share)) in shares.iter().enumerate() {
        let (next, beside) = shares[(i + 1) % shares.len()];
        assert!(
            share.fits_beside(beside),
            "{name} {share:?}, {next} {beside:?}"
        );
        let streams = *name == "gemv_gate_up";
        assert_eq!(share.fits_beside(*share), !streams, "{name} {share:?}");
    }
}

#[test]
fn products_of_a_large_model_give_every_multiprocessor_one_block() {
    let arch = arch(SM_90);
    for (name, mut product) in products().into_iter().take(5) {
        product.tile = choose_gemv_tile(&product, arch).unwrap();
        assert_eq!((product.grid(), product.rounds()), (132, 1), "{name}");
    }
}
