//! Which tensors a checkpoint of a configuration has: found by building its graph against a
//! source that has every tensor it is asked for.

use std::collections::HashSet;

use rabitc_ir::{DType, Graph};
use safetensors::Dtype;

use super::SynthOptions;
use super::fill::Fill;
use crate::checkpoint::INPUT_SCALES;
use crate::config::ModelConfig;
use crate::error::Error;
use crate::lower::{self, BufferPrecision};
use crate::tensors::{Form, Found, Role, TensorSource, storage_shape};

/// One tensor to be written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Planned {
    pub name: String,
    pub dtype: Dtype,
    /// As stored.
    pub shape: Vec<usize>,
    /// Bytes of data.
    pub bytes: u64,
    pub fill: Fill,
}

/// All tensors of a checkpoint, in the order in which the model reads them.
pub(super) fn plan(model: &ModelConfig, options: &SynthOptions) -> Result<Vec<Planned>, Error> {
    let mut recorder = Recorder::new(model, options);
    lower::build(model, &mut recorder, BufferPrecision::default())?;
    Ok(recorder.tensors)
}

/// The graph of a dense checkpoint of a configuration.
pub(super) fn graph(model: &ModelConfig) -> Result<Graph, Error> {
    let mut recorder = Recorder::new(model, &SynthOptions::default());
    Ok(lower::build(model, &mut recorder, BufferPrecision::default())?.0)
}

struct Recorder {
    packed: Option<usize>,
    tied: bool,
    std: f32,
    seen: HashSet<String>,
    tensors: Vec<Planned>,
}

impl Recorder {
    fn new(model: &ModelConfig, options: &SynthOptions) -> Recorder {
        Recorder {
            packed: options.packed.then_some(options.paths),
            tied: model.tie_word_embeddings,
            std: model.initializer_range,
            seen: HashSet::new(),
            tensors: Vec::new(),
        }
    }

    fn fill(&self, name: &str, shape: &[usize], role: Role) -> Fill {
        let width = shape.last().copied().unwrap_or(1);
        match role {
            Role::Norm { unit_offset: true } => Fill::Constant(0.0),
            Role::Norm { unit_offset: false } => Fill::Constant(1.0),
            Role::Signs => Fill::Signs { d_in: width },
            Role::Scales if name.ends_with(INPUT_SCALES) => Fill::input_scales(width),
            Role::Scales => Fill::output_scales(width),
            Role::Embedding | Role::Head | Role::Linear | Role::Bias => {
                Fill::Normal { std: self.std }
            }
        }
    }
}

impl TensorSource for Recorder {
    fn form(&self, name: &str) -> Result<Form, Error> {
        Ok(match self.packed {
            Some(paths) if name.starts_with("model.layers.") => Form::Packed { paths },
            _ => Form::Dense,
        })
    }

    fn take(&mut self, name: &str, shape: &[usize], role: Role) -> Result<Found, Error> {
        let (dtype, stored) = match role {
            Role::Signs => (DType::Bit, Dtype::U8),
            Role::Scales => (DType::F16, Dtype::F16),
            _ => (DType::BF16, Dtype::BF16),
        };
        let name = match role {
            Role::Head if self.tied => "model.embed_tokens.weight",
            _ => name,
        };
        let found = Found {
            name: name.to_string(),
            dtype,
        };
        if !self.seen.insert(name.to_string()) {
            return Ok(found);
        }
        let fill = self.fill(name, shape, role);
        let shape = storage_shape(shape, role);
        let size = (stored.bitsize() / 8) as u64;
        let bytes = shape.iter().try_fold(size, |n, &d| n.checked_mul(d as u64));
        let too_large = || Error::Option(format!("tensor `{name}` {shape:?} is too large"));
        self.tensors.push(Planned {
            name: name.to_string(),
            dtype: stored,
            bytes: bytes.ok_or_else(too_large)?,
            shape,
            fill,
        });
        Ok(found)
    }
}
