//! What the `rabitc` command is made of, for tests and other programs.

pub mod bandwidth;
pub mod compile;
pub mod tune;
pub mod verify;
