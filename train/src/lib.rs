//! Training of residual-binary models against a dense teacher.
//!
//! A training step is a graph: forward pass, losses and backward pass. What runs it is an
//! [`engine::Engine`]; everything else here is the same whatever runs it.
//!
//! - [`recipe`]: what is trained, and how.
//! - [`teacher`], [`corpus`], [`batches`]: the model and the text, and the order it is read in.
//! - [`start`]: the weights that a student starts from.
//! - [`graphs`]: the graphs of a step, a validation, and what a teacher is examined with.
//! - [`job`], [`run`](mod@run), [`session`], [`plan`]: a run, its stages and their updates.
//! - [`store`], [`metrics`]: what a run leaves behind; `resume`: what goes on with it.
//! - [`export`], [`report`](mod@report): what others make of it.
//! - [`memory`], [`diagnostics`]: what a run takes, and what became of the paths.
//! - [`engine`], [`interpreter`], [`adamw`]: the interface of engines, and the reference.
//! - [`cpu`]: the engine on the processor; `cuda`: the engine on NVIDIA GPUs (cargo feature `cuda`).

pub mod adamw;
pub mod batches;
pub mod cores;
pub mod corpus;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod diagnostics;
pub mod engine;
pub mod error;
pub mod export;
pub mod graphs;
pub mod interpreter;
pub mod job;
pub mod memory;
pub mod metrics;
pub mod noise;
pub mod plan;
pub mod recipe;
pub mod report;
mod resume;
pub mod run;
pub mod session;
pub mod start;
pub mod store;
pub mod teacher;
pub mod validation;

pub use error::TrainError;
pub use run::{Outcome, run};
