//! GPU kernels: snapshots of what is emitted, and NVRTC's opinion of it.

use rabitc_codegen::cuda::kernels::argmax::Argmax;
use rabitc_codegen::cuda::kernels::attention_decode::AttentionDecode;
use rabitc_codegen::cuda::kernels::attention_prefill::AttentionPrefill;
use rabitc_codegen::cuda::kernels::elementwise::{Elementwise, Function};
use rabitc_codegen::cuda::kernels::embed::Embed;
use rabitc_codegen::cuda::kernels::heads::{Chain, Chains};
use rabitc_codegen::cuda::kernels::linear::{Linear, Norm, Weight};
use rabitc_codegen::cuda::kernels::rb_fold::RbFold;
use rabitc_codegen::cuda::kernels::rb_prefill::RbPrefill;
use rabitc_codegen::cuda::kernels::rb_prefill_wgmma::RbPrefillWgmma;
use rabitc_codegen::cuda::kernels::rb_prepare::{Before, Order, RbPrepare};
use rabitc_codegen::cuda::kernels::rb_product::{Finish, RbProduct, Tile};
use rabitc_codegen::cuda::kernels::rb_repack::RbRepack;
use rabitc_codegen::cuda::kernels::read_memory::ReadMemory;
use rabitc_codegen::cuda::kernels::rms_norm::RmsNorm;
use rabitc_codegen::cuda::kernels::rotate_append::RotateAppend;
use rabitc_codegen::cuda::kernels::select_rows::SelectRows;
use rabitc_codegen::cuda::layout::GpuLayout;
use rabitc_codegen::cuda::{Compiler, CudaSpec};
use rabitc_codegen::kernels::Float;
use rabitc_ir::layout::SignLayout;
use rabitc_ir::ops::gate::Activation;
use rabitc_rbx::SmArch;

fn layout(segments: &[usize], d_in: usize, paths: usize, paired: bool) -> GpuLayout {
    let stored = SignLayout {
        d_in,
        paths,
        segments: segments.to_vec(),
        row_tiles: 4,
    };
    GpuLayout { stored, paired }
}

fn product(
    layout: GpuLayout,
    tokens: usize,
    planes: usize,
    norm: bool,
    finish: Finish,
    tile: Tile,
) -> RbProduct {
    let x_stride = layout.stored.d_in;
    RbProduct {
        x_aligned: x_stride.is_multiple_of(8),
        layout,
        tokens,
        planes,
        norm: norm.then_some(1e-5),
        x_stride,
        by_rows: false,
        finish,
        tile,
    }
}

fn tile(splits: usize, row_tiles: usize, slots: usize) -> Tile {
    Tile {
        splits,
        row_tiles,
        warps: 16,
        slots,
    }
}

fn chains(stride: usize, bias: bool, norm: bool) -> Chains {
    let rotated = Chain {
        stride,
        bias: bias.then_some(Float::F32),
        norm: norm.then_some((Float::BF16, 1e-6, norm && bias)),
        rope: true,
    };
    let v = Chain {
        norm: None,
        rope: false,
        ..rotated
    };
    Chains {
        q: rotated,
        k: rotated,
        v,
    }
}

fn decode(
    heads: (usize, usize, usize),
    tokens: usize,
    window: usize,
    softcap: f32,
    chains: Chains,
) -> AttentionDecode {
    AttentionDecode {
        n_heads: heads.0,
        n_kv_heads: heads.1,
        head_dim: heads.2,
        tokens,
        splits: 8,
        scale: 0.125,
        window,
        softcap,
        chains,
    }
}

fn linear(d_out: usize, d_in: usize, weight: Weight, tokens: usize, norm: bool) -> Linear {
    let norm = norm.then_some(Norm {
        weight: Float::BF16,
        eps: 1e-5,
        unit_offset: false,
    });
    Linear {
        d_in,
        d_out,
        x_stride: d_in,
        weight,
        tokens,
        select: norm.is_some(),
        by_rows: norm.is_some(),
        norm,
    }
}

