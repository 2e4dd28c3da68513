//! Tests of the ways to cut products of several tokens among groups of warps, and of the choice among them.

use proptest::prelude::*;

use super::super::product::{check_names, unmeasured};
use super::super::several_tests::problem;
use super::*;
use crate::cuda::kernels::rb_tokens_wgmma::GroupTile;

fn product(
    segments: &[usize],
    d_in: usize,
    paths: usize,
    tokens: usize,
    gate: bool,
) -> RbTokensWgmma {
    let of = problem(segments, d_in, paths, tokens, gate);
    let tile = GroupTile::UNCUT;
    RbTokensWgmma { of, tile }
}

#[test]
fn the_least_cost_is_chosen() {
    let arch: SmArch = "sm_90".parse().unwrap();
    for tokens in [2, 4, 8, 16] {
        let wanted = product(&[4096; 3], 4096, 2, tokens, false);
        let chosen = choose(&wanted, arch).unwrap();
        let found = super::super::product::choose(&wanted, arch, "few", &unmeasured);
        let (cut, all) = found.unwrap();
        assert_eq!(cut, chosen);
        assert_eq!((all.task.tokens, all.kind), (tokens, RbTokensWgmma::KIND));
        assert!(all.candidates.len() > 10, "{}", all.candidates.len());
        assert!(
            all.candidates
                .iter()
                .all(|c| c.cost >= all.candidates[0].cost)
        );
    }
}

#[test]
fn more_of_anything_takes_more_time() {
    let arch: SmArch = "sm_90".parse().unwrap();
    let time = |segments: &[usize], d_in, paths, tokens| {
        let wanted = product(segments, d_in, paths, tokens, false);
        choose(&wanted, arch).unwrap().seconds(arch)
    };
    let least = time(&[4096], 4096, 2, 4);
    for more in [
        time(&[16384], 4096, 2, 4),
        time(&[4096], 16384, 2, 4),
        time(&[4096], 4096, 4, 4),
        time(&[4096], 4096, 2, 8),
    ] {
        assert!(more > least, "{more} {least}");
    }
}

#[test]
fn candidates_have_one_problem_and_names_of_their_own() {
    let wanted = product(&[11008; 2], 4096, 2, 8, true);
    check_names(&wanted.candidates("sm_90".parse().unwrap()));
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
        name in prop::sample::select(vec!["sm_80", "sm_90", "sm_120"]),
    ) {
        let arch: SmArch = name.parse().unwrap();
        let segments = if gate { vec![segments[0]; 2] } else { segments };
        for cut in product(&segments, d_in, paths, tokens, gate).candidates(arch) {
            let tile = cut.tile;
            prop_assert!(arch.has_clusters());
            prop_assert!(cut.shared_bytes() <= arch.shared_bytes());
            prop_assert!(tile.splits <= cut.of.layout.input_tiles());
            prop_assert!(tile.slots > 0 && tile.slots <= cut.rounds());
            prop_assert!((2..=cut.most_groups()).contains(&tile.groups));
            let blocks = RbTokensWgmma::grid(&cut);
            prop_assert!(blocks.is_multiple_of(tile.splits));
            prop_assert!(blocks / tile.splits * tile.row_tiles >= cut.of.layout.row_tiles());
            prop_assert!(cut.tile_sets() * 4 >= tile.row_tiles);
            prop_assert!(cut.of.tokens <= tokens && cut.seconds(arch).is_finite());
        }
    }
}
