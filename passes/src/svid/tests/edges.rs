//! Degenerate matrices, the range of f16, bad input.

use super::super::{FitError, MAX_PATHS};
use super::*;

#[test]
fn same_bytes_for_any_number_of_threads() {
    let (d_out, d_in) = (1000, 77);
    let w = noise(d_out * d_in, 8);
    let with_threads = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| fit_scales(&w, d_out, d_in, 3, Init::Iterative { iters: 5 }).unwrap())
    };
    let one = with_threads(1);
    for threads in [2, 3, 7] {
        assert_eq!(with_threads(threads), one);
    }
}

#[test]
fn zeros_get_zero_scales() {
    let scales = fit_scales(&[0.0, -0.0, 0.0, 0.0, 0.0, 0.0], 2, 3, 2, ITERATIVE).unwrap();
    assert!(scales.g.iter().chain(&scales.h).all(|x| x.to_bits() == 0));

    let (d_out, d_in) = (20, 30);
    let mut w = noise(d_out * d_in, 5);
    for (at, w) in w.iter_mut().enumerate() {
        if at / d_in == 3 || at % d_in == 11 {
            *w = 0.0;
        }
    }
    for init in [Init::Greedy, ITERATIVE] {
        let scales = fit_scales(&w, d_out, d_in, 2, init).unwrap();
        let (_, r) = derive(&w, d_in, &scales);
        for (at, r) in r.iter().enumerate() {
            assert!(
                *r == 0.0 || (at / d_in != 3 && at % d_in != 11),
                "{init:?} at {at}: {r}"
            );
        }
    }
}

#[test]
fn single_rows_and_columns_are_exact_up_to_rounding() {
    let w = noise(333, 6);
    for (d_out, d_in) in [(1, 333), (333, 1)] {
        for init in [Init::Greedy, ITERATIVE] {
            assert!(relative_error(&w, d_out, d_in, 1, init) < 1e-6);
            assert!(relative_error(&w, d_out, d_in, 2, init) < 1e-12);
        }
    }
    assert!(relative_error(&[-3e-5], 1, 1, 1, ITERATIVE) < 1e-6);
}

#[test]
fn products_beyond_f16_are_split_between_the_scales() {
    let w = noise(40 * 24, 7);
    let plain = relative_error(&w, 40, 24, 2, ITERATIVE);
    for by in [1e-6, 1e-3, 1e3, 1e8] {
        let scaled: Vec<f32> = w.iter().map(|w| w * by).collect();
        let error = relative_error(&scaled, 40, 24, 2, ITERATIVE);
        assert!(
            (error - plain).abs() < 0.02 * plain,
            "times {by}: {error} for {plain}"
        );
    }
}

#[test]
fn small_rows_keep_their_precision() {
    let (d_out, d_in) = (32, 64);
    let size = |row: usize| if row.is_multiple_of(2) { 1.0 } else { 2e-7 };
    let w: Vec<f32> = (0..d_out * d_in)
        .map(|at| size(at / d_in) * if at % 3 == 0 { 1.0 } else { -1.0 })
        .collect();
    let scales = fit_scales(&w, d_out, d_in, 1, Init::Greedy).unwrap();
    let (_, r) = derive(&w, d_in, &scales);
    for (r, w) in r.iter().zip(&w) {
        assert!(r.abs() < 1e-3 * w.abs(), "{r} left of {w}");
    }
}

#[test]
fn bad_input_is_named() {
    let fit = |w: &[f32], d_out, d_in, paths| fit_scales(w, d_out, d_in, paths, ITERATIVE);
    let message = |r: Result<Scales, FitError>| r.unwrap_err().to_string();
    let w = [1.0; 6];
    assert_eq!(
        fit(&w, 2, 4, 1),
        Err(FitError::Shape {
            d_out: 2,
            d_in: 4,
            len: 6
        })
    );
    assert!(fit(&[], 0, 4, 1).is_err());
    assert!(fit(&w, usize::MAX, 2, 1).is_err());
    for paths in [0, MAX_PATHS + 1, usize::MAX] {
        assert_eq!(fit(&w, 2, 3, paths), Err(FitError::Paths { paths, max: 8 }));
    }
    assert!(message(fit(&[1e12; 6], 2, 3, 2)).contains("exceed the f16 range"));
    assert!(message(fit(&[f32::MAX; 6], 2, 3, 2)).contains("exceed the f16 range"));
    for tiny in [3e-9, 1e-12, f32::from_bits(1)] {
        assert!(
            message(fit(&[tiny; 6], 2, 3, 2)).contains("vanish in f16"),
            "{tiny:e}"
        );
    }
}

#[test]
fn first_weight_that_is_not_finite_is_named() {
    let (d_out, d_in) = (300, 700);
    let mut w = noise(d_out * d_in, 10);
    w[200 * d_in + 5] = f32::NAN;
    w[150 * d_in + 699] = f32::NEG_INFINITY;
    w[150 * d_in + 600] = f32::NAN;
    let error = fit_scales(&w, d_out, d_in, 2, ITERATIVE).unwrap_err();
    assert!(
        error.to_string().starts_with("weight[150, 600] is NaN"),
        "{error}"
    );
}
