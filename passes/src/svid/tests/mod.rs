//! Tests of the fit as a whole, against a plain derivation of signs and residuals.

mod edges;
mod properties;
mod quality;

use half::f16;

use super::{Init, Scales, fit_scales};

const ITERATIVE: Init = Init::Iterative { iters: 20 };

/// Reproducible values in (-1, 1), roughly bell-shaped.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..len)
        .map(|_| (uniform() + uniform() + uniform() + uniform()) / 2.0)
        .collect()
}

/// Signs of each path and the final residual, derived entry by entry.
fn derive(w: &[f32], d_in: usize, scales: &Scales) -> (Vec<Vec<f32>>, Vec<f32>) {
    let d_out = w.len() / d_in;
    let mut r = w.to_vec();
    let mut signs = Vec::new();
    for (g, h) in scales.g.chunks(d_out).zip(scales.h.chunks(d_in)) {
        let b: Vec<f32> = r
            .iter()
            .map(|&r| if r >= 0.0 { 1.0 } else { -1.0 })
            .collect();
        for (at, r) in r.iter_mut().enumerate() {
            *r -= (g[at / d_in].to_f32() * h[at % d_in].to_f32()) * b[at];
        }
        signs.push(b);
    }
    (signs, r)
}

fn square(x: &[f32]) -> f64 {
    x.iter().map(|&x| f64::from(x).powi(2)).sum()
}

/// Squared error of the fit over the squared norm of `w`.
fn relative_error(w: &[f32], d_out: usize, d_in: usize, paths: usize, init: Init) -> f64 {
    let scales = fit_scales(w, d_out, d_in, paths, init).unwrap();
    square(&derive(w, d_in, &scales).1) / square(w)
}

/// `signs of noise * g h^T`.
fn residual_binary(g: &[f32], h: &[f32], seed: u64) -> Vec<f32> {
    let signs = noise(g.len() * h.len(), seed);
    let entry = |(at, s): (usize, f32)| (g[at / h.len()] * h[at % h.len()]).copysign(s);
    signs.into_iter().enumerate().map(entry).collect()
}

fn widen(x: &[f16]) -> Vec<f32> {
    x.iter().map(|x| x.to_f32()).collect()
}
