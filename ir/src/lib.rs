//! The graph IR of rabitc.
//!
//! A [`Graph`] is a directed acyclic graph of single-result ops over typed tensors. Every op is
//! declared once, in the op table ([`Op`]): its name, operands, attributes, type rule, reference
//! semantics and gradient rule. The printer, the parser, the verifier, the reference interpreter
//! and autodiff all work from that table and know no op by name.
//!
//! This crate depends on no other crate of the project and must never do so.

pub mod attr;
pub mod gradient;
pub mod graph;
pub mod interp;
pub mod layout;
pub mod op;
pub mod ops;
pub mod real;
pub mod tensor;
pub mod text;
pub mod types;
pub mod verify;
pub mod weights;

pub use gradient::{Backward, GradientError};
pub use graph::{Graph, GraphError, Node, NodeId};
pub use interp::{EvalError, Interpreter};
pub use op::Op;
pub use real::Real;
pub use tensor::{Data, Tensor};
pub use types::{DType, Dim, Type};
pub use weights::{WeightError, WeightStore};
