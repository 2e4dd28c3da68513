//! Residual-binary weights, and updates.

use rabitc_codegen::cuda::kernels::train::adamw::AdamW;
use rabitc_codegen::cuda::kernels::train::effective_scale_grad::{
    EffectiveScaleGrad, JoinScaleGrads,
};
use rabitc_codegen::cuda::kernels::train::effective_weight::{Cores, EffectiveWeight};
use rabitc_codegen::cuda::kernels::train::square_norm::SquareNorm;
use rabitc_ir::DType;
use rabitc_ir::DType::{BF16, F32};
use rabitc_ir::ops::effective_weight::Derive;

use super::{Case, case, dense};

fn cores(derive: Derive, dtype: DType) -> Cores {
    Cores {
        paths: 2,
        latent: dense(dtype, 96, 160),
        derive,
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        case(
            "effective_weight",
            EffectiveWeight {
                cores: cores(Derive::Residual, F32),
                out: dense(BF16, 96, 160),
            },
        ),
        case(
            "effective_weight_independent",
            EffectiveWeight {
                cores: cores(Derive::Independent, BF16),
                out: dense(BF16, 96, 160),
            },
        ),
        case(
            "effective_scale_grad",
            EffectiveScaleGrad {
                dweight: dense(F32, 96, 160),
                cores: cores(Derive::Residual, F32),
                frozen: 1,
            },
        ),
        case(
            "join_scale_grads",
            JoinScaleGrads {
                paths: 2,
                d_out: 96,
                d_in: 160,
                tiles: [2, 12],
            },
        ),
        case("adamw", AdamW),
        case("square_norm", SquareNorm),
    ]
}