/// (name of the snapshot, kernel)
fn cases() -> Vec<(&'static str, Box<dyn CudaSpec>)> {
    let llama = |segments: &[usize], d_in, paired| layout(segments, d_in, 2, paired);
    let odd = layout(&[37, 5], 301, 3, false);
    vec![
        (
            "product_qkv",
            Box::new(product(
                llama(&[4096; 3], 4096, false),
                1,
                16,
                true,
                Finish::Store,
                tile(8, 48, 3),
            )),
        ),
        (
            "product_o",
            Box::new(product(
                llama(&[4096], 4096, false),
                1,
                16,
                false,
                Finish::Residual(4096),
                tile(8, 16, 1),
            )),
        ),
        (
            "product_gate_up",
            Box::new(product(
                llama(&[11008; 2], 4096, true),
                1,
                16,
                true,
                Finish::Gate(Activation::Silu),
                tile(8, 86, 3),
            )),
        ),
        (
            "product_down",
            Box::new(product(
                llama(&[4096], 11008, false),
                1,
                16,
                false,
                Finish::Residual(4096),
                tile(8, 16, 1),
            )),
        ),
        (
            "product_qkv_8_tokens",
            Box::new(product(
                llama(&[4096; 3], 4096, false),
                8,
                16,
                true,
                Finish::Store,
                tile(8, 48, 3),
            )),
        ),
        (
            "product_8_planes",
            Box::new(product(
                llama(&[4096], 4096, false),
                8,
                8,
                false,
                Finish::Store,
                tile(8, 16, 1),
            )),
        ),
        (
            "product_odd",
            Box::new(product(
                odd.clone(),
                3,
                16,
                true,
                Finish::Store,
                tile(2, 2, 1),
            )),
        ),
        (
            "product_gelu",
            Box::new(product(
                layout(&[37, 37], 301, 1, true),
                1,
                8,
                true,
                Finish::Gate(Activation::GeluTanh),
                tile(1, 6, 1),
            )),
        ),
        (
            "repack_odd",
            Box::new(RbRepack {
                layout: odd.clone(),
            }),
        ),
        (
            "repack_paired",
            Box::new(RbRepack {
                layout: llama(&[11008; 2], 4096, true),
            }),
        ),
        (
            "fold_norm",
            Box::new(RbFold {
                layout: llama(&[11008; 2], 4096, true),
                g: Float::F16,
                h: Float::F16,
                norm: Some((Float::BF16, true)),
            }),
        ),
        (
            "fold_odd",
            Box::new(RbFold {
                layout: odd.clone(),
                g: Float::F32,
                h: Float::BF16,
                norm: None,
            }),
        ),
        (
            "prepare_norm",
            Box::new(RbPrepare {
                d_in: 4096,
                x_stride: 4096,
                x_aligned: true,
                before: Before::Norm(1e-5),
                order: Order::Units(256),
            }),
        ),
        (
            "prepare_gate",
            Box::new(RbPrepare {
                d_in: 301,
                x_stride: 602,
                x_aligned: false,
                before: Before::Gate(Activation::GeluTanh, 602),
                order: Order::Tokens,
            }),
        ),
        (
            "prefill_qkv",
            Box::new(RbPrefill {
                layout: llama(&[4096; 3], 4096, false),
                residual: None,
                by_rows: false,
            }),
        ),
        (
            "prefill_gate_up",
            Box::new(RbPrefill {
                layout: llama(&[11008; 2], 4096, true),
                residual: None,
                by_rows: false,
            }),
        ),
        (
            "prefill_odd",
            Box::new(RbPrefill {
                layout: odd,
                residual: Some(42),
                by_rows: false,
            }),
        ),
        (
            "prompt_qkv",
            Box::new(RbPrefillWgmma {
                layout: llama(&[4096; 3], 4096, false),
                finish: Finish::Store,
                tokens: 256,
                by_rows: false,
            }),
        ),
        (
            "prompt_gate_up",
            Box::new(RbPrefillWgmma {
                layout: llama(&[11008; 2], 4096, true),
                finish: Finish::Gate(Activation::Silu),
                tokens: 256,
                by_rows: false,
            }),
        ),
        (
            "prompt_down",
            Box::new(RbPrefillWgmma {
                layout: llama(&[4096], 11008, false),
                finish: Finish::Residual(4096),
                tokens: 128,
                by_rows: false,
            }),
        ),
        (
            "prompt_odd",
            Box::new(RbPrefillWgmma {
                layout: layout(&[37, 5], 301, 5, false),
                finish: Finish::Store,
                tokens: 128,
                by_rows: true,
            }),
        ),
        (
            "attention_llama",
            Box::new(decode(
                (32, 32, 128),
                1,
                0,
                0.0,
                chains(12288, false, false),
            )),
        ),
        (
            "attention_gemma",
            Box::new(decode((4, 1, 256), 1, 512, 0.0, chains(1536, true, true))),
        ),
        (
            "attention_8_tokens",
            Box::new(decode((32, 8, 128), 8, 0, 30.0, chains(6144, true, false))),
        ),
        (
            "attention_odd",
            Box::new(decode((3, 3, 6), 5, 7, 2.5, chains(54, false, true))),
        ),
        (
            "attention_prefill",
            Box::new(AttentionPrefill {
                n_heads: 32,
                n_kv_heads: 32,
                head_dim: 128,
                window: 0,
                softcap: 0.0,
                filled: true,
            }),
        ),
        (
            "attention_prefill_512",
            Box::new(AttentionPrefill {
                n_heads: 32,
                n_kv_heads: 8,
                head_dim: 128,
                window: 0,
                softcap: 0.0,
                filled: false,
            }),
        ),
        (
            "attention_prefill_odd",
            Box::new(AttentionPrefill {
                n_heads: 6,
                n_kv_heads: 3,
                head_dim: 38,
                window: 9,
                softcap: 5.0,
                filled: false,
            }),
        ),
        (
            "attention_prefill_wide",
            Box::new(AttentionPrefill {
                n_heads: 4,
                n_kv_heads: 1,
                head_dim: 256,
                window: 512,
                softcap: 0.0,
                filled: false,
            }),
        ),
        (
            "rotate_append",
            Box::new(RotateAppend {
                n_heads: 32,
                n_kv_heads: 8,
                head_dim: 128,
                scale: 0.088,
                chains: chains(6144, true, true),
            }),
        ),
        (
            "head_bf16",
            Box::new(linear(32000, 4096, Weight::Float(Float::BF16), 1, true)),
        ),
        (
            "linear_int8",
            Box::new(linear(320, 112, Weight::Int8, 8, false)),
        ),
        (
            "linear_odd",
            Box::new(linear(37, 301, Weight::Float(Float::F16), 8, false)),
        ),
        (
            "embed",
            Box::new(Embed {
                d: 96,
                vocab: 320,
                table: Float::BF16,
                scale: 9.8125,
            }),
        ),
        (
            "rms_norm",
            Box::new(RmsNorm {
                d: 96,
                group: 32,
                x_stride: 160,
                weight: Float::F16,
                eps: 1e-6,
                unit_offset: true,
                residual: Some(96),
            }),
        ),
        (
            "gate",
            Box::new(Elementwise {
                function: Function::Gate(Activation::Silu),
                d: 301,
                a_stride: 602,
                b_stride: 602,
            }),
        ),
        (
            "softcap",
            Box::new(Elementwise {
                function: Function::Softcap(30.0),
                d: 320,
                a_stride: 320,
                b_stride: 0,
            }),
        ),
        (
            "bias",
            Box::new(Elementwise {
                function: Function::AddBias(Float::F16),
                d: 33,
                a_stride: 99,
                b_stride: 0,
            }),
        ),
        (
            "select_rows",
            Box::new(SelectRows {
                d: 112,
                x_stride: 224,
            }),
        ),
        ("read_memory", Box::new(ReadMemory)),
        (
            "argmax",
            Box::new(Argmax {
                vocab: 32000,
                ring: 4096,
            }),
        ),
    ]
}

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
