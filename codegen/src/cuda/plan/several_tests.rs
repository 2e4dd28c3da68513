//! Problems and tests of the products of several tokens, however they are cut.

use std::fmt::Debug;

use rabitc_ir::layout::SignLayout;
use rabitc_ir::ops::gate::Activation;
use rabitc_rbx::SmArch;

use super::product::{Cut, cheapest, choose, unmeasured};

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

/// The cut of least cost is chosen among at least so many, and what is said of it is right.
pub fn the_least_cost_is_chosen<C>(wanted: &C, tokens: usize, arch: SmArch, least: usize)
where
    C: Cut + PartialEq + Debug,
{
    let cuts = wanted.candidates(arch).into_iter();
    let expected = cuts.min_by(|a, b| a.seconds(arch).total_cmp(&b.seconds(arch)));
    let (cut, all) = choose(wanted, arch, "few", &unmeasured).unwrap();
    assert_eq!(Some(cut), expected);
    assert_eq!((all.task.tokens, all.kind), (tokens, C::KIND));
    assert!(all.candidates.len() >= least, "{}", all.candidates.len());
    let mut costs = all.candidates.iter().map(|c| c.cost);
    assert!(costs.all(|c| c >= all.candidates[0].cost));
}

/// More rows, inputs, paths and tokens than those of a square product of four tokens take more time.
pub fn more_of_anything_takes_more_time<C: Cut>(
    product: impl Fn(SeveralTokens) -> C,
    arch: SmArch,
    (rows, d_in): (usize, usize),
) {
    let time = |rows: usize, d_in, paths, tokens| {
        let wanted = product(problem(&[rows], d_in, paths, tokens, false));
        cheapest(&wanted, arch).unwrap().seconds(arch)
    };
    let least = time(rows, d_in, 2, 4);
    for more in [
        time(rows * 4, d_in, 2, 4),
        time(rows, d_in * 4, 2, 4),
        time(rows, d_in, 4, 4),
        time(rows, d_in, 2, 8),
    ] {
        assert!(more > least, "{more} {least}");
    }
}
