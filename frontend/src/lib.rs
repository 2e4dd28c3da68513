//! The frontend of rabitc: reads checkpoints in the Hugging Face layout and lowers them to the
//! graph IR.
//!
//! - [`Checkpoint`] opens the files and gives tensors by name.
//! - [`ModelConfig`] is `config.json`, typed and checked.
//! - [`lower()`] builds the graph; one file a model family, behind one table.
//! - [`synth()`] writes random checkpoints of any supported architecture.
//!
//! The frontend changes no weights and chooses no kernels: what it emits says what the model
//! computes, in the checkpoint's own precision.

mod blocks;
pub mod checkpoint;
pub mod config;
mod error;
mod family;
mod gemma3;
mod linear;
mod llama;
mod lower;
mod mistral;
mod qwen2;
mod qwen3;
mod rope;
pub mod synth;
mod tensors;

pub use checkpoint::{Checkpoint, SideFiles, TensorInfo, TokenizerSettings};
pub use config::{ConfigError, ModelConfig};
pub use error::Error;
pub use family::{Family, architectures};
pub use lower::{
    BUFFERS_KEY, BufferPrecision, LowerOptions, Lowered, ModelInfo, lower, read_config,
};
pub use synth::{SynthOptions, graph_of_config, model_config, synth};
