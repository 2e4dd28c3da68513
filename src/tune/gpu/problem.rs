//! A product of random weights and inputs, and what must come out.

use std::rc::Rc;

use anyhow::{Result, bail};
use rabitc_codegen::cuda::plan::product::{Rounding, Task};
use rabitc_ir::layout::SignLayout;
use rabitc_passes::tiles::LayerShape;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::layer::{BLOCK_TOKENS, Layer};

/// Unit roundoff of f32.
const U: f64 = 1.0 / (1u64 << 24) as f64;
/// What approximations of exponentials in activations are off by, relatively.
const EXPONENTIAL: f64 = 1e-5;
/// Unit roundoff of f16.
const HALF: f64 = 1.0 / (1u64 << 11) as f64;
/// Elements of a segment and token that are computed plainly.
const CHECKED: usize = 12;
/// Tokens that are looked at, first and last among them.
const CHECKED_TOKENS: usize = 16;
/// Inputs repeat after so many tokens: a number that no tile of tokens is a multiple of.
const PERIOD: usize = BLOCK_TOKENS - 1;

/// A random layer, and its signs and output scales as an artifact stores them, the scales in f16.
pub struct Stored {
    layout: SignLayout,
    layer: Layer,
    /// Signs.
    pub signs: Vec<u8>,
    /// Output scales.
    pub g: Vec<u16>,
}

impl Stored {
    /// The layer of a seed.
    pub fn random(layout: &SignLayout, seed: u64) -> Stored {
        let shape = LayerShape {
            d_in: layout.d_in,
            segments: layout.segments.clone(),
            paths: layout.paths,
            activations: "int16",
        };
        let layer = Layer::random(&shape, seed);
        let (signs, g) = layer.pack(layout);
        Stored {
            layout: layout.clone(),
            layer,
            signs,
            g,
        }
    }

    /// Whether it is a layer of that layout.
    pub fn has(&self, layout: &SignLayout) -> bool {
        self.layout == *layout
    }

    /// Input scales.
    pub fn h(&self) -> &[u16] {
        &self.layer.h
    }
}

/// A random instance of a task.
pub struct Problem {
    task: Task,
    stored: Rc<Stored>,
    residual: Vec<f32>,
    expected: Vec<Element>,
}

/// An element that is looked at.
struct Element {
    token: usize,
    column: usize,
    /// Computed plainly, in f64.
    value: f64,
    /// How far from it a kernel may be.
    bound: f64,
}

impl Problem {
    /// An instance with a layer of the task's layout.
    pub fn new(task: &Task, stored: Rc<Stored>) -> Problem {
        let mut random = ChaCha8Rng::seed_from_u64(task.tokens as u64);
        let residual = task.residual.map_or(0, |stride| stride * task.tokens);
        let mut problem = Problem {
            task: task.clone(),
            stored,
            residual: (0..residual)
                .map(|_| random.random_range(-1.0..1.0))
                .collect(),
            expected: Vec::new(),
        };
        problem.expected = problem.some_elements();
        problem
    }

    /// The layer.
    pub fn stored(&self) -> &Stored {
        &self.stored
    }

    /// The input, tokens `x_stride` elements apart.
    pub fn input(&self) -> Vec<f32> {
        let d_in = self.task.layout.stored.d_in;
        let mut x = vec![0.0; self.task.tokens * self.task.x_stride.max(d_in)];
        for token in 0..self.task.tokens {
            x[token * self.task.x_stride..][..d_in].copy_from_slice(self.token(token));
        }
        x
    }

    /// The input of a token.
    fn token(&self, token: usize) -> &[f32] {
        let d_in = self.task.layout.stored.d_in;
        &self.stored.layer.x[token % PERIOD * d_in..][..d_in]
    }

    /// What is added to the result; empty if nothing is.
    pub fn residual(&self) -> &[f32] {
        &self.residual
    }

    /// The tokens that are looked at.
    pub fn tokens(&self) -> impl Iterator<Item = usize> {
        let (all, last) = (self.task.tokens, self.task.tokens - 1);
        let looked_at = all.min(CHECKED_TOKENS);
        (0..looked_at).map(move |n| spread(n, looked_at, last))
    }

    /// Holds some elements of the result of a token, `[columns]`, against plain sums in f64, within
    /// what the rounding of the input allows.
    ///
    /// # Errors
    /// An element that is further away, by its place.
    pub fn check(&self, token: usize, row: &[f32]) -> Result<()> {
        for e in self.expected.iter().filter(|e| e.token == token) {
            let found = f64::from(row[e.column]);
            // Written so that a result that is no number is refused.
            let near = (found - e.value).abs() <= e.bound;
            if !near {
                bail!(
                    "token {token}, column {}: {found}, but {} ± {:.1e} is right",
                    e.column,
                    e.value,
                    e.bound
                );
            }
        }
        Ok(())
    }

    /// What is looked at: of some tokens some rows of every segment, first and last among them.
    fn some_elements(&self) -> Vec<Element> {
        let segments = &self.task.layout.stored.segments;
        let shown = match self.task.gate {
            Some(_) => 1,
            None => segments.len(),
        };
        let mut all = Vec::new();
        for token in self.tokens() {
            let mut first = 0;
            for (segment, rows) in segments.iter().take(shown).enumerate() {
                for n in 0..CHECKED {
                    let row = spread(n, CHECKED, rows - 1);
                    let column = first + row;
                    let (value, bound) = self.expected(token, segment, row, column);
                    all.push(Element {
                        token,
                        column,
                        value,
                        bound,
                    });
                }
                first += rows;
            }
        }
        all
    }

    /// One element of the result, and how far from it a kernel may be.
    fn expected(&self, token: usize, segment: usize, row: usize, column: usize) -> (f64, f64) {
        let norm = self.norm(token);
        let of = |segment| {
            let error = |u: &[f64]| match self.task.rounding {
                Rounding::Planes(planes) => quantisation(u, planes),
                Rounding::Half => halves(u, self.task.layout.stored.paths),
            };
            let (y, bound) = self
                .stored
                .layer
                .element(token % PERIOD, segment, row, &error);
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
        let (x, d_in) = (self.token(token), self.task.layout.stored.d_in);
        let squares: f64 = x.iter().map(|v| f64::from(*v).powi(2)).sum();
        1.0 / (squares / d_in as f64 + f64::from(eps)).sqrt()
    }
}

/// Number `n` of `count` numbers from 0 to `last`, evenly apart.
fn spread(n: usize, count: usize, last: usize) -> usize {
    n * last / (count - 1).max(1)
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

/// How far Σ ±u of a path may be off where inputs and weights are f16: an input is rounded, a scale's
/// share of the row's largest, its product with h, and every sum of so many paths. What is below the
/// normal numbers is off by a share of the largest, and sums of 16 products are added up in f32.
fn halves(u: &[f64], paths: usize) -> f64 {
    let largest = u.iter().map(|u| u.abs()).fold(0.0, f64::max);
    let total: f64 = u.iter().map(|u| u.abs()).sum();
    let roundings = (3 + paths) as f64 * HALF;
    let sums = (u.len() as f64 / 8.0 + 64.0) * U;
    (roundings + sums) * total + u.len() as f64 * largest / (1u64 << 24) as f64
}

#[cfg(test)]
#[path = "problem_tests.rs"]
mod tests;
