//! Tests of the whole IR through its public interface.

mod attention;
mod fuzz;
mod graph;
mod hand;
mod hand_train;
mod interpreter;
mod layout;
mod random;
mod residual;
mod semantics;
mod support;
mod tensors;
mod text;
mod types;
mod verify;
