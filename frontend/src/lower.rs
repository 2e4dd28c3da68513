//! From a checkpoint to the graph of its model.

use rabitc_ir::{DType, Graph, NodeId};

use crate::blocks::Builder;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::side::{CONFIG_LIMIT, read_limited};
use crate::config::ModelConfig;
use crate::error::Error;
use crate::family::{self, Family};
use crate::tensors::{CheckpointTensors, TensorSource};

/// The precision of what is computed from the configuration alone: rotary frequencies and the
/// scale of the embeddings.
///
/// In the reference implementation these are buffers of the model. A model that is cast as a
/// whole (`model.to(torch.bfloat16)`) has them rounded with its weights; one that is loaded with
/// a dtype keeps its rotary frequencies in f32. The two differ measurably, the more so the longer
/// the context, and nothing in a checkpoint tells which one it was made with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BufferPrecision {
    /// `Checkpoint` for models of at most [`SHORT_CONTEXT`] positions, where the two differ little
    /// and small models are commonly cast as a whole; `F32` for longer ones, where rounded
    /// frequencies would turn far positions by radians and published models are loaded with a
    /// dtype.
    ///
    /// A checkpoint whose `__metadata__` states the type under [`BUFFERS_KEY`], as training does,
    /// gets that one.
    #[default]
    Auto,
    /// Rounded to the element type of the embedding: the model as cast to its checkpoint's type.
    Checkpoint,
    /// In f32.
    F32,
    /// Rounded to this type.
    As(DType),
}

/// The key of a safetensors file's `__metadata__` that names the type which the model's computed
/// buffers are rounded to: `f32`, `f16` or `bf16`.
pub const BUFFERS_KEY: &str = "rabitc.buffers";

/// The longest context for which [`BufferPrecision::Auto`] rounds to the checkpoint's type.
pub const SHORT_CONTEXT: usize = 2048;

impl BufferPrecision {
    /// The type that a model's buffers are rounded to, from its context and the type of its
    /// embedding.
    pub(crate) fn dtype(self, context_length: usize, embedding: DType) -> DType {
        match self {
            BufferPrecision::Auto if context_length > SHORT_CONTEXT => DType::F32,
            BufferPrecision::Auto | BufferPrecision::Checkpoint => embedding,
            BufferPrecision::F32 => DType::F32,
            BufferPrecision::As(dtype) => dtype,
        }
    }

    /// What [`BufferPrecision::Auto`] means for a checkpoint.
    fn resolved(self, checkpoint: &Checkpoint) -> Result<Self, Error> {
        let stated = checkpoint.metadata().find(|(key, _)| *key == BUFFERS_KEY);
        let (BufferPrecision::Auto, Some((_, name))) = (self, stated) else {
            return Ok(self);
        };
        match name.parse() {
            Ok(dtype @ (DType::F32 | DType::F16 | DType::BF16)) => Ok(BufferPrecision::As(dtype)),
            _ => {
                let path = checkpoint.files().next().unwrap_or(checkpoint.folder());
                let reason = format!("`{BUFFERS_KEY}` is `{name}`, it must be f32, f16 or bf16");
                Err(Error::file(path, reason))
            }
        }
    }
}

/// What the caller may choose about lowering.
#[derive(Clone, Debug, Default)]
pub struct LowerOptions {
    /// Fewer positions than the configuration allows, to save memory at run time.
    pub context_length: Option<usize>,
    /// The precision of rotary frequencies and embedding scale.
    pub buffers: BufferPrecision,
}

/// A model as the rest of the compiler knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    /// The architecture as `config.json` names it.
    pub architecture: String,
    /// The family that lowered it.
    pub family: Family,
    /// Rows of the logits.
    pub vocab_size: usize,
    /// Most positions, prompt and generated tokens together.
    pub context_length: usize,
    /// Layers, each with a key/value cache.
    pub n_layers: usize,
    /// Channels of the residual stream.
    pub hidden_size: usize,
    /// Channels inside the feed-forward part.
    pub intermediate_size: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Channels of one head.
    pub head_dim: usize,
    /// Positions each layer sees; 0 for all.
    pub windows: Vec<usize>,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Beginning-of-sequence token.
    pub bos: Option<u32>,
    /// End-of-sequence tokens.
    pub eos: Vec<u32>,
}

/// A checkpoint's graph and what is known of its model.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// The graph: inputs `ids`, `positions`, `rows`, output `logits`. Weights are read from the
    /// checkpoint by the names of its tensors.
    pub graph: Graph,
    /// The model.
    pub model: ModelInfo,
    /// The type that the model's computed buffers are rounded to.
    pub buffers: DType,
}

/// Reads and checks the configuration of a checkpoint: `config.json`, and
/// `generation_config.json` where there is one.
pub fn read_config(checkpoint: &Checkpoint) -> Result<ModelConfig, Error> {
    let path = checkpoint.config_path();
    let config = read_limited(&path, CONFIG_LIMIT)?;
    let mut model = ModelConfig::parse(&config).map_err(Error::config(&path))?;
    if let Some(text) = checkpoint.side().generation_config()? {
        let path = checkpoint.folder().join("generation_config.json");
        model.add_generation(&text).map_err(Error::config(&path))?;
    }
    Ok(model)
}

/// Builds the graph of a checkpoint's model.
///
/// Every tensor that the configuration calls for must be there with the right shape, and no
/// others. Only headers are read: the data is read when the graph is evaluated or compiled.
pub fn lower(checkpoint: &Checkpoint, options: &LowerOptions) -> Result<Lowered, Error> {
    let config = read_config(checkpoint)?;
    let mut tensors = CheckpointTensors::new(checkpoint, config.tie_word_embeddings);
    let buffers = options.buffers.resolved(checkpoint)?;
    let (graph, buffers) = build(&config, &mut tensors, buffers)?;
    tensors.finish(family::spec(config.family).ignore)?;
    Ok(Lowered {
        graph,
        model: info(&config, options)?,
        buffers,
    })
}

/// The graph of a configuration, its tensors from `source`, and the type of its buffers.
pub(crate) fn build(
    config: &ModelConfig,
    source: &mut dyn TensorSource,
    buffers: BufferPrecision,
) -> Result<(Graph, DType), Error> {
    let block = family::spec(config.family).block;
    let mut builder = Builder::new(config, source, buffers)?;
    let mut x: NodeId = builder.embed()?;
    for layer in 0..config.n_layers() {
        x = block(&mut builder, layer, x)?;
    }
    let logits = builder.head(x)?;
    let (mut graph, buffers) = (builder.graph, builder.buffers);
    graph.set_output("logits", logits);
    // A rotary table that no layer uses.
    graph.remove_dead();
    Ok((graph, buffers))
}

fn info(config: &ModelConfig, options: &LowerOptions) -> Result<ModelInfo, Error> {
    let most = config.context_length;
    let context_length = match options.context_length {
        Some(n) if n == 0 || n > most => {
            let what = format!("a context of {n} tokens: the model has 1 to {most}");
            return Err(Error::Option(what));
        }
        chosen => chosen.unwrap_or(most),
    };
    Ok(ModelInfo {
        architecture: config.architecture.clone(),
        family: config.family,
        vocab_size: config.vocab_size,
        context_length,
        n_layers: config.n_layers(),
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        n_heads: config.n_heads,
        n_kv_heads: config.n_kv_heads,
        head_dim: config.head_dim,
        windows: config.layers.iter().map(|l| l.window).collect(),
        tie_word_embeddings: config.tie_word_embeddings,
        bos: config.bos,
        eos: config.eos.clone(),
    })
}
