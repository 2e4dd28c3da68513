//! A run as its metrics tell it.

use std::path::Path;

use crate::diagnostics::LayerReport;
use crate::error::TrainError;
use crate::metrics::{self, Record, RunRecord, StepRecord, ValidationRecord};
use crate::recipe::{Recipe, Start};

/// A run.
pub(super) struct Run {
    /// The folder's name.
    pub name: String,
    pub about: RunRecord,
    pub steps: Vec<StepRecord>,
    pub validations: Vec<ValidationRecord>,
    /// Updates before each comparison of the layers' paths, and the comparison.
    pub layers: Vec<(u64, Vec<LayerReport>)>,
}

impl Run {
    /// Reads the metrics in `dir`.
    pub fn read(dir: &Path) -> Result<Run, TrainError> {
        let (mut about, mut steps) = (None, Vec::new());
        let (mut validations, mut layers) = (Vec::new(), Vec::new());
        for record in metrics::read(dir)? {
            match record {
                Record::Run(run) => about = Some(*run),
                Record::Step(step) => steps.push(step),
                Record::Validation(validation) => validations.push(validation),
                Record::Layers(record) => layers.push((record.step, record.layers)),
            }
        }
        let missing = || TrainError::file(dir, "holds no run of training");
        // `.` and the like have no name of their own.
        let path = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
        Ok(Run {
            name: name.unwrap_or_else(|| dir.display().to_string()),
            about: about.ok_or_else(missing)?,
            steps,
            validations,
            layers,
        })
    }

    /// Name, method and paths in a few words.
    pub fn label(&self) -> String {
        label(&self.name, &self.about.recipe)
    }

    /// The middle of the speeds of all updates but the first, which sets things up.
    pub fn tokens_per_second(&self) -> Option<f64> {
        let mut speeds: Vec<_> = self
            .steps
            .iter()
            .skip(1)
            .map(|s| s.tokens_per_second)
            .collect();
        speeds.sort_by(f64::total_cmp);
        speeds.get(speeds.len() / 2).copied()
    }
}

/// The name of a run with its method and paths.
pub(super) fn label(name: &str, recipe: &Recipe) -> String {
    let (method, k) = (recipe.method.name(), recipe.paths);
    format!("{name}: {method}, k = {k}")
}

/// The initialisation in a few words.
pub(super) fn start(recipe: &Recipe) -> String {
    let initial = &recipe.initial;
    match initial.start {
        Start::Greedy => "greedy".into(),
        Start::Iterative => format!("iterative {}", initial.iters),
        Start::Importance => format!(
            "importance {}, iterative {}",
            initial.exponent, initial.iters
        ),
    }
}
