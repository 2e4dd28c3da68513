//! What the `rabitc` command is made of, for tests and other programs.

pub mod compile;
pub mod verify;
