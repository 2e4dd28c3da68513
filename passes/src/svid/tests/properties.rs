//! Properties of any fit, and of the sweeps it is made of.

use proptest::prelude::*;

use super::super::{MAX_PATHS, State, alternate, tile};
use super::*;

/// A matrix of odd shape, some of whose entries are zeros or outliers.
fn matrix() -> impl Strategy<Value = (usize, usize, Vec<f32>)> {
    let entry = prop_oneof![
        8 => -1.0f32..1.0,
        1 => Just(0.0f32),
        1 => Just(-0.0f32),
        1 => -200.0f32..200.0,
        1 => -1e-6f32..1e-6,
    ];
    (1usize..90, 1usize..40).prop_flat_map(move |(d_out, d_in)| {
        let w = prop::collection::vec(entry.clone(), d_out * d_in);
        (Just(d_out), Just(d_in), w)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_matrix_is_fitted((d_out, d_in, w) in matrix(), paths in 1..=MAX_PATHS, iters in 0u32..6) {
        // Where nearly all weights are zero the rest may all be tiny: not what is tested here.
        prop_assume!(w.iter().any(|w| w.abs() > 1e-3));
        let greedy = fit_scales(&w, d_out, d_in, paths, Init::Greedy).unwrap();
        let scales = fit_scales(&w, d_out, d_in, paths, Init::Iterative { iters }).unwrap();
        prop_assert_eq!(scales.g.len(), paths * d_out);
        prop_assert_eq!(scales.h.len(), paths * d_in);
        for x in scales.g.iter().chain(&scales.h) {
            prop_assert!(x.is_finite() && x.to_f32() >= 0.0);
        }
        let (start, error) = (square(&derive(&w, d_in, &greedy).1), square(&derive(&w, d_in, &scales).1));
        prop_assert!(error <= start * (1.0 + 1e-5), "{} after {}", error, start);
        prop_assert!(start <= square(&w) * (1.0 + 1e-5));
        if iters == 0 {
            prop_assert_eq!(scales, greedy);
        }
    }

    #[test]
    fn sweeps_derive_what_anyone_would((d_out, d_in, w) in matrix(), seed in 0u64..1000) {
        let mut state = State::<3>::zero(d_out, d_in);
        for path in 0..3 {
            let size = 0.5f32.powi(path as i32);
            let g: Vec<f32> = noise(d_out, seed).iter().map(|x| x.abs() * size).collect();
            let h: Vec<f32> = noise(d_in, seed + 1).iter().map(|x| x.abs()).collect();
            state.set_path(path, &g, &h, 1.0);
        }
        let (signs, r) = derive(&w, d_in, &state.clone().into_scales());
        for (row, g) in state.g.iter().enumerate() {
            let at = row * d_in;
            tile::for_tiles(&w[at..at + d_in], |t, w| {
                let h = &state.h[t];
                let ((inner, u), (outer, v)) = (tile::residual_in(w, g, h), tile::residual_out(w, g, h));
                let magnitude = tile::residual_abs(w, g, h, 3);
                for l in 0..tile::LANES.min(d_in - t * tile::LANES) {
                    let j = at + t * tile::LANES + l;
                    assert_eq!((inner[l], outer[l], magnitude[l]), (r[j], r[j], r[j].abs()));
                    for path in 0..3 {
                        assert_eq!(u[path][l], signs[path][j] * h[path][l]);
                        assert_eq!(v[path][l], signs[path][j] * g[path]);
                    }
                }
            });
        }
        let (error, _) = alternate::cycle(&w, &state);
        prop_assert!((error - square(&r)).abs() <= 1e-5 * square(&r));
        prop_assert!((tile::error_of(&w, &state) - error).abs() <= 1e-9 * error);
    }
}
