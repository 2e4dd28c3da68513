//! Training of residual-binary models against a dense teacher.
//!
//! A training step is a graph: forward pass, losses and backward pass. What runs it is an
//! [`engine::Engine`]; everything else here is the same whatever runs it.

pub mod cpu;
pub mod engine;
