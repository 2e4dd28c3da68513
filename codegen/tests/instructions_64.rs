//! Every instruction of the kernel IR with vectors of 64 bytes.

#![cfg(feature = "llvm")]

mod common;
mod instructions;

/// Bytes of a vector.
pub const WIDTH: usize = 64;
