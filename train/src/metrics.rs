//! What a run measures, one JSON object a line.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use crate::diagnostics::LayerReport;
use crate::error::TrainError;
use crate::memory::MemoryPlan;
use crate::recipe::Recipe;
use crate::store::{METRICS, write_text};

/// One line. The names are an interface.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Record {
    /// What is trained, on what; once.
    Run(Box<RunRecord>),
    /// One update.
    Step(StepRecord),
    /// One measurement on the validation text.
    Validation(ValidationRecord),
    /// The paths of every layer.
    Layers(LayersRecord),
}

/// What is trained, on what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// The recipe.
    pub recipe: Recipe,
    /// What ran it.
    pub engine: String,
    /// The name of the teacher's folder or file.
    pub teacher: String,
    /// Tokens of the text.
    pub text_tokens: usize,
    /// Bytes that the run was planned with.
    pub memory: MemoryPlan,
}

/// One update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its number, from 1.
    pub step: u64,
    /// The loss, mean over the runs accumulated.
    pub loss: f64,
    /// KL(teacher ‖ student) in nats.
    pub kl: f64,
    /// The hidden states' normalised squared error, mean over blocks. It is measured whether it is
    /// a part of the loss or not; where it is none, it may not be finite, and is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<f64>,
    /// The cross-entropy with the text, where it is a part of the loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<f64>,
    /// The overlap of paths, where it is a part of the loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diversity: Option<f64>,
    /// The gradient's norm before it was clipped.
    pub gradient_norm: f64,
    /// The learning rates of shared weights, scales and the rest.
    pub rates: Vec<f32>,
    /// Tokens trained on so far.
    pub tokens: u64,
    /// Speed of this update alone.
    pub tokens_per_second: f64,
}

/// One measurement on the validation text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValidationRecord {
    /// Updates before it.
    pub step: u64,
    /// Mean KL(teacher ‖ student), in nats a token.
    pub kl: f64,
    /// exp of the mean negative log likelihood; `null` where that overflows.
    #[serde(deserialize_with = "or_infinite")]
    pub perplexity: f64,
    /// The teacher's; `null` likewise.
    #[serde(deserialize_with = "or_infinite")]
    pub teacher_perplexity: f64,
    /// Windows measured.
    pub windows: usize,
    /// Tokens of a window.
    pub window: usize,
}

/// The paths of every layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayersRecord {
    /// Updates before it.
    pub step: u64,
    /// Layer by layer.
    pub layers: Vec<LayerReport>,
}

impl Record {
    /// Updates before the record was made.
    pub fn step(&self) -> u64 {
        match self {
            Record::Run(_) => 0,
            Record::Step(r) => r.step,
            Record::Validation(r) => r.step,
            Record::Layers(r) => r.step,
        }
    }
}

/// The file, to be added to.
pub struct Metrics {
    path: PathBuf,
    file: File,
}

impl Metrics {
    /// Opens the file in `dir` and removes what was recorded after update `step`, which will be
    /// done again.
    pub fn go_on(dir: &Path, step: u64) -> Result<Metrics, TrainError> {
        let mut text = String::new();
        for record in read(dir)?.iter().filter(|r| r.step() <= step) {
            text.push_str(&line(record));
        }
        write_text(&dir.join(METRICS), &text)?;
        Metrics::open(dir)
    }

    /// A new file in `dir`.
    pub fn create(dir: &Path) -> Result<Metrics, TrainError> {
        write_text(&dir.join(METRICS), "")?;
        Metrics::open(dir)
    }

    fn open(dir: &Path) -> Result<Metrics, TrainError> {
        let path = dir.join(METRICS);
        let file = OpenOptions::new().append(true).open(&path);
        let file = file.map_err(TrainError::io(&path))?;
        Ok(Metrics { path, file })
    }

    /// Adds a line.
    pub fn add(&mut self, record: &Record) -> Result<(), TrainError> {
        let line = line(record);
        let written = self.file.write_all(line.as_bytes());
        written.map_err(TrainError::io(&self.path))
    }
}

/// A number; JSON has none that is infinite, and `null` stands for it.
fn or_infinite<'de, D: Deserializer<'de>>(value: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or(f64::INFINITY))
}

fn line(record: &Record) -> String {
    // A record holds numbers and text: there is nothing that JSON could refuse.
    serde_json::to_string(record).unwrap_or_default() + "\n"
}

/// All records in `dir`, none if it has no such file. A last line that was cut off is left out.
///
/// # Errors
/// A file that cannot be read, or a line that is no record.
pub fn read(dir: &Path) -> Result<Vec<Record>, TrainError> {
    let path = dir.join(METRICS);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(TrainError::io(&path)(e)),
    };
    let mut lines: Vec<&str> = text.split('\n').collect();
    // What follows the last line end is empty or was cut off.
    lines.pop();
    let records = lines.iter().enumerate().map(|(number, line)| {
        serde_json::from_str(line)
            .map_err(|e| TrainError::file(&path, format!("line {}: {e}", number + 1)))
    });
    records.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perplexity_that_overflows_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record::Validation(ValidationRecord {
            step: 3,
            kl: 900.0,
            perplexity: f64::INFINITY,
            teacher_perplexity: f64::INFINITY,
            windows: 1,
            window: 8,
        });
        let mut metrics = Metrics::create(dir.path()).unwrap();
        metrics.add(&record).unwrap();
        assert_eq!(read(dir.path()).unwrap(), [record]);
    }
}
