//! Tests of the ways to cut products of several tokens without clusters, and of the choice among them.

use proptest::prelude::*;

use super::super::product::{check_names, unmeasured};
use super::super::several_tests::problem;
use super::*;
use crate::cuda::kernels::rb_tokens::TokenTile;

fn product(segments: &[usize], d_in: usize, paths: usize, tokens: usize, gate: bool) -> RbTokens {
    let of = problem(segments, d_in, paths, tokens, gate);
    let tile = TokenTile::UNCUT;
    RbTokens { of, tile }
}

#[test]
fn the_least_cost_is_chosen() {
    let arch: SmArch = "sm_80".parse().unwrap();
    for tokens in [2, 4, 8, 16] {
        let wanted = product(&[4096; 3], 1024, 2, tokens, false);
        let chosen = choose(&wanted, arch).unwrap();
        let found = super::super::product::choose(&wanted, arch, "few", &unmeasured);
        let (cut, all) = found.unwrap();
        assert_eq!(cut, chosen);
        assert_eq!((all.task.tokens, all.kind), (tokens, RbTokens::KIND));
        assert!(all.candidates.len() > 5, "{}", all.candidates.len());
        assert!(
            all.candidates
                .iter()
                .all(|c| c.cost >= all.candidates[0].cost)
        );
    }
}

#[test]
fn more_of_anything_takes_more_time() {
    let arch: SmArch = "sm_80".parse().unwrap();
    let time = |segments: &[usize], d_in, paths, tokens| {
        let wanted = product(segments, d_in, paths, tokens, false);
        choose(&wanted, arch).unwrap().seconds(arch)
    };
    let least = time(&[4096], 1024, 2, 4);
    for more in [
        time(&[16384], 1024, 2, 4),
        time(&[4096], 4096, 2, 4),
        time(&[4096], 1024, 4, 4),
        time(&[4096], 1024, 2, 8),
    ] {
        assert!(more > least, "{more} {least}");
    }
}

#[test]
fn candidates_have_one_problem_and_names_of_their_own() {
    let wanted = product(&[512; 2], 512, 2, 8, true);
    check_names(&wanted.candidates("sm_80".parse().unwrap()));
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
