//! How much each channel of a layer matters, measured on text.

use std::collections::BTreeMap;

use rabitc_ir::Graph;

use crate::corpus::{Batch, Corpus};
use crate::engine::{Engine, EngineError};
use crate::error::TrainError;
use crate::graphs;
use crate::recipe::Recipe;

/// Least importance of a channel, as a share of the mean: what is never active in the text that
/// was measured on must be representable all the same.
const LEAST: f64 = 1e-3;

/// Factors on the channels of one layer's weight; positive.
#[derive(Clone, Copy, Debug)]
pub struct Factors<'a> {
    /// By input channel.
    pub input: &'a [f32],
    /// By output channel.
    pub output: &'a [f32],
}

/// Factors on the channels of every layer.
#[derive(Clone, Debug, Default)]
pub struct Importance {
    /// Input and output factors by layer.
    layers: BTreeMap<String, [Vec<f32>; 2]>,
}

impl Importance {
    /// Factors of the layer at node `layer`.
    pub(super) fn factors(&self, layer: &str) -> Result<Factors<'_>, String> {
        let missing = || "its importance was not measured".to_string();
        let [input, output] = self.layers.get(layer).ok_or_else(missing)?;
        Ok(Factors { input, output })
    }

    /// Runs the dense model over the corpus: (rms / mean rms) ^ exponent of every input channel,
    /// and of the gradient of the text's cross-entropy at every output channel. `engine` has the
    /// teacher's weights.
    ///
    /// # Errors
    /// Text that is too short for one sequence, or what the engine refuses.
    pub fn measure(
        engine: &mut dyn Engine,
        model: &Graph,
        recipe: &Recipe,
        corpus: &Corpus,
    ) -> Result<Importance, TrainError> {
        let sums = sums(engine, model, recipe, corpus)?;
        let mut layers: BTreeMap<String, [Vec<f32>; 2]> = BTreeMap::new();
        for (name, sums) in sums {
            let (side, layer) = match (name.strip_prefix("in."), name.strip_prefix("out.")) {
                (Some(layer), _) => (0, layer),
                (_, Some(layer)) => (1, layer),
                _ => continue,
            };
            let factors = factors(&sums, f64::from(recipe.initial.exponent));
            layers.entry(layer.to_string()).or_default()[side] = factors;
        }
        Ok(Importance { layers })
    }
}

/// The outputs of the calibration graph, added up over the sequences that are measured on.
fn sums(
    engine: &mut dyn Engine,
    model: &Graph,
    recipe: &Recipe,
    corpus: &Corpus,
) -> Result<BTreeMap<String, Vec<f64>>, TrainError> {
    let len = recipe.seq_len;
    let all = corpus.at_least(len, 1)?;
    let wanted = (recipe.initial.tokens / len).clamp(1, all.len());
    // At equal strides over the whole text.
    let chosen: Vec<_> = (0..wanted).map(|n| all[n * all.len() / wanted]).collect();
    let batch = recipe.batch.min(wanted);
    let graph = graphs::calibration(model, recipe, len)?;
    let program = engine.program(&graph, batch * len)?;
    let mut sums: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for windows in chosen.chunks_exact(batch) {
        let inputs = Batch::new(corpus, windows, len);
        for (name, value) in engine.run(program, &inputs.inputs())? {
            let sum = sums.entry(name.clone()).or_default();
            sum.resize(value.floats().len(), 0.0);
            for (sum, x) in sum.iter_mut().zip(value.floats()) {
                if !x.is_finite() {
                    let what = format!("measuring importance: `{name}` is {x}");
                    return Err(EngineError::new(what).into());
                }
                *sum += f64::from(*x);
            }
        }
    }
    Ok(sums)
}

/// (rms / mean rms) ^ exponent from sums of squares.
fn factors(squares: &[f64], exponent: f64) -> Vec<f32> {
    let rms: Vec<f64> = squares.iter().map(|s| s.max(0.0).sqrt()).collect();
    let mean = rms.iter().sum::<f64>() / rms.len().max(1) as f64;
    let factor = |rms: f64| match mean > 0.0 {
        true => (rms / mean).max(LEAST).powf(exponent) as f32,
        false => 1.0,
    };
    rms.into_iter().map(factor).collect()
}

#[cfg(test)]
mod tests {
    use super::factors;

    #[test]
    fn factors_are_relative_to_the_mean_and_positive() {
        assert_eq!(factors(&[16.0, 144.0, 0.0, 64.0], 1.0)[1], 2.0);
        assert_eq!(factors(&[4.0, 4.0], 0.75), [1.0, 1.0]);
        assert_eq!(factors(&[0.0, 0.0], 0.75), [1.0, 1.0]);
        assert!(factors(&[0.0, 1.0], 0.75)[0] > 0.0);
        assert_eq!(factors(&[1.0, 900.0], 0.0), [1.0, 1.0]);
    }
}
