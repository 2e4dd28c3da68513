//! Code for NVIDIA GPUs: kernels as CUDA C++, their compilation with NVRTC, and the plan.
//!
//! A kernel is one file under `kernels/` with a typed configuration, a [`CudaSpec`]. What it emits
//! includes nothing, so that NVRTC needs no header, and is meant to be read: constants first, then
//! the helpers that the kernel uses, then the kernel. Nothing here needs a GPU.

pub mod compile;
pub mod kernels;
pub mod layout;
pub mod nvrtc;
pub mod plan;
pub mod resources;
pub mod source;
pub mod train;

pub use compile::{Compiled, Compiler};
pub use source::{CudaSpec, Source};
