//! Losses and their gradients.

use rabitc_codegen::cuda::kernels::train::cross_entropy::CrossEntropy;
use rabitc_codegen::cuda::kernels::train::kl_divergence::KlDivergence;
use rabitc_codegen::cuda::kernels::train::row_reduce::{Reduce, RowReduce};
use rabitc_codegen::cuda::kernels::train::sample::Sample;
use rabitc_codegen::cuda::kernels::train::squared_error::{SquaredError, SquaredErrorGrad};
use rabitc_ir::DType::{BF16, F32};
use rabitc_ir::ops::squared_error::Normalize;

use super::{Case, case, dense};

pub fn cases() -> Vec<Case> {
    vec![
        case(
            "row_reduce",
            RowReduce {
                rows: 300,
                reduce: Reduce::Ratio,
            },
        ),
        case(
            "kl_divergence",
            KlDivergence {
                teacher: dense(F32, 300, 2048),
                student: dense(F32, 300, 2048),
                loss: true,
                gradient: Some(dense(BF16, 300, 2048)),
            },
        ),
        case(
            "cross_entropy",
            CrossEntropy {
                logits: dense(F32, 300, 77),
                gradient: None,
            },
        ),
        case(
            "cross_entropy_grad",
            CrossEntropy {
                logits: dense(F32, 300, 77),
                gradient: Some(dense(BF16, 300, 77)),
            },
        ),
        case(
            "sample",
            Sample {
                logits: dense(F32, 300, 2050),
            },
        ),
        case(
            "squared_error",
            SquaredError {
                x: dense(F32, 300, 96),
                target: dense(F32, 300, 96),
                normalize: Normalize::Rows,
            },
        ),
        case(
            "squared_error_grad",
            SquaredErrorGrad {
                x: dense(F32, 300, 96),
                target: dense(F32, 300, 96),
                out: dense(BF16, 300, 96),
                normalize: Normalize::Target,
            },
        ),
    ]
}
