//! Why training could not start or go on.

use std::io;
use std::path::{Path, PathBuf};

use rabitc_ir::{EvalError, GraphError, WeightError};
use rabitc_passes::autodiff::AutodiffError;

use crate::engine::EngineError;

/// Why training could not start or go on. Every message names the file, tensor, option or step.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The operating system refused a file operation.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file that does not hold what it should.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A setting that makes no sense, alone or with this model and text.
    #[error("{0}")]
    Setting(String),
    /// The loss or its gradient is no longer a number.
    #[error("step {step}: the {what} is {value}; {kept}")]
    NotFinite {
        /// The step, from 1, which was not taken.
        step: u64,
        /// What is not finite.
        what: &'static str,
        /// What it is.
        value: f64,
        /// Which checkpoint remains.
        kept: String,
    },
    /// A checkpoint that cannot be read or lowered.
    #[error(transparent)]
    Checkpoint(#[from] rabitc_frontend::Error),
    /// A weight that cannot be read.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// A layer whose scales could not be fitted.
    #[error("`{layer}`: {source}")]
    Fit {
        /// The layer.
        layer: String,
        /// Why.
        source: rabitc_passes::svid::FitError,
    },
    /// A tokenizer that cannot be read or used.
    #[error(transparent)]
    Tokenizer(#[from] rabitc_runtime::Error),
    /// A graph that the op table refuses: a defect.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A node of the model that has no gradient.
    #[error(transparent)]
    Autodiff(#[from] AutodiffError),
    /// A value that could not be computed.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// A step whose memory could not be planned.
    #[error(transparent)]
    Plan(#[from] rabitc_codegen::CodegenError),
    /// What runs the graphs could not.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl TrainError {
    /// A function that puts `path` to an error of the operating system.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> TrainError {
        let path = path.to_path_buf();
        move |source| TrainError::Io { path, source }
    }

    /// An error about what a file holds.
    pub fn file(path: &Path, reason: impl Into<String>) -> TrainError {
        TrainError::File {
            path: path.to_path_buf(),
            reason: reason.into(),
        }
    }
}
