//! What a run leaves in its folder, and how it is found again.
//!
//! `model.safetensors`, with the side files of the teacher beside it, is a checkpoint that any
//! reader of residual-binary checkpoints takes. `optimizer-STEP.safetensors` is what is needed
//! beside it to go on: moments, scales before rounding, latent weights, and as text the state of
//! the run. The model is renamed into place last and names its step, so the two files that belong
//! together are always there, whenever the program or the machine stops.

mod atomic;
mod clean;
mod load;
mod lock;
mod save;
mod side;

pub use atomic::{Tensors, write_text};
pub use clean::{clean, is_empty};
pub use load::{Saved, SavedWeights};
pub use lock::Lock;
pub use save::{layer_values, save};
pub use side::copy_side_files;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::batches::Position;
use crate::recipe::Recipe;

/// The model's file.
pub const MODEL: &str = "model.safetensors";
/// The file of measurements.
pub const METRICS: &str = "metrics.jsonl";
/// What the name of the optimizer's file begins with.
const OPTIMIZER: &str = "optimizer-";
/// What it ends with, after the step.
const OPTIMIZER_END: &str = ".safetensors";
/// The key of the model's metadata that names the step.
const STEP: &str = "rabitc.step";
/// The key of the optimizer's metadata that holds the state.
const STATE: &str = "rabitc.state";
/// Before the names of first moments.
const MOMENT1: &str = "moment1/";
/// Before the names of second moments.
const MOMENT2: &str = "moment2/";
/// Before the names of weights in the type that they are trained in, where the model's file has
/// them in another form.
const MASTER: &str = "master/";

/// Where a run is: all that going on depends on beside tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Updates done.
    pub step: u64,
    /// By what the checkpoint that the student started from is recognised, if it is another than
    /// the teacher.
    #[serde(default)]
    pub student: Option<String>,
    /// What has been read of the text.
    pub position: Position,
    /// What is trained, and how.
    pub recipe: Recipe,
    /// By what the teacher is recognised.
    pub teacher: String,
    /// The type that the model's computed buffers are rounded to.
    pub buffers: String,
    /// By what the text is recognised.
    pub text: String,
    /// What the run is measured on, if it is.
    pub held: Option<HeldState>,
    /// Seconds spent so far.
    pub seconds: f64,
}

/// By what the text that a run is measured on is recognised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldState {
    /// A hash of its tokens.
    pub text: String,
    /// Tokens of a window.
    pub window: usize,
    /// Most windows that are measured; all if `None`.
    pub most: Option<usize>,
}

fn optimizer_path(dir: &Path, step: u64) -> PathBuf {
    dir.join(format!("{OPTIMIZER}{step:08}{OPTIMIZER_END}"))
}
