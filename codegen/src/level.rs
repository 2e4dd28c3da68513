//! The levels that kernels are generated for: those that artifacts name.

pub use rabitc_rbx::level::{Arch, Level};
