//! Code generation: kernels from graph nodes, machine code from kernels, the execution plan.

pub mod backend;
pub mod cranelift;
pub mod cuda;
pub mod error;
pub mod kernels;
pub mod kir;
pub mod level;
#[cfg(feature = "llvm")]
pub mod llvm;
pub mod plan;
pub mod train;

pub use error::CodegenError;
