//! The runtime that executes `.rbx` artifacts.
//!
//! It depends on the artifact format alone and knows nothing of the compiler, so that it stays
//! small enough to embed. Nothing here may panic on bad input: every failure is an [`Error`].
//!
//! - [`pool`] and [`barrier`]: the threads that walk a plan together, step by step.
//! - [`topology`]: how many threads are worth starting on this machine.
//! - [`exec_memory`]: native kernels, mapped read-and-execute.
//! - [`aligned`]: zeroed memory for the executor's intermediate buffers.
//! - [`kv_cache`]: keys and values of the tokens so far.
//! - [`device`]: where a model runs; `cuda`: NVIDIA GPUs (cargo feature `cuda`).
//! - [`model`]: an artifact, opened; [`session`]: one sequence that it reads and continues.
//! - [`step_clock`]: where the time of a run goes.
//! - [`sampler`]: from logits to the next token.
//! - [`tokenizer`], [`stream_decoder`] and [`tokenizer_config`]: text to token ids and back.
//! - [`chat`]: a conversation to the prompt text the model was trained on.

pub mod aligned;
pub mod barrier;
pub mod chat;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
pub mod error;
pub mod exec_memory;
pub mod kv_cache;
pub mod model;
pub mod pool;
pub mod sampler;
pub mod session;
pub mod step_clock;
pub mod stream_decoder;
pub mod tokenizer;
pub mod tokenizer_config;
pub mod topology;

mod chat_json;
mod cpu_engine;
mod executor;
mod nucleus;
mod strftime;
mod wait;

pub use device::Device;
pub use error::Error;
pub use model::Model;
pub use session::Session;
