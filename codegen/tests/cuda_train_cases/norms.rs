//! Norms, alone and with the maps around them.

use rabitc_codegen::cuda::kernels::train::map::MapKernel;
use rabitc_codegen::cuda::kernels::train::rms_norm::RmsNorm;
use rabitc_codegen::cuda::kernels::train::rms_norm_grad::RmsNormGrad;
use rabitc_codegen::train::Term;
use rabitc_ir::DType;
use rabitc_ir::DType::{BF16, F32};

use super::{Case, case, dense};

/// The sum of two matrices, stored as `to`.
fn sum(to: DType) -> MapKernel {
    MapKernel {
        rows: 300,
        columns: 54,
        operands: vec![dense(F32, 300, 54), dense(BF16, 300, 54)],
        terms: vec![
            Term::Load { operand: 0 },
            Term::Load { operand: 1 },
            Term::Add(0, 1),
        ],
        stores: vec![(2, dense(to, 300, 54), false)],
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        case(
            "rms_norm",
            RmsNorm {
                x: dense(F32, 300, 96),
                weight: BF16,
                out: dense(BF16, 300, 96),
                group: 96,
                eps: 1e-5,
                unit_offset: true,
                map: None,
            },
        ),
        case(
            "rms_norm_grads",
            RmsNormGrad {
                x: dense(F32, 300, 96),
                dy: dense(BF16, 300, 96),
                dx: Some((F32, dense(BF16, 300, 96))),
                dweight: true,
                group: 32,
                eps: 1e-5,
                unit_offset: false,
                map: None,
            },
        ),
        case(
            "rms_norm_grad_long",
            RmsNormGrad {
                x: dense(F32, 30, 4096),
                dy: dense(BF16, 30, 4096),
                dx: Some((F32, dense(BF16, 30, 4096))),
                dweight: true,
                group: 4096,
                eps: 1e-5,
                unit_offset: false,
                map: None,
            },
        ),
        case(
            "rms_norm_of_map",
            RmsNorm {
                x: dense(F32, 300, 54),
                weight: F32,
                out: dense(BF16, 300, 54),
                group: 18,
                eps: 1e-5,
                unit_offset: false,
                map: Some(sum(F32)),
            },
        ),
        case(
            "rms_norm_grads_in_map",
            RmsNormGrad {
                x: dense(F32, 300, 54),
                dy: dense(BF16, 300, 54),
                dx: Some((F32, dense(BF16, 300, 54))),
                dweight: true,
                group: 54,
                eps: 1e-5,
                unit_offset: true,
                map: Some(sum(BF16)),
            },
        ),
    ]
}
