//! Dense layers, kernels of rows and single values, and the choice of tokens.

use rabitc_codegen::cuda::kernels::argmax::Argmax;
use rabitc_codegen::cuda::kernels::elementwise::{Elementwise, Function};
use rabitc_codegen::cuda::kernels::embed::Embed;
use rabitc_codegen::cuda::kernels::linear::{Linear, Norm, Weight};
use rabitc_codegen::cuda::kernels::read_memory::ReadMemory;
use rabitc_codegen::cuda::kernels::rms_norm::RmsNorm;
use rabitc_codegen::cuda::kernels::sample::Sample;
use rabitc_codegen::cuda::kernels::select_rows::SelectRows;
use rabitc_codegen::kernels::Float;
use rabitc_ir::ops::gate::Activation;

use super::{Case, case};

/// All of them.
pub fn cases() -> Vec<Case> {
    let all = [dense(), rows(), values(), choice()];
    all.into_iter().flatten().collect()
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

/// Dense layers.
fn dense() -> Vec<Case> {
    vec![
        case(
            "head_bf16",
            linear(32000, 4096, Weight::Float(Float::BF16), 1, true),
        ),
        case("linear_int8", linear(320, 112, Weight::Int8, 8, false)),
        case(
            "linear_odd",
            linear(37, 301, Weight::Float(Float::F16), 8, false),
        ),
    ]
}

/// Kernels that work on rows.
fn rows() -> Vec<Case> {
    vec![
        case(
            "embed",
            Embed {
                d: 96,
                vocab: 320,
                table: Float::BF16,
                scale: 9.8125,
            },
        ),
        case(
            "rms_norm",
            RmsNorm {
                d: 96,
                group: 32,
                x_stride: 160,
                weight: Float::F16,
                eps: 1e-6,
                unit_offset: true,
                residual: Some(96),
            },
        ),
        case(
            "select_rows",
            SelectRows {
                d: 112,
                x_stride: 224,
            },
        ),
        case("read_memory", ReadMemory),
    ]
}

/// Kernels that work on single values.
fn values() -> Vec<Case> {
    vec![
        case(
            "gate",
            Elementwise {
                function: Function::Gate(Activation::Silu),
                d: 301,
                a_stride: 602,
                b_stride: 602,
            },
        ),
        case(
            "softcap",
            Elementwise {
                function: Function::Softcap(30.0),
                d: 320,
                a_stride: 320,
                b_stride: 0,
            },
        ),
        case(
            "bias",
            Elementwise {
                function: Function::AddBias(Float::F16),
                d: 33,
                a_stride: 99,
                b_stride: 0,
            },
        ),
    ]
}

/// The next token.
fn choice() -> Vec<Case> {
    vec![
        case(
            "sample",
            Sample {
                vocab: 32000,
                ring: 1024,
            },
        ),
        case(
            "sample_wide",
            Sample {
                vocab: 262_144,
                ring: 1024,
            },
        ),
        case(
            "argmax",
            Argmax {
                vocab: 32000,
                ring: 4096,
            },
        ),
    ]
}
