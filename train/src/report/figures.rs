//! What runs reached, in numbers.

use serde::Serialize;

use super::runs::{Run, label};
use crate::diagnostics::{LayerReport, mean};
use crate::metrics::ValidationRecord;
use crate::recipe::Recipe;

/// What a run reached. The field names are an interface.
#[derive(Clone, Debug, Serialize)]
pub struct Figures<'a> {
    /// The name of its folder, or the folder where several runs have one name.
    pub run: &'a str,
    /// What was trained, and how.
    pub recipe: &'a Recipe,
    /// What ran it.
    pub engine: &'a str,
    /// Updates done.
    pub steps: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// The middle of the speeds of all updates but the first.
    pub tokens_per_second: Option<f64>,
    /// Bytes of moments for each binarized weight.
    pub optimizer_per_binarized: f64,
    /// The first measurement on the validation text.
    pub first: Option<&'a ValidationRecord>,
    /// The last one.
    pub last: Option<&'a ValidationRecord>,
    /// The first comparison of the layers' paths.
    pub paths_first: Option<PathFigures<'a>>,
    /// The last one.
    pub paths_last: Option<PathFigures<'a>>,
}

/// How the paths of layers relate, as means over layers.
#[derive(Clone, Debug, Serialize)]
pub struct PathFigures<'a> {
    /// Updates before the comparison.
    pub step: u64,
    /// Plain correlation, the mean over pairs of paths too.
    pub plain: f64,
    /// Correlation weighted by the second moment of the layers' inputs, likewise.
    pub weighted: f64,
    /// The error's share of the dense layers' energy.
    pub error: f64,
    /// The share that 2 × covariance has.
    pub covariance: f64,
    /// Layer by layer.
    pub layers: &'a [LayerReport],
}

impl<'a> Figures<'a> {
    /// What `run` reached.
    pub(super) fn new(run: &'a Run) -> Figures<'a> {
        let last = run.steps.last();
        let compared = |found: Option<&'a (u64, Vec<LayerReport>)>| {
            found.map(|(step, layers)| PathFigures::new(*step, layers))
        };
        Figures {
            run: &run.name,
            recipe: &run.about.recipe,
            engine: &run.about.engine,
            steps: last.map_or(0, |s| s.step),
            tokens: last.map_or(0, |s| s.tokens),
            tokens_per_second: run.tokens_per_second(),
            optimizer_per_binarized: run.about.memory.optimizer_per_binarized,
            first: run.validations.first(),
            last: run.validations.last(),
            paths_first: compared(run.layers.first()),
            paths_last: compared(run.layers.last()),
        }
    }

    /// Name, method and paths in a few words.
    pub(super) fn label(&self) -> String {
        label(self.run, self.recipe)
    }
}

impl<'a> PathFigures<'a> {
    fn new(step: u64, layers: &'a [LayerReport]) -> PathFigures<'a> {
        let all = |pick: fn(&LayerReport) -> f64| {
            let values: Vec<_> = layers.iter().map(pick).collect();
            mean(&values)
        };
        PathFigures {
            step,
            plain: all(|l| mean(&l.plain)),
            weighted: all(|l| mean(&l.weighted)),
            error: all(LayerReport::relative_error),
            covariance: all(LayerReport::relative_covariance),
            layers,
        }
    }
}
