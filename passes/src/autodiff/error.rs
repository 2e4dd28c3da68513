//! Errors of autodiff.

use rabitc_ir::{GradientError, GraphError, Type};

/// Why a graph could not be differentiated.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AutodiffError {
    /// No output of the loss's name.
    #[error("the graph has no output `{0}` to differentiate")]
    NoLoss(String),
    /// A loss that is no scalar.
    #[error("the loss `{name}` is {ty}, it must be f32[1]")]
    NotScalar {
        /// The output.
        name: String,
        /// Its type.
        ty: Type,
    },
    /// A gradient is asked for of a weight that the graph does not read.
    #[error("the graph reads no weight `{0}`")]
    NoWeight(String),
    /// A gradient is asked for of a node that is not there.
    #[error("the graph has no node %{0}")]
    NoValue(String),
    /// A gradient is asked for of something that is not made of floats.
    #[error("`{name}` is {ty}, which has no gradient")]
    NotFloat {
        /// The weight or node.
        name: String,
        /// Its type.
        ty: Type,
    },
    /// The loss does not depend on what a gradient is asked for of.
    #[error("the loss has no gradient with respect to `{0}`: it does not depend on it")]
    Unreached(String),
    /// An output that has the name of a gradient.
    #[error("the graph has an output `{0}` already")]
    Taken(String),
    /// An op without a gradient rule stands in the way.
    #[error(transparent)]
    Gradient(#[from] GradientError),
    /// A node that the op table refuses: a defect of autodiff.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// A gradient that does not have the shape of its value: a defect of the op's rule.
    #[error("the gradient rule of {op} gives {found} where {expected} is needed")]
    Shape {
        /// The op.
        op: &'static str,
        /// What its rule gave.
        found: Type,
        /// What the operand needs.
        expected: Type,
    },
}
