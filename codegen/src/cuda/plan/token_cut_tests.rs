//! Tests of the ways to cut products of several tokens without clusters, and of the choice among them.

use proptest::prelude::*;

use super::super::product::check_names;
use super::super::several_tests::{self, problem};
use super::*;
use crate::cuda::kernels::rb_tokens::TokenTile;
use crate::cuda::kernels::several_tokens::SeveralTokens;

fn arch() -> SmArch {
    "sm_80".parse().unwrap()
}

fn uncut(of: SeveralTokens) -> RbTokens {
    let tile = TokenTile::UNCUT;
    RbTokens { of, tile }
}

fn product(segments: &[usize], d_in: usize, paths: usize, tokens: usize, gate: bool) -> RbTokens {
    uncut(problem(segments, d_in, paths, tokens, gate))
}

#[test]
fn the_least_cost_is_chosen() {
    for tokens in [2, 4, 8, 16] {
        let wanted = product(&[4096; 3], 1024, 2, tokens, false);
        several_tests::the_least_cost_is_chosen(&wanted, tokens, arch(), 5);
    }
}

#[test]
fn more_of_anything_takes_more_time() {
    several_tests::more_of_anything_takes_more_time(uncut, arch(), (4096, 1024));
}

#[test]
fn candidates_have_one_problem_and_names_of_their_own() {
    let wanted = product(&[512; 2], 512, 2, 8, true);
    check_names(&wanted.candidates(arch()));
}

#[test]
fn there_are_none_where_kernels_overlap() {
    let wanted = product(&[4096], 1024, 2, 8, false);
    assert!(wanted.candidates("sm_90".parse().unwrap()).is_empty());
}

proptest! {
    /// Every candidate fits, covers all rows and has work for a block.
    #[test]
    fn candidates_fit(
        segments in prop::collection::vec(1usize..3000, 1..4),
        d_in in 1usize..12000,
        paths in 1usize..5,
        tokens in prop::sample::select(vec![2usize, 4, 8, 16]),
        gate: bool,
        name in prop::sample::select(vec!["sm_80", "sm_89"]),
    ) {
        let arch: SmArch = name.parse().unwrap();
        let segments = if gate { vec![segments[0]; 2] } else { segments };
        for cut in product(&segments, d_in, paths, tokens, gate).candidates(arch) {
            let tile = cut.tile;
            prop_assert!(cut.shared_bytes() <= arch.shared_bytes());
            prop_assert!(tile.parts > 0 && tile.parts <= cut.of.layout.input_tiles());
            prop_assert!(RbTokens::grid(&cut) * tile.row_tiles >= cut.of.layout.row_tiles());
            prop_assert!(cut.tile_sets() * tile.at_once >= tile.row_tiles);
            prop_assert!(cut.of.tokens <= tokens && cut.seconds(arch).is_finite());
        }
    }
}
