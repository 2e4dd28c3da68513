//! Tests of candidates and of the choice among them.

use std::collections::BTreeSet;

use proptest::prelude::*;
use rabitc_ir::layout::SignLayout;
use rabitc_ir::ops::gate::Activation;

use super::super::product::{COST_MODEL, choose, unmeasured};
use super::*;
use crate::cuda::CudaSpec;
use crate::cuda::layout::GpuLayout;

fn product(segments: &[usize], d_in: usize, tokens: usize, gate: bool) -> RbProduct {
    RbProduct {
        layout: GpuLayout {
            stored: SignLayout {
                d_in,
                paths: 2,
                segments: segments.to_vec(),
                row_tiles: 4,
            },
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
        tile: Tile {
            splits: 1,
            row_tiles: 1,
            warps: 1,
            slots: 1,
        },
    }
}

fn arch(name: &str) -> SmArch {
    name.parse().unwrap()
}

#[test]
fn the_choice_is_the_least_cost_or_what_was_measured() {
    let wanted = product(&[4096], 4096, 1, false);
    let (chosen, product) = choose(&wanted, arch("sm_90"), &unmeasured).unwrap();
    assert_eq!(product.chosen_by, COST_MODEL);
    assert_eq!(chosen.name(), product.candidates[0].spec.name());
    let costs: Vec<f64> = product.candidates.iter().map(|c| c.cost).collect();
    assert!(costs.is_sorted() && costs[0] > 0.0);
    let last = product.candidates.len() - 1;
    let measured = |_: &_| Some((last, "measured".to_owned()));
    let (chosen, product) = choose(&wanted, arch("sm_90"), &measured).unwrap();
    assert_eq!((product.chosen, &product.chosen_by[..]), (last, "measured"));
    assert_eq!(chosen.name(), product.candidates[last].spec.name());
}

#[test]
fn candidates_have_one_problem_and_names_of_their_own() {
    let wanted = product(&[11008; 2], 4096, 1, true);
    let candidates = wanted.candidates(arch("sm_90"));
    let names: BTreeSet<String> = candidates.iter().map(CudaSpec::name).collect();
    assert_eq!(names.len(), candidates.len());
    assert!(candidates.len() > 20, "{}", candidates.len());
    for cut in &candidates {
        assert_eq!(cut.problem(), candidates[0].problem());
        assert!(cut.name().starts_with(&cut.problem()));
    }
}

#[test]
fn the_chosen_cut_of_large_layers_fills_the_card_about_once() {
    for (segments, d_in) in [(vec![4096; 3], 4096), (vec![4096], 11008)] {
        let wanted = product(&segments, d_in, 1, false);
        let (chosen, _) = choose(&wanted, arch("sm_90"), &unmeasured).unwrap();
        assert!(
            (96..=264).contains(&chosen.grid()),
            "{} has {} blocks",
            chosen.name(),
            chosen.grid()
        );
    }
}

proptest! {
    /// Every candidate covers all rows and fits; there is one for every shape.
    #[test]
    fn candidates_fit(
        segments in prop::collection::vec(1usize..3000, 1..4),
        d_in in 1usize..12000,
        tokens in 1usize..9,
        gate: bool,
        name in prop::sample::select(vec!["sm_80", "sm_89", "sm_90", "sm_120"]),
    ) {
        let segments = if gate { vec![segments[0]; 2] } else { segments };
        let candidates = product(&segments, d_in, tokens, gate).candidates(arch(name));
        prop_assert!(!candidates.is_empty());
        for cut in candidates {
            let tile = cut.tile;
            prop_assert!(cut.shared_bytes(arch(name)) <= arch(name).shared_bytes());
            prop_assert!(tile.splits == 1 || arch(name).has_clusters());
            let clusters = cut.grid() / tile.splits;
            prop_assert!(clusters * tile.row_tiles >= cut.layout.row_tiles());
            prop_assert!(!gate || tile.row_tiles % 2 == 0 && tile.warps % 2 == 0);
            prop_assert!(cut.work(arch(name)).bytes > 0);
        }
    }
}
