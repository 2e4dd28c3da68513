//! Opens artifacts for the verbs that run them: the model, threads, sessions, the tokenizer.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rabitc_frontend::BufferPrecision;
use rabitc_rbx::{CHAT_TEMPLATE, TOKENIZER, TOKENIZER_CONFIG};
use rabitc_runtime::chat::ChatTemplate;
use rabitc_runtime::pool::Pool;
use rabitc_runtime::tokenizer::Tokenizer;
use rabitc_runtime::tokenizer_config::TokenizerConfig;
use rabitc_runtime::{Device, Error, Model, Session, topology};

/// What `--rope-precision` says.
pub fn buffers(name: &str) -> BufferPrecision {
    match name {
        "checkpoint" => BufferPrecision::Checkpoint,
        "f32" => BufferPrecision::F32,
        _ => BufferPrecision::Auto,
    }
}

/// How many threads run a model.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct ThreadArgs {
    /// Threads that compute [default: one a physical core that this process may use]
    #[arg(short, long, value_name = "N")]
    pub threads: Option<usize>,
}

impl ThreadArgs {
    /// The number of threads.
    pub fn count(self) -> usize {
        self.threads.unwrap_or_else(topology::default_threads)
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// A count of 0 or beyond what the pool allows, or a system that refuses.
    pub fn pool(self) -> Result<Arc<Pool>> {
        Ok(Arc::new(Pool::new(self.count()).context("--threads")?))
    }
}

/// Where a model runs.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct DeviceArgs {
    /// What runs the model: cpu, cuda, or cuda:N for GPU number N
    #[arg(long, value_name = "DEVICE", default_value_t = Device::Cpu)]
    pub device: Device,
}

/// Opens the artifact at `path` and loads its code, and on a GPU its weights. Where the driver had to
/// compile that code, standard error says so.
///
/// # Errors
/// A file that is no artifact, a damaged one, or one without code for the device.
pub fn model(path: &Path, on: DeviceArgs) -> Result<Arc<Model>> {
    match Model::open_on(path, on.device) {
        Ok(model) => {
            if let Some(note) = model.compiled_by_driver() {
                eprintln!("{}: {note}", path.display());
            }
            Ok(Arc::new(model))
        }
        // These name the file themselves.
        Err(error @ Error::Artifact(_)) => Err(error.into()),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// A session with room for `positions` tokens.
///
/// # Errors
/// Fewer than 1 or more positions than the model was made for, or memory that is refused.
pub fn session(model: &Arc<Model>, pool: &Arc<Pool>, positions: usize) -> Result<Session> {
    let session = Session::new(Arc::clone(model), Arc::clone(pool), positions);
    session.with_context(|| name(model))
}

/// What the artifact says about special tokens and chat templates.
///
/// # Errors
/// Content that cannot be understood.
pub fn tokenizer_config(model: &Model) -> Result<TokenizerConfig> {
    let artifact = model.artifact();
    let mut config = match artifact.tensor(TOKENIZER_CONFIG) {
        Some((_, bytes)) => TokenizerConfig::from_bytes(bytes).with_context(|| name(model))?,
        None => TokenizerConfig::default(),
    };
    if artifact.tensor(CHAT_TEMPLATE).is_some() {
        config.set_chat_template(artifact.text(CHAT_TEMPLATE)?.to_owned());
    }
    Ok(config)
}

/// The artifact's tokenizer.
///
/// # Errors
/// An artifact without one, or one that cannot be understood.
pub fn tokenizer(model: &Model) -> Result<Tokenizer> {
    let Some((_, bytes)) = model.artifact().tensor(TOKENIZER) else {
        bail!(
            "{} holds no tokenizer: its checkpoint had no tokenizer.json (token ids still work)",
            name(model)
        );
    };
    let config = tokenizer_config(model)?;
    Tokenizer::from_bytes(bytes, &config).with_context(|| name(model))
}

/// The artifact's chat template.
///
/// # Errors
/// An artifact without one, or one that does not parse.
pub fn chat_template(model: &Model) -> Result<ChatTemplate> {
    let config = tokenizer_config(model)?;
    if config.chat_templates.is_empty() {
        bail!(
            "{} has no chat template: its checkpoint had none, so it is likely no chat model; \
             use -p without --chat",
            name(model)
        );
    }
    ChatTemplate::from_config(&config, None).with_context(|| name(model))
}

/// The artifact's path, for messages.
pub fn name(model: &Model) -> String {
    model.artifact().path().display().to_string()
}
