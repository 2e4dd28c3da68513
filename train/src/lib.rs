//! Training of residual-binary models against a dense teacher.
//!
//! A training step is a graph: forward pass, losses and backward pass. What runs it is an
//! [`engine::Engine`]; everything else here is the same whatever runs it.

pub mod adamw;
pub mod batches;
pub mod corpus;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod engine;
pub mod error;
pub mod graphs;
pub mod interpreter;
pub mod recipe;

pub use error::TrainError;
pub mod cores;
pub mod diagnostics;
pub mod memory;
pub mod metrics;
pub mod plan;
pub mod start;
pub mod store;
pub mod validation;
