//! How the paths of each layer relate to each other and to the layer that they stand for.

use std::collections::BTreeMap;

use rabitc_ir::{Graph, Tensor};
use serde::{Deserialize, Serialize};

use crate::cores::LayerValues;
use crate::corpus::{Batch, Corpus};
use crate::engine::{Engine, EngineError};
use crate::error::TrainError;
use crate::graphs;
use crate::recipe::Recipe;

/// Most tokens that paths are compared on.
const TOKENS: usize = 8192;

/// The paths of one layer. With y = W x the dense layer's output, ŷ_i = Ŵ_i x that of path i, and
/// means taken over tokens and output channels,
///
/// error = E(y − Σ ŷ_i)² = energy − cross + variances + covariance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerReport {
    /// The layer's node.
    pub layer: String,
    /// ⟨Ŵ_i, Ŵ_j⟩ / (‖Ŵ_i‖ ‖Ŵ_j‖) of the pairs i < j, first (0, 1), (0, 2), (1, 2) and so on.
    pub plain: Vec<f64>,
    /// The same weighted by the second moment H = E x xᵀ of the layer's input in the teacher:
    /// E ŷ_i ŷ_j / √(E ŷ_i² · E ŷ_j²).
    pub weighted: Vec<f64>,
    /// E(y − Σ ŷ_i)².
    pub error: f64,
    /// E y².
    pub energy: f64,
    /// 2 E(y · Σ ŷ_i).
    pub cross: f64,
    /// Σ E ŷ_i².
    pub variances: f64,
    /// 2 Σ_{i<j} E ŷ_i ŷ_j.
    pub covariance: f64,
}

impl LayerReport {
    /// The error's share of the dense layer's energy.
    pub fn relative_error(&self) -> f64 {
        self.share(self.error)
    }

    /// The share of 2 × covariance.
    pub fn relative_covariance(&self) -> f64 {
        self.share(self.covariance)
    }

    fn share(&self, value: f64) -> f64 {
        match self.energy > 0.0 {
            true => value / self.energy,
            false => 0.0,
        }
    }
}

/// The mean over pairs; 0 where there are none.
pub fn mean(pairs: &[f64]) -> f64 {
    pairs.iter().sum::<f64>() / pairs.len().max(1) as f64
}

/// Compares the paths of every layer in `layers` on the beginning of the corpus. `engine` has the
/// teacher's weights and gets the paths' matrices.
///
/// # Errors
/// Text that is too short for one sequence, or what the engine refuses.
pub fn layers(
    engine: &mut dyn Engine,
    model: &Graph,
    recipe: &Recipe,
    corpus: &Corpus,
    layers: &[(String, LayerValues)],
) -> Result<Vec<LayerReport>, TrainError> {
    let Some(paths) = layers.first().map(|(_, values)| values.shape[0]) else {
        return Ok(Vec::new());
    };
    let mut plain = Vec::with_capacity(layers.len());
    for (name, values) in layers {
        let matrices: Vec<_> = (0..paths).map(|i| values.path(i)).collect();
        plain.push(correlations(&matrices));
        for (i, matrix) in matrices.into_iter().enumerate() {
            let tensor = Tensor::f32(&values.shape[1..], matrix);
            engine.set_weight(&graphs::path_weight(name, i), &tensor)?;
        }
    }
    let len = recipe.seq_len;
    let mut windows = corpus.at_least(len, 1)?;
    windows.truncate(recipe.batch.min((TOKENS / len).max(1)));
    let graph = graphs::path_outputs(model, recipe, paths, len)?;
    let program = engine.program(&graph, windows.len() * len)?;
    let batch = Batch::new(corpus, &windows, len);
    let sums = engine.run(program, &batch.inputs())?;
    let reports = layers.iter().zip(plain).map(|((name, values), plain)| {
        let count = (windows.len() * len * values.shape[1]) as f64;
        report(name, plain, &Moments::new(&sums, name, paths, count)?)
    });
    reports.collect()
}

/// Mean products of outputs: paths 0 to k − 1, then the dense layer.
struct Moments {
    paths: usize,
    means: BTreeMap<(usize, usize), f64>,
}

impl Moments {
    fn new(
        sums: &BTreeMap<String, Tensor>,
        layer: &str,
        paths: usize,
        count: f64,
    ) -> Result<Moments, EngineError> {
        let mut means = BTreeMap::new();
        for i in 0..=paths {
            for j in i..=paths {
                let name = format!("{layer}/{i}/{j}");
                let missing = || EngineError::new(format!("the engine gave no `{name}`"));
                let sum = sums.get(&name).ok_or_else(missing)?.floats().iter();
                let mean = sum.map(|x| f64::from(*x)).sum::<f64>() / count;
                if !mean.is_finite() {
                    let what = format!("comparing paths: `{name}` is {mean}");
                    return Err(EngineError::new(what));
                }
                means.insert((i, j), mean);
            }
        }
        Ok(Moments { paths, means })
    }

    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> {
        let paths = self.paths;
        (1..paths).flat_map(|j| (0..j).map(move |i| (i, j)))
    }
}

fn report(layer: &str, plain: Vec<f64>, moments: &Moments) -> Result<LayerReport, TrainError> {
    let at = |i: usize, j: usize| moments.means[&(i, j)];
    let k = moments.paths;
    let weighted = moments
        .pairs()
        .map(|(i, j)| cosine(at(i, j), at(i, i), at(j, j)));
    let energy = at(k, k);
    let cross = 2.0 * (0..k).map(|i| at(i, k)).sum::<f64>();
    let variances = (0..k).map(|i| at(i, i)).sum::<f64>();
    let covariance = 2.0 * moments.pairs().map(|(i, j)| at(i, j)).sum::<f64>();
    Ok(LayerReport {
        layer: layer.to_string(),
        plain,
        weighted: weighted.collect(),
        error: energy - cross + variances + covariance,
        energy,
        cross,
        variances,
        covariance,
    })
}

fn cosine(product: f64, a: f64, b: f64) -> f64 {
    match a > 0.0 && b > 0.0 {
        true => product / (a * b).sqrt(),
        false => 0.0,
    }
}

/// The cosines of all pairs of matrices.
fn correlations(matrices: &[Vec<f32>]) -> Vec<f64> {
    let product = |a: &[f32], b: &[f32]| -> f64 {
        let pairs = a.iter().zip(b);
        pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let squares: Vec<_> = matrices.iter().map(|m| product(m, m)).collect();
    let pairs = (1..matrices.len()).flat_map(|j| (0..j).map(move |i| (i, j)));
    let cosines = pairs.map(|(i, j)| {
        let inner = product(&matrices[i], &matrices[j]);
        cosine(inner, squares[i], squares[j])
    });
    cosines.collect()
}

#[cfg(test)]
mod tests {
    use super::correlations;

    #[test]
    fn correlations_are_cosines() {
        let found = correlations(&[vec![1.0, 0.0], vec![1.0, 1.0], vec![0.0, -2.0]]);
        let half = 0.5f64.sqrt();
        for (found, expected) in found.iter().zip([half, 0.0, -half]) {
            assert!((found - expected).abs() < 1e-12, "{found:?}");
        }
    }
}
