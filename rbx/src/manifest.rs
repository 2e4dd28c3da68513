//! The manifest: everything about an artifact that is not tensor data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::gpu::GpuTarget;
use crate::level::Level;
use crate::plan::Program;

/// The manifest of an artifact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the format.
    pub format: u32,
    /// The program and version that wrote it.
    pub generator: String,
    /// The model.
    pub model: Model,
    /// Format of the activations that residual-binary products read: `int8` or `f32`.
    pub activations: String,
    /// How it was built: the compile options that matter to the result, and blake3 of the source's
    /// config.json and tensor headers.
    pub built_from: BTreeMap<String, String>,
    /// Every linear layer, embedding and head.
    pub layers: Vec<Layer>,
    /// Native code by target.
    pub targets: Vec<Target>,
    /// Kernels and launches by GPU architecture.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GpuTarget>,
    /// The kernels; every target has code for each.
    pub kernels: Vec<Kernel>,
    /// The forward passes.
    pub programs: Vec<Program>,
    /// blake3 of every tensor and section, in hexadecimal.
    pub hashes: BTreeMap<String, String>,
}

/// What a caller needs to know of the model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// The checkpoint's architecture, as its config.json names it.
    pub architecture: String,
    /// The family it was lowered by.
    pub family: String,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Positions the model was made for.
    pub context_length: usize,
    /// Channels of the residual stream.
    pub hidden_size: usize,
    /// Blocks.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Channels of one head.
    pub head_dim: usize,
    /// Begin-of-sequence token, where there is one.
    pub bos: Option<u32>,
    /// Tokens that end a generation.
    pub eos: Vec<u32>,
}

/// One layer with weights, for people and tools.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// The graph node.
    pub node: String,
    /// What it is: `residual_binary`, `dense`, `int8`, `embedding`.
    pub form: String,
    /// Outputs of each segment.
    pub segments: Vec<usize>,
    /// Inputs.
    pub d_in: usize,
    /// Binary paths; 0 where it is not residual-binary.
    pub paths: usize,
    /// Layout of the packed signs, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
    /// Bytes of all its tensors.
    pub bytes: u64,
    /// Bytes of the checkpoint tensors that it came from.
    pub source_bytes: u64,
    /// Names of the kernels that compute it.
    pub kernels: Vec<String>,
}

/// How packed signs lie in memory. `docs/formats.md` explains the words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Rows of a tile.
    pub tile_rows: usize,
    /// Inputs of a tile.
    pub tile_inputs: usize,
    /// Tiles of a row block.
    pub row_tiles: usize,
    /// Order of the tiles, outermost first.
    pub order: Vec<String>,
    /// Order within a tile.
    pub tile_order: Vec<String>,
    /// Which bit of a byte is the first input: `lsb_first`.
    pub bit_order: String,
    /// What a set bit stands for.
    pub one: String,
    /// What fills rows and inputs past the end.
    pub padding: String,
}

/// Native code for one target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The CPU level that the code needs.
    pub level: Level,
    /// The backend that made it.
    pub backend: String,
    /// The tensor that holds the code.
    pub section: String,
    /// Byte offset of each kernel's entry point, in the order of the kernel table.
    pub entries: Vec<usize>,
}

/// One kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// Name; says the op and its configuration.
    pub name: String,
    /// Names of the pointer parameters.
    pub params: Vec<String>,
    /// Names of the scalar parameters.
    pub scalars: Vec<String>,
}
