//! What attention does to q, k and v on the way, for the cases of its kernels.

use rabitc_codegen::cuda::kernels::heads::{Chain, Chains};
use rabitc_codegen::kernels::Float;

/// Rows of so many f32; biases on all three or none, norms on q and k or none.
pub fn chains(stride: usize, bias: bool, norm: bool) -> Chains {
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
