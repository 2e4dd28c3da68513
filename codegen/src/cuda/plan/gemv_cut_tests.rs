//! Tests of candidates and of the choice among them.

use proptest::prelude::*;
use rabitc_ir::layout::SignLayout;
use rabitc_ir::ops::gate::Activation;

use super::super::cost::Room;
use super::super::product::{COST_MODEL, check_names, choose, unmeasured};
use super::*;
use crate::cuda::CudaSpec;
use crate::cuda::kernels::finish::Finish;
use crate::cuda::layout::GpuLayout;

fn product(segments: &[usize], d_in: usize, finish: Finish) -> RbGemv {
    RbGemv {
        layout: GpuLayout {
            stored: SignLayout {
                d_in,
                paths: 2,
                segments: segments.to_vec(),
                row_tiles: 4,
            },
            paired: matches!(finish, Finish::Gate(_)),
        },
        planes: 16,
        norm: None,
        each: None,
        x_aligned: true,
        finish,
        tile: GemvTile::UNCUT,
    }
}

#[test]
fn the_cost_model_takes_what_is_expected_to_be_fastest() {
    let arch: SmArch = "sm_90".parse().unwrap();
    let (gate, add) = (Finish::Gate(Activation::Silu), Finish::Residual(4096));
    for (segments, d_in, finish, tile) in [
        (vec![4096; 3], 4096, Finish::Store, "s2c66w16d10n"),
        (vec![4096], 4096, add, "s4c33w8d8"),
        (vec![11008; 2], 4096, gate, "s2c66w16d6sn"),
        (vec![4096], 11008, add, "s2c66w16d4"),
    ] {
        let wanted = product(&segments, d_in, finish);
        let (found, all) = choose(&wanted, arch, "decode", &unmeasured).unwrap();
        let first = with(&wanted, gemv_tile::choose(&wanted, arch).unwrap());
        assert_eq!(found.name(), first.name());
        assert!(found.name().ends_with(tile), "{}, not {tile}", found.name());
        assert!(all.candidates.len() > 10, "{}", all.candidates.len());
    }
}

#[test]
fn blocks_that_fit_beside_their_neighbours_are_told_from_others() {
    let arch: SmArch = "sm_90".parse().unwrap();
    let tile = |splits, clusters, warps, slots, next| GemvTile {
        splits,
        clusters,
        warps,
        slots,
        alone: Alone::No,
        next,
    };
    let (add, at_once, later) = (Finish::Residual(4096), Next::AtOnce, Next::AfterInputs);
    let room = |d_in, finish, tile| room(&with(&product(&[4096], d_in, finish), tile), arch);
    for (d_in, tile, expected) in [
        (4096, tile(4, 33, 8, 8, at_once), Room::Beside),
        // No registers for a third block beside two.
        (4096, tile(2, 66, 16, 4, at_once), Room::Crowded),
        (4096, tile(4, 33, 8, 8, later), Room::Crowded),
        (4096, tile(2, 128, 8, 2, at_once), Room::Crowded),
        (4096, tile(4, 33, 16, 8, at_once), Room::Apart),
        (11008, tile(2, 66, 16, 4, at_once), Room::Beside),
        (11008, tile(4, 30, 8, 8, at_once), Room::Apart),
    ] {
        assert_eq!(room(d_in, add, tile), expected, "{d_in} {tile:?}");
    }
    // It leaves room for attention.
    let qkv = product(&[4096; 3], 4096, Finish::Store);
    for (slots, expected) in [(10, Room::Beside), (12, Room::Crowded)] {
        let cut = with(&qkv, tile(2, 66, 16, slots, later));
        assert_eq!(super::room(&cut, arch), expected, "{slots}");
    }
    // It is kept alone or has room for all its signs.
    let alone = |slots, alone| GemvTile {
        alone,
        ..tile(2, 66, 16, slots, later)
    };
    let gate = product(&[11008; 2], 4096, Finish::Gate(Activation::Silu));
    for (tile, expected) in [
        (alone(6, Alone::Shared), Room::Beside),
        (alone(7, Alone::Shared), Room::Crowded),
        (alone(6, Alone::No), Room::Crowded),
    ] {
        assert_eq!(super::room(&with(&gate, tile), arch), expected, "{tile:?}");
    }
}

#[test]
fn the_choice_is_the_least_cost_or_what_was_measured() {
    let arch = "sm_90".parse().unwrap();
    let wanted = product(&[4096], 4096, Finish::Store);
    let (chosen, product) = choose(&wanted, arch, "decode", &unmeasured).unwrap();
    assert_eq!(product.chosen_by, COST_MODEL);
    assert_eq!(chosen.name(), product.candidates[0].spec.name());
    let costs: Vec<f64> = product.candidates.iter().map(|c| c.cost).collect();
    assert!(costs.is_sorted() && costs[0] > 0.0);
    let last = product.candidates.len() - 1;
    let measured = |_: &_| Some((last, "measured".to_owned()));
    let (chosen, product) = choose(&wanted, arch, "decode", &measured).unwrap();
    assert_eq!((product.chosen, &product.chosen_by[..]), (last, "measured"));
    assert_eq!(chosen.name(), product.candidates[last].spec.name());
}

#[test]
fn candidates_have_one_problem_and_names_of_their_own() {
    let wanted = product(&[11008; 2], 4096, Finish::Gate(Activation::Silu));
    let candidates = wanted.candidates("sm_90".parse().unwrap());
    assert!(candidates.len() > 10, "{}", candidates.len());
    check_names(&candidates);
}

proptest! {
    /// Every candidate fits and covers all rows; there is one for every shape.
    #[test]
    fn candidates_fit(
        segments in prop::collection::vec(1usize..3000, 1..4),
        d_in in 1usize..12000,
        gate: bool,
        name in prop::sample::select(vec!["sm_80", "sm_89", "sm_90", "sm_120"]),
    ) {
        let arch: SmArch = name.parse().unwrap();
        let segments = if gate { vec![segments[0]; 2] } else { segments };
        let finish = if gate { Finish::Gate(Activation::Silu) } else { Finish::Store };
        let candidates = product(&segments, d_in, finish).candidates(arch);
        prop_assert!(!candidates.is_empty());
        for cut in candidates {
            let splits = cut.tile.splits;
            prop_assert!(cut.shared_bytes() <= arch.shared_bytes());
            prop_assert!(splits == 1 || arch.has_clusters());
            let blocks = RbGemv::grid(&cut);
            prop_assert!(blocks.is_multiple_of(splits));
            let tiles = blocks / splits * cut.tiles() * cut.paired();
            prop_assert!(tiles >= cut.layout.row_tiles());
            prop_assert!(work(&cut, arch).bytes > 0);
        }
    }
}
