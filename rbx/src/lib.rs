//! The `.rbx` artifact: a valid safetensors file whose metadata holds a manifest.
//!
//! This crate defines the manifest, writes artifacts and reads them. It knows neither the
//! compiler nor the runtime; `docs/formats.md` describes the format for other programs.

pub mod error;
pub mod gpu;
mod gpu_check;
pub mod level;
pub mod manifest;
pub mod plan;
pub mod reader;
pub mod writer;

pub use error::Error;
pub use gpu::{GpuTarget, SmArch};
pub use level::Level;
pub use manifest::{Kernel, Layer, Manifest, Model, Target};
pub use plan::{Arg, Host, Items, Program, Scalar, Step, Work};
pub use reader::Artifact;
pub use writer::{Entry, write};

/// Version of the format that this crate writes and reads.
pub const FORMAT: u32 = 1;
/// Key of the manifest in the safetensors metadata.
pub const MANIFEST_KEY: &str = "rbx";
/// Key of the header's hash in the safetensors metadata.
pub const HASH_KEY: &str = "rbx_header_blake3";
/// Tensors start at multiples of this many bytes in the file.
pub const ALIGNMENT: usize = 64;
/// The data section starts at a multiple of this many bytes in the file.
pub const PAGE: usize = 4096;
/// Prefix of the names of sections that are no weights.
pub const SECTION_PREFIX: &str = "rbx/";
/// Prefix of the names of filler between tensors.
pub const PAD_PREFIX: &str = "rbx/pad/";
/// The graph after all passes, as text.
pub const GRAPH: &str = "rbx/graph";
/// The checkpoint's tokenizer.json.
pub const TOKENIZER: &str = "rbx/tokenizer.json";
/// The checkpoint's tokenizer_config.json.
pub const TOKENIZER_CONFIG: &str = "rbx/tokenizer_config.json";
/// The checkpoint's chat template, where it has one of its own file.
pub const CHAT_TEMPLATE: &str = "rbx/chat_template.jinja";

/// blake3 of `bytes`, in hexadecimal.
pub fn hash_hex(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}
