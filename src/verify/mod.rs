//! Runs every kernel of an artifact against the reference interpreter.
//!
//! The artifact's own programs run on random tokens, one launch at a time. Whatever a launch
//! writes is copied out; the interpreter computes the same graph node from the copies of its
//! operands, and the two results are compared within a bound that follows from the arithmetic.
//! A node whose kernels were checked before, at the same number of tokens, is not computed again.

mod bounds;
mod run;
pub mod sampling;
mod store;
mod tolerance;
mod walk;

use anyhow::Result;
use rabitc_ir::Graph;
use rabitc_runtime::Session;

use run::Run;
pub use store::ArtifactStore;
use walk::Walk;

/// The comparison of one kernel (or of the kernels that compute one node together).
#[derive(Clone, Debug, serde::Serialize)]
pub struct Check {
    /// The kernels' names.
    pub kernels: Vec<String>,
    /// The program.
    pub program: String,
    /// The graph node it was checked on.
    pub node: String,
    /// The op.
    pub op: String,
    /// Tokens of the run.
    pub tokens: usize,
    /// Largest absolute difference.
    pub max_error: f64,
    /// Largest difference divided by the bound for its element; at most 1 is a pass.
    pub worst: f64,
}

/// Reads the blocks of `runs` through the session and checks every kernel on the way; `progress` is
/// told the node of each check.
///
/// # Errors
/// A run that fails, or a node that the interpreter cannot compute.
pub fn verify(
    session: &mut Session,
    graph: &Graph,
    runs: &[Vec<u32>],
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<Check>> {
    let model = session.model().clone();
    let store = ArtifactStore::new(model.artifact());
    let mut walk = Walk::new(graph, &store, model.gpu_planes(), progress);
    for ids in runs {
        walk.run(Run::record(session, graph, ids)?)?;
    }
    Ok(walk.checks)
}
