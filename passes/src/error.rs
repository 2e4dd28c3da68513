//! Errors of passes.

use rabitc_ir::GraphError;
use rabitc_ir::verify::VerifyError;

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// A rewrite that the op table refuses: a defect of the pass.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The graph is not valid after a pass: a defect of the pass.
    #[error("after pass {pass}: {error}")]
    Broken {
        /// The pass.
        pass: &'static str,
        /// What is broken.
        error: VerifyError,
    },
    /// Something the caller can change.
    #[error("{0}")]
    Other(String),
}
