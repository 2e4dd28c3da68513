//! Residual-binary products and what prepares them.

use rabitc_codegen::cuda::kernels::rb_fold::RbFold;
use rabitc_codegen::cuda::kernels::rb_prefill::RbPrefill;
use rabitc_codegen::cuda::kernels::rb_prefill_wgmma::RbPrefillWgmma;
use rabitc_codegen::cuda::kernels::rb_prepare::{Before, Order, RbPrepare};
use rabitc_codegen::cuda::kernels::rb_product::{Finish, RbProduct, Tile};
use rabitc_codegen::cuda::kernels::rb_repack::RbRepack;
use rabitc_codegen::cuda::layout::GpuLayout;
use rabitc_codegen::kernels::Float;
use rabitc_ir::layout::SignLayout;
use rabitc_ir::ops::gate::Activation;

use super::{Case, case};

/// All of them.
pub fn cases() -> Vec<Case> {
    let all = [
        one_token(),
        few_tokens(),
        at_load(),
        prepare(),
        prefill(),
        prompt(),
    ];
    all.into_iter().flatten().collect()
}

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

/// The products of a 7 B model for one token.
fn one_token() -> Vec<Case> {
    let llama = |segments: &[usize], d_in, paired| layout(segments, d_in, 2, paired);
    vec![
        case(
            "product_qkv",
            product(
                llama(&[4096; 3], 4096, false),
                1,
                16,
                true,
                Finish::Store,
                tile(8, 48, 3),
            ),
        ),
        case(
            "product_o",
            product(
                llama(&[4096], 4096, false),
                1,
                16,
                false,
                Finish::Residual(4096),
                tile(8, 16, 1),
            ),
        ),
        case(
            "product_gate_up",
            product(
                llama(&[11008; 2], 4096, true),
                1,
                16,
                true,
                Finish::Gate(Activation::Silu),
                tile(8, 86, 3),
            ),
        ),
        case(
            "product_down",
            product(
                llama(&[4096], 11008, false),
                1,
                16,
                false,
                Finish::Residual(4096),
                tile(8, 16, 1),
            ),
        ),
    ]
}

/// Several tokens, and odd shapes.
fn few_tokens() -> Vec<Case> {
    let llama = |segments: &[usize], d_in, paired| layout(segments, d_in, 2, paired);
    let odd = layout(&[37, 5], 301, 3, false);
    vec![
        case(
            "product_qkv_8_tokens",
            product(
                llama(&[4096; 3], 4096, false),
                8,
                16,
                true,
                Finish::Store,
                tile(8, 48, 3),
            ),
        ),
        case(
            "product_8_planes",
            product(
                llama(&[4096], 4096, false),
                8,
                8,
                false,
                Finish::Store,
                tile(8, 16, 1),
            ),
        ),
        case(
            "product_odd",
            product(odd.clone(), 3, 16, true, Finish::Store, tile(2, 2, 1)),
        ),
        case(
            "product_gelu",
            product(
                layout(&[37, 37], 301, 1, true),
                1,
                8,
                true,
                Finish::Gate(Activation::GeluTanh),
                tile(1, 6, 1),
            ),
        ),
    ]
}

/// What fills a layer's memory when a model is loaded.
fn at_load() -> Vec<Case> {
    let llama = |segments: &[usize], d_in, paired| layout(segments, d_in, 2, paired);
    let odd = layout(&[37, 5], 301, 3, false);
    vec![
        case(
            "repack_odd",
            RbRepack {
                layout: odd.clone(),
            },
        ),
        case(
            "repack_paired",
            RbRepack {
                layout: llama(&[11008; 2], 4096, true),
            },
        ),
        case(
            "fold_norm",
            RbFold {
                layout: llama(&[11008; 2], 4096, true),
                g: Float::F16,
                h: Float::F16,
                norm: Some((Float::BF16, true)),
            },
        ),
        case(
            "fold_odd",
            RbFold {
                layout: odd.clone(),
                g: Float::F32,
                h: Float::BF16,
                norm: None,
            },
        ),
    ]
}

/// The input of products of many tokens.
fn prepare() -> Vec<Case> {
    vec![
        case(
            "prepare_norm",
            RbPrepare {
                d_in: 4096,
                x_stride: 4096,
                x_aligned: true,
                before: Before::Norm(1e-5),
                order: Order::Units(256),
            },
        ),
        case(
            "prepare_gate",
            RbPrepare {
                d_in: 301,
                x_stride: 602,
                x_aligned: false,
                before: Before::Gate(Activation::GeluTanh, 602),
                order: Order::Tokens,
            },
        ),
    ]
}

/// Products of many tokens.
fn prefill() -> Vec<Case> {
    let llama = |segments: &[usize], d_in, paired| layout(segments, d_in, 2, paired);
    let odd = layout(&[37, 5], 301, 3, false);
    vec![
        case(
            "prefill_qkv",
            RbPrefill {
                layout: llama(&[4096; 3], 4096, false),
                residual: None,
                by_rows: false,
            },
        ),
        case(
            "prefill_gate_up",
            RbPrefill {
                layout: llama(&[11008; 2], 4096, true),
                residual: None,
                by_rows: false,
            },
        ),
        case(
            "prefill_odd",
            RbPrefill {
                layout: odd,
                residual: Some(42),
                by_rows: false,
            },
        ),
    ]
}

/// Products of many tokens on architectures with clusters.
fn prompt() -> Vec<Case> {
    let llama = |segments: &[usize], d_in, paired| layout(segments, d_in, 2, paired);
    let wgmma = |layout, finish, tokens, by_rows| RbPrefillWgmma {
        layout,
        finish,
        tokens,
        by_rows,
    };
    vec![
        case(
            "prompt_qkv",
            wgmma(llama(&[4096; 3], 4096, false), Finish::Store, 256, false),
        ),
        case(
            "prompt_gate_up",
            wgmma(
                llama(&[11008; 2], 4096, true),
                Finish::Gate(Activation::Silu),
                256,
                false,
            ),
        ),
        case(
            "prompt_down",
            wgmma(
                llama(&[4096], 11008, false),
                Finish::Residual(4096),
                128,
                false,
            ),
        ),
        case(
            "prompt_odd",
            wgmma(layout(&[37, 5], 301, 5, false), Finish::Store, 128, true),
        ),
    ]
}
