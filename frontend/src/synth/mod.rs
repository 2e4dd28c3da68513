//! Random checkpoints of any supported architecture, for benchmarks and tests that need a model's
//! shape but not its sense.
//!
//! A checkpoint is written tensor by tensor and never held in memory. The same configuration,
//! options and seed give the same bytes. Every tensor draws from a stream of its own, made from
//! the seed and its name, so that a tensor's values do not depend on what else is written.

mod fill;
mod plan;
mod write;

use std::path::Path;

use rabitc_ir::Graph;

use crate::checkpoint::side::{CONFIG_LIMIT, read_limited};
use crate::config::ModelConfig;
use crate::error::Error;
use crate::tensors::MAX_PATHS;

/// What kind of checkpoint to write.
#[derive(Clone, Debug)]
pub struct SynthOptions {
    /// Linear layers of the blocks as packed residual-binary paths (f16 scales) instead of dense
    /// bf16 weights. Everything else is bf16 either way.
    pub packed: bool,
    /// Paths of each packed layer, 1 to 8.
    pub paths: usize,
    /// Where all randomness comes from.
    pub seed: u64,
    /// The most bytes of data in one file; a larger model is written as shards with an index. A
    /// tensor larger than this has a file of its own.
    pub max_shard_bytes: u64,
}

impl Default for SynthOptions {
    fn default() -> Self {
        SynthOptions {
            packed: false,
            paths: 2,
            seed: 0,
            max_shard_bytes: 4 << 30,
        }
    }
}

/// How far the writing is.
#[derive(Clone, Copy, Debug)]
pub struct SynthProgress<'a> {
    /// The tensor that is being written.
    pub tensor: &'a str,
    /// Bytes of tensor data written.
    pub written: u64,
    /// Bytes of tensor data in all.
    pub total: u64,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SynthReport {
    /// Number of tensors.
    pub tensors: usize,
    /// Number of safetensors files.
    pub files: usize,
    /// Bytes of tensor data.
    pub bytes: u64,
}

/// Writes a random checkpoint of the architecture that the file `config` describes into the
/// folder `out`, which must be empty or not exist yet.
///
/// The folder appears under its name when it is complete; after an error nothing is left behind.
/// `progress` is called about once a megabyte.
pub fn synth(
    config: &Path,
    out: &Path,
    options: &SynthOptions,
    progress: &mut dyn FnMut(SynthProgress<'_>),
) -> Result<SynthReport, Error> {
    if options.packed && !(1..=MAX_PATHS).contains(&options.paths) {
        let what = format!("{} paths: 1 to {MAX_PATHS} are possible", options.paths);
        return Err(Error::Option(what));
    }
    let (text, model) = read(config)?;
    let plan = plan::plan(&model, options)?;
    write::write(&plan, &text, out, options, progress)
}

/// The graph of a dense checkpoint of the architecture that the file `config` describes, as
/// [`crate::lower()`] would build it from one: for what needs a model's shapes and no weights.
///
/// # Errors
/// A file that cannot be read, or a configuration that is refused.
pub fn graph_of_config(config: &Path) -> Result<Graph, Error> {
    plan::graph(&read(config)?.1)
}

/// What the configuration in the file `config` says.
///
/// # Errors
/// A file that cannot be read, or a configuration that is refused.
pub fn model_config(config: &Path) -> Result<ModelConfig, Error> {
    Ok(read(config)?.1)
}

/// The text of a configuration, and what it says.
fn read(config: &Path) -> Result<(String, ModelConfig), Error> {
    let text = read_limited(config, CONFIG_LIMIT)?;
    let model = ModelConfig::parse(&text).map_err(Error::config(config))?;
    Ok((text, model))
}

#[cfg(test)]
mod tests;
