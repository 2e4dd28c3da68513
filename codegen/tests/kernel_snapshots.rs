//! Snapshots of generated kernels: the kernel IR and the x86-64-v3 assembly of each.
//!
//! A change that should not alter code leaves every snapshot byte for byte.

mod cranelift_texts;

use cranelift_texts::{compile_for_every_level, texts};
use rabitc_codegen::kernels::attention::Attention;
use rabitc_codegen::kernels::elementwise::{Elementwise, Function};
use rabitc_codegen::kernels::embed::Embed;
use rabitc_codegen::kernels::kv_append::KvAppend;
use rabitc_codegen::kernels::linear::{Linear, Weight};
use rabitc_codegen::kernels::rb_prepare::{Before, RbPrepare};
use rabitc_codegen::kernels::rb_product::RbProduct;
use rabitc_codegen::kernels::rb_tables::{TableShape, Tables};
use rabitc_codegen::kernels::rms_norm::RmsNorm;
use rabitc_codegen::kernels::rope::Rope;
use rabitc_codegen::kernels::select_rows::SelectRows;
use rabitc_codegen::kernels::{Float, Spec};
use rabitc_ir::layout::SignLayout;
use rabitc_ir::ops::gate::Activation;

fn product(
    tables: Tables,
    segments: &[usize],
    d_in: usize,
    paths: usize,
    row_tiles: usize,
    tokens: usize,
) -> Box<dyn Spec> {
    Box::new(RbProduct {
        layout: SignLayout {
            d_in,
            paths,
            segments: segments.to_vec(),
            row_tiles,
        },
        tables,
        g: Float::F16,
        residual: (segments.len() == 1).then_some(segments[0]),
        tokens,
    })
}

fn prepare(tables: Tables, d_in: usize, sets: usize, before: Before) -> Box<dyn Spec> {
    Box::new(RbPrepare {
        shape: TableShape { d_in, sets, tables },
        x_stride: d_in,
        h: Float::F16,
        before,
    })
}

fn linear(
    weight: Weight,
    d_out: usize,
    d_in: usize,
    row_tile: usize,
    token_tile: usize,
) -> Box<dyn Spec> {
    Box::new(Linear {
        d_in,
        d_out,
        x_stride: d_in,
        weight,
        row_tile,
        token_tile,
    })
}

fn specs() -> Vec<Box<dyn Spec>> {
    let norm = Before::RmsNorm {
        weight: Float::BF16,
        eps: 1e-5,
        unit_offset: false,
    };
    let gate = Before::Gate {
        act: Activation::Silu,
        up_stride: 22016,
    };
    vec![
        product(Tables::Int8, &[4096, 4096, 4096], 4096, 2, 4, 1),
        product(Tables::Int8, &[4096], 11008, 2, 4, 32),
        product(Tables::Int8, &[37], 45, 3, 1, 1),
        product(Tables::Int16, &[2048, 2048], 1024, 2, 4, 1),
        product(Tables::Int16, &[70], 301, 2, 2, 32),
        product(Tables::F32, &[384, 128], 384, 2, 2, 1),
        product(Tables::F32, &[1], 1, 1, 1, 1),
        prepare(Tables::Int8, 4096, 6, norm),
        prepare(Tables::Int8, 11008, 2, gate),
        prepare(Tables::Int8, 45, 3, Before::Nothing),
        prepare(Tables::Int16, 45, 1, Before::Nothing),
        prepare(Tables::F32, 301, 2, Before::Nothing),
        linear(Weight::Float(Float::BF16), 2048, 128, 4, 1),
        linear(Weight::Float(Float::F32), 33, 17, 2, 4),
        linear(Weight::Int8, 320, 96, 4, 1),
        Box::new(RmsNorm {
            d: 96,
            group: 24,
            x_stride: 96,
            weight: Float::F16,
            eps: 1e-6,
            unit_offset: true,
        }),
        Box::new(Rope {
            heads: 3,
            head_dim: 10,
            x_stride: 50,
            inverse: false,
        }),
        Box::new(KvAppend {
            n_kv_heads: 2,
            head_dim: 10,
            k_stride: 20,
            v_stride: 50,
        }),
        Box::new(Attention {
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 10,
            q_stride: 40,
            scale: 0.25,
            window: 5,
            softcap: 30.0,
        }),
        Box::new(Elementwise {
            function: Function::Gate(Activation::GeluTanh),
            d: 515,
            a_stride: 1030,
            b_stride: 1030,
        }),
        Box::new(Elementwise {
            function: Function::AddBias(Float::BF16),
            d: 7,
            a_stride: 7,
            b_stride: 0,
        }),
        Box::new(Embed {
            d: 13,
            table: Float::BF16,
            scale: 1.0,
        }),
        Box::new(SelectRows {
            d: 13,
            x_stride: 13,
        }),
    ]
}

#[test]
fn kernel_ir_and_assembly_are_as_they_were() {
    for (name, text) in texts(&specs()) {
        insta::assert_snapshot!(name, text);
    }
}

#[test]
fn every_kernel_compiles_for_every_level() {
    compile_for_every_level(&specs());
}

/// At the width that Cranelift's kernels have too, and at the level's own.
#[cfg(feature = "llvm")]
#[test]
fn llvm_compiles_every_kernel_for_every_level() {
    use rabitc_codegen::backend::{Backend, Options};
    use rabitc_codegen::cranelift::Cranelift;
    use rabitc_codegen::level::Level;
    use rabitc_codegen::llvm::Llvm;
    for spec in specs() {
        for level in Level::ALL {
            for vectors in [Cranelift.vectors(level), Llvm.vectors(level)] {
                let object = Llvm.compile(&spec.build(vectors), level, Options::default());
                let object = object.unwrap_or_else(|e| panic!("{} for {level}: {e}", spec.name()));
                assert!(!object.code.is_empty());
            }
        }
    }
}

/// LLVM's IR and assembly of the products and their tables, for a level of each kind: shuffles
/// within 16 bytes at two widths, permutations of 64 bytes, the other architecture.
#[cfg(feature = "llvm")]
#[test]
fn llvm_ir_and_assembly_are_as_they_were() {
    use rabitc_codegen::backend::{Backend, Options};
    use rabitc_codegen::level::Level;
    use rabitc_codegen::llvm::Llvm;
    let options = Options {
        ir: true,
        asm: true,
    };
    let levels = [Level::X86V3, Level::X86V4Vnni, Level::Aarch64Dotprod];
    let specs: Vec<_> = [Tables::Int8, Tables::Int16, Tables::F32]
        .into_iter()
        .flat_map(|tables| {
            [
                product(tables, &[2048], 2048, 2, 4, 1),
                product(tables, &[70], 301, 2, 2, 32),
                prepare(tables, 301, 2, Before::Nothing),
            ]
        })
        .collect();
    for (spec, level) in specs.iter().flat_map(|s| levels.map(|l| (s, l))) {
        let kernel = spec.build(Llvm.vectors(level));
        let object = Llvm
            .compile(&kernel, level, options)
            .expect("the kernel compiles");
        let name = format!("{}.{level}", spec.name());
        insta::assert_snapshot!(format!("{name}.llvm"), object.ir);
        insta::assert_snapshot!(format!("{name}.llvm-asm"), object.asm);
    }
}
