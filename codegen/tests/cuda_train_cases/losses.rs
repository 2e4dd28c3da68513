//! Losses and their gradients.

use rabitc_codegen::cuda::kernels::train::cross_entropy::{CrossEntropy, LabelCount};
use rabitc_codegen::cuda::kernels::train::kl_divergence::KlDivergence;
use rabitc_codegen::cuda::kernels::train::row_reduce::{Reduce, RowReduce};
use rabitc_codegen::cuda::kernels::train::sample::Sample;
use rabitc_codegen::cuda::kernels::train::squared_error::SquaredError;
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
                loss: true,
                gradient: None,
            },
        ),
        case(
            "cross_entropy_grad",
            CrossEntropy {
                logits: dense(F32, 300, 77),
                loss: true,
                gradient: Some(dense(BF16, 300, 77)),
            },
        ),
        case("label_count", LabelCount { rows: 300 }),
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
                loss: true,
                gradient: Some(dense(BF16, 300, 96)),
            },
        ),
        case(
            "squared_error_grad",
            SquaredError {
                x: dense(F32, 300, 96),
                target: dense(F32, 300, 96),
                normalize: Normalize::Target,
                loss: false,
                gradient: Some(dense(BF16, 300, 96)),
            },
        ),
    ]
}
