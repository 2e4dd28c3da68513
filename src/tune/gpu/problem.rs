//! A product of random weights and inputs, and what must come out.

use anyhow::{Result, bail};
use rabitc_codegen::cuda::plan::product::Task;
use rabitc_passes::tiles::LayerShape;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::layer::{BLOCK_TOKENS, Layer};

/// Unit roundoff of f32.
const U: f64 = 1.0 / (1u64 << 24) as f64;
/// What approximations of exponentials in activations are off by, relatively.
const EXPONENTIAL: f64 = 1e-5;
/// Elements of a segment and token that are computed plainly.
const CHECKED: usize = 12;

/// A random instance of a task.
pub struct Problem {
    task: Task,
    layer: Layer,
    residual: Vec<f32>,
}

impl Problem {
    /// The instance of a seed.
    ///
    /// # Errors
    /// More tokens than layers are made for.
    pub fn random(task: &Task, seed: u64) -> Result<Problem> {
        if task.tokens > BLOCK_TOKENS {
            bail!("{} tokens: at most {BLOCK_TOKENS} are checked", task.tokens);
        }
        let stored = &task.layout.stored;
        let shape = LayerShape {
            d_in: stored.d_in,
            segments: stored.segments.clone(),
            paths: stored.paths,
            activations: "int16",
        };
        let mut random = ChaCha8Rng::seed_from_u64(seed + 1);
        let residual = task.residual.map_or(0, |stride| stride * task.tokens);
        Ok(Problem {
            task: task.clone(),
            layer: Layer::random(&shape, seed),
            residual: (0..residual)
                .map(|_| random.random_range(-1.0..1.0))
                .collect(),
        })
    }

    /// Signs, output scales and input scales as an artifact stores them, the scales in f16.
    pub fn stored(&self) -> (Vec<u8>, Vec<u16>, &[u16]) {
        let (signs, g) = self.layer.pack(&self.task.layout.stored);
        (signs, g, &self.layer.h)
    }

    /// The input, tokens `x_stride` elements apart.
    pub fn input(&self) -> Vec<f32> {
        let d_in = self.task.layout.stored.d_in;
        let mut x = vec![0.0; self.task.tokens * self.task.x_stride.max(d_in)];
        for token in 0..self.task.tokens {
            let from = &self.layer.x[token * d_in..][..d_in];
            x[token * self.task.x_stride..][..d_in].copy_from_slice(from);
        }
        x
    }

    /// What is added to the result; empty if nothing is.
    pub fn residual(&self) -> &[f32] {
        &self.residual
    }

    /// Holds some elements of a result `[tokens, columns]` against plain sums in f64, within what
    /// the quantisation of the input allows.
    ///
    /// # Errors
    /// An element that is further away, by its place.
    pub fn check(&self, out: &[f32]) -> Result<()> {
        let segments = &self.task.layout.stored.segments;
        let shown = if self.task.gate.is_some() {
            1
        } else {
            segments.len()
        };
        for token in 0..self.task.tokens {
            let mut first = 0;
            for (segment, rows) in segments.iter().take(shown).enumerate() {
                for n in 0..CHECKED {
                    // First and last included.
                    let row = n * (rows - 1) / (CHECKED - 1);
                    let column = first + row;
                    let (y, bound) = self.expected(token, segment, row, column);
                    let found = f64::from(out[token * self.task.columns + column]);
                    // Written so that a result that is no number is refused.
                    let near = (found - y).abs() <= bound;
                    if !near {
                        bail!(
                            "token {token}, column {column}: {found}, but {y} ± {bound:.1e} is \
                             right"
                        );
                    }
                }
                first += rows;
            }
        }
        Ok(())
    }

    /// One element of the result, and how far from it a kernel may be.
    fn expected(&self, token: usize, segment: usize, row: usize, column: usize) -> (f64, f64) {
        let norm = self.norm(token);
        let of = |segment| {
            let error = |u: &[f64]| quantisation(u, self.task.planes);
            let (y, bound) = self.layer.element(token, segment, row, &error);
            // 1/rms is rounded, and so is its product.
            (y * norm, bound * norm + 4.0 * U * (y * norm).abs())
        };
        let (mut y, mut bound) = of(segment);
        if let Some(act) = self.task.gate {
            let (up, up_bound) = of(1);
            // No activation is steeper than 1.2.
            let (a, a_bound) = (act.apply(y), 1.2 * bound);
            let exponential = EXPONENTIAL * (a.abs() + bound);
            let gate_bound = a_bound + exponential;
            bound = gate_bound * (up.abs() + up_bound) + a.abs() * up_bound;
            y = a * up;
        }
        if let Some(stride) = self.task.residual {
            y += f64::from(self.residual[token * stride + column]);
        }
        (y, bound + 4.0 * U * y.abs())
    }

    /// 1/rms of a token's input, or 1.
    fn norm(&self, token: usize) -> f64 {
        let Some(eps) = self.task.norm else {
            return 1.0;
        };
        let d_in = self.task.layout.stored.d_in;
        let x = &self.layer.x[token * d_in..][..d_in];
        let squares: f64 = x.iter().map(|v| f64::from(*v).powi(2)).sum();
        1.0 / (squares / d_in as f64 + f64::from(eps)).sqrt()
    }
}

/// How far Σ ±u may be off: half a step for every input, where the steps of a group of inputs are
/// its largest element in so many parts, and the rounding of sums.
fn quantisation(u: &[f64], planes: usize) -> f64 {
    let largest = u.iter().map(|u| u.abs()).fold(0.0, f64::max);
    let total: f64 = u.iter().map(|u| u.abs()).sum();
    let parts = if planes == 16 { 32700.0 } else { 127.0 };
    // The product with 1/step is rounded before it becomes a whole number.
    let steps = u.len() as f64 * (0.5 + parts * 4.0 * U) * largest / parts;
    steps + 128.0 * U * total
}

#[cfg(test)]
#[path = "problem_tests.rs"]
mod tests;
