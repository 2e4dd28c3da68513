//! How well weights are approximated.

use half::f16;

use super::super::MAX_PATHS;
use super::*;

#[test]
fn one_path_matrix_is_recovered_to_the_bit() {
    let round = |x: f32| f16::from_f32(x).to_f32();
    let g: Vec<f32> = noise(77, 1)
        .iter()
        .map(|x| round(1.0 + x.abs() * 0.9))
        .collect();
    let mut h: Vec<f32> = noise(45, 2)
        .iter()
        .map(|x| round(0.3 + x.abs() * 0.6))
        .collect();
    h[7] = 1.0;
    let w = residual_binary(&g, &h, 3);
    for init in [Init::Greedy, ITERATIVE] {
        let scales = fit_scales(&w, 77, 45, 2, init).unwrap();
        assert_eq!(widen(&scales.g[..77]), g);
        assert_eq!(widen(&scales.h[..45]), h);
        assert!(
            scales.g[77..]
                .iter()
                .chain(&scales.h[45..])
                .all(|x| x.to_f32() == 0.0)
        );
    }
}

#[test]
fn two_path_matrix_is_recovered_by_the_iterative_fit() {
    let (d_out, d_in) = (96, 80);
    let scale = |seed, n, by: f32| {
        noise(n, seed)
            .iter()
            .map(|x| by * (1.0 + 0.2 * x))
            .collect()
    };
    let (g1, h1): (Vec<f32>, Vec<f32>) = (scale(1, d_out, 1.0), scale(2, d_in, 1.0));
    let (g2, h2): (Vec<f32>, Vec<f32>) = (scale(3, d_out, 0.4), scale(4, d_in, 1.0));
    let (a, b) = (residual_binary(&g1, &h1, 5), residual_binary(&g2, &h2, 6));
    let w: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    assert!(relative_error(&w, d_out, d_in, 2, Init::Greedy) > 1e-4);
    assert!(relative_error(&w, d_out, d_in, 2, ITERATIVE) < 1e-6);
}

/// Leading pair of a non-negative matrix in f64, as its product.
fn plain_rank_one(a: &[f64], d_in: usize) -> Vec<f64> {
    let normalise = |x: &mut Vec<f64>| {
        let len = x.iter().map(|x| x * x).sum::<f64>().sqrt();
        x.iter_mut().for_each(|x| *x /= len);
    };
    let mut v = vec![1.0; d_in];
    let mut u = Vec::new();
    for _ in 0..200 {
        normalise(&mut v);
        u = a
            .chunks(d_in)
            .map(|row| row.iter().zip(&v).map(|(a, v)| a * v).sum())
            .collect();
        v = (0..d_in)
            .map(|j| {
                a[j..]
                    .iter()
                    .step_by(d_in)
                    .zip(&u)
                    .map(|(a, u)| a * u)
                    .sum()
            })
            .collect();
    }
    normalise(&mut v);
    u.iter()
        .flat_map(|u| v.iter().map(move |v| u * v))
        .collect()
}

#[test]
fn greedy_paths_are_leading_singular_pairs() {
    let (d_out, d_in) = (70, 131);
    let w = noise(d_out * d_in, 9);
    let scales = fit_scales(&w, d_out, d_in, 3, Init::Greedy).unwrap();
    let mut r = w;
    for (g, h) in scales.g.chunks(d_out).zip(scales.h.chunks(d_in)) {
        let magnitude: Vec<f64> = r.iter().map(|x| f64::from(x.abs())).collect();
        let expected = plain_rank_one(&magnitude, d_in);
        for (at, expected) in expected.iter().enumerate() {
            let got = f64::from(g[at / d_in].to_f32()) * f64::from(h[at % d_in].to_f32());
            assert!(
                (got - expected).abs() < 1.1e-3 * expected,
                "{at}: {got} for {expected}"
            );
        }
        let path = Scales {
            g: g.to_vec(),
            h: h.to_vec(),
        };
        r = derive(&r, d_in, &path).1;
    }
}

#[test]
fn error_falls_with_paths_and_with_cycles() {
    let (d_out, d_in) = (150, 203);
    let w = noise(d_out * d_in, 4);
    let mut last = 1.0;
    for paths in 1..=MAX_PATHS {
        let greedy = relative_error(&w, d_out, d_in, paths, Init::Greedy);
        let few = relative_error(&w, d_out, d_in, paths, Init::Iterative { iters: 2 });
        let many = relative_error(&w, d_out, d_in, paths, ITERATIVE);
        assert!(
            many <= few && few <= greedy,
            "{paths} paths: {greedy} {few} {many}"
        );
        assert!(
            paths == 1 || many < 0.95 * greedy,
            "{paths} paths: {many} after {greedy}"
        );
        assert!(many < 0.6 * last, "{paths} paths: {many} after {last}");
        last = many;
    }
}

#[test]
fn every_path_rests_at_the_best_fit_to_what_the_others_leave() {
    let (d_out, d_in, paths) = (64, 72, 3);
    let w = noise(d_out * d_in, 12);
    let scales = fit_scales(&w, d_out, d_in, paths, Init::Iterative { iters: 200 }).unwrap();
    let (signs, r) = derive(&w, d_in, &scales);
    for (path, signs) in signs.iter().enumerate() {
        let g = widen(&scales.g[path * d_out..][..d_out]);
        let h = widen(&scales.h[path * d_in..][..d_in]);
        for ((g, r), signs) in g.iter().zip(r.chunks(d_in)).zip(signs.chunks(d_in)) {
            let slope: f32 = (0..d_in).map(|j| r[j] * signs[j] * h[j]).sum();
            let step = slope / h.iter().map(|h| h * h).sum::<f32>();
            assert!(step.abs() < 0.01 * g, "path {path}: {step} of {g}");
        }
    }
}
