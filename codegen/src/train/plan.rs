//! From a training graph to its plan.

use std::collections::HashSet;

use rabitc_ir::{DType, Graph};

use super::expand::Roots;
use super::lower::Lower;
use super::step::Plan;
use super::{memory, merge, norms};
use crate::CodegenError;

/// What a plan is made for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tokens of a run.
    pub tokens: usize,
    /// What products read and activations are stored as: f32 or bf16.
    pub storage: DType,
    /// Names of the weights that gradients are held for.
    pub trained: HashSet<String>,
    /// Whether norms are joined with the elementwise steps around them, which takes an engine that has
    /// kernels for that.
    pub join_norms: bool,
}

/// Plans `graph` for runs of `options.tokens` tokens.
///
/// # Errors
/// Nodes that a training step cannot contain, and sizes that overflow or do not fit; the message
/// names the node.
pub fn plan(graph: &Graph, options: &Options) -> Result<Plan, CodegenError> {
    if !matches!(options.storage, DType::F32 | DType::BF16) {
        let storage = options.storage;
        let reason = format!("activations are stored as f32 or bf16, not {storage}");
        return Err(CodegenError::plan(reason));
    }
    let roots = Roots::of(graph, &options.trained);
    let mut plan = Lower::new(graph, options, &roots).run()?;
    merge::merge(&mut plan);
    if options.join_norms {
        norms::join(&mut plan);
    }
    memory::place(&mut plan)?;
    Ok(plan)
}
