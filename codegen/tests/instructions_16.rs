//! Every instruction of the kernel IR with vectors of 16 bytes.

mod common;
mod instructions;

/// Bytes of a vector.
pub const WIDTH: usize = 16;
