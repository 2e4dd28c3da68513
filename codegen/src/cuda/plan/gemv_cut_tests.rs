//! Tests of candidates and of the choice among them.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rabitc_ir::layout::SignLayout;
use rabitc_ir::ops::gate::Activation;

use super::super::product::{COST_MODEL, choose, unmeasured};
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
        tile: GemvTile {
            splits: 1,
            clusters: 1,
            warps: 1,
            slots: 1,
            alone: Alone::No,
            next: Next::AtOnce,
        },
    }
}

#[test]
fn the_cost_model_takes_what_is_expected_to_be_fastest() {
    let arch: SmArch = "sm_90".parse().unwrap();
    for (segments, d_in, finish) in [
        (vec![4096; 3], 4096, Finish::Store),
        (vec![4096], 4096, Finish::Residual(4096)),
        (vec![11008; 2], 4096, Finish::Gate(Activation::Silu)),
        (vec![4096], 11008, Finish::Residual(4096)),
    ] {
        let wanted = product(&segments, d_in, finish);
        let expected = with(&wanted, gemv_tile::choose(&wanted, arch).unwrap());
        let (found, all) = choose(&wanted, arch, "decode", &unmeasured).unwrap();
        assert_eq!(found.name(), expected.name());
        assert!(all.candidates.len() > 10, "{}", all.candidates.len());
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
    let names: BTreeSet<String> = candidates.iter().map(CudaSpec::name).collect();
    assert_eq!(names.len(), candidates.len());
    assert!(candidates.len() > 10, "{}", candidates.len());
    for cut in &candidates {
        assert_eq!(cut.problem(), candidates[0].problem());
        assert!(cut.name().starts_with(&cut.problem()));
    }
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
