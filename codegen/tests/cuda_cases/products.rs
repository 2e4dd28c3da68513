//! Residual-binary products and what prepares them.

use rabitc_codegen::cuda::kernels::finish::Finish;
use rabitc_codegen::cuda::kernels::rb_fold::RbFold;
use rabitc_codegen::cuda::kernels::rb_prefill::RbPrefill;
use rabitc_codegen::cuda::kernels::rb_prefill_wgmma::{PrefillTile, RbPrefillWgmma};
use rabitc_codegen::cuda::kernels::rb_prepare::{Before, Order, RbPrepare};
use rabitc_codegen::cuda::kernels::rb_repack::RbRepack;
use rabitc_codegen::cuda::layout::GpuLayout;
use rabitc_codegen::kernels::Float;
use rabitc_ir::layout::SignLayout;
use rabitc_ir::ops::gate::Activation;

use super::{Case, case};

/// All of them.
pub fn cases() -> Vec<Case> {
    let all = [at_load(), prepare(), prefill(), prompt()];
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

/// Products of many tokens for architectures with clusters.
fn prompt() -> Vec<Case> {
    let product = |layout, finish, tokens, by_rows| RbPrefillWgmma {
        layout,
        finish,
        most: 2048,
        by_rows,
        tile: PrefillTile { tokens, stages: 6 },
    };
    let qkv = layout(&[4096; 3], 4096, 2, false);
    let gate_up = layout(&[11008; 2], 4096, 2, true);
    let down = layout(&[4096], 11008, 2, false);
    let odd = layout(&[37, 5], 301, 5, false);
    let gate = Finish::Gate(Activation::Silu);
    vec![
        case("prompt_qkv", product(qkv, Finish::Store, 256, false)),
        case("prompt_gate_up", product(gate_up, gate, 256, false)),
        case(
            "prompt_down",
            product(down, Finish::Residual(4096), 128, false),
        ),
        case("prompt_odd", product(odd, Finish::Store, 128, true)),
    ]
}

/// Products of many tokens for all architectures.
fn prefill() -> Vec<Case> {
    let llama = |segments: &[usize], d_in, paired| layout(segments, d_in, 2, paired);
    let odd = layout(&[37, 5], 301, 3, false);
    vec![
        case(
            "prefill_qkv",
            RbPrefill {
                layout: llama(&[4096; 3], 4096, false),
                residual: None,
                most: 2048,
                by_rows: false,
                warp_tiles: 4,
            },
        ),
        case(
            "prefill_gate_up",
            RbPrefill {
                layout: llama(&[11008; 2], 4096, true),
                residual: None,
                most: 2048,
                by_rows: false,
                warp_tiles: 4,
            },
        ),
        case(
            "prefill_odd",
            RbPrefill {
                layout: odd,
                residual: Some(42),
                most: 2048,
                by_rows: false,
                warp_tiles: 2,
            },
        ),
    ]
}
