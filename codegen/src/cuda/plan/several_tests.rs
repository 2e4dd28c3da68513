//! Problems for tests of products of several tokens.

use rabitc_ir::layout::SignLayout;
use rabitc_ir::ops::gate::Activation;

use crate::cuda::kernels::finish::Finish;
use crate::cuda::kernels::several_tokens::SeveralTokens;
use crate::cuda::layout::GpuLayout;

/// A product with 16 planes and no norm.
pub fn problem(
    segments: &[usize],
    d_in: usize,
    paths: usize,
    tokens: usize,
    gate: bool,
) -> SeveralTokens {
    let stored = SignLayout {
        d_in,
        paths,
        segments: segments.to_vec(),
        row_tiles: 4,
    };
    SeveralTokens {
        layout: GpuLayout {
            stored,
            paired: gate,
        },
        tokens,
        planes: 16,
        norm: None,
        x_stride: d_in,
        x_aligned: d_in.is_multiple_of(8),
        finish: match gate {
            true => Finish::Gate(Activation::Silu),
            false => Finish::Store,
        },
        by_rows: false,
    }
}
