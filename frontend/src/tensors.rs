//! Where a graph under construction finds its tensors.
//!
//! The families ask for tensors by the names of the reference implementation; a [`TensorSource`]
//! answers with the name and type under which the data can be had. Everything that checks or
//! lists the tensors of a model does so by being such a source, so that the families remain the
//! only place that knows which tensors there are.

use std::collections::HashSet;

use rabitc_ir::{DType, WeightStore};

use crate::checkpoint::{BITS, Checkpoint, INPUT_SCALES, OUTPUT_SCALES, dtype};
use crate::error::Error;

/// The most paths a residual-binary layer may have.
pub(crate) const MAX_PATHS: usize = 8;

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Embedding,
    Head,
    Linear,
    Bias,
    Norm { unit_offset: bool },
    Scales,
    Signs,
}

/// How a linear layer is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `.weight`
    Dense,
    /// `.weight`, `.rb_g`, `.rb_h`
    Trained { paths: usize },
    /// `.rb_bits`, `.rb_g`, `.rb_h`
    Packed { paths: usize },
}

/// A tensor as the graph will name it.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub name: String,
    pub dtype: DType,
}

/// Answers for the tensors of one model.
pub(crate) trait TensorSource {
    /// How the linear layer `name` is stored.
    fn form(&self, name: &str) -> Result<Form, Error>;
    /// The tensor `name`, which must have this shape (signs: in bits). Counts it as read.
    fn take(&mut self, name: &str, shape: &[usize], role: Role) -> Result<Found, Error>;
}

/// The prefixes under which checkpoints keep the decoder, the reference implementation's first.
const DECODER_PREFIXES: [&str; 5] = [
    "model.",
    "",
    "language_model.model.",
    "model.language_model.",
    "language_model.",
];

/// The tensors of a checkpoint.
pub(crate) struct CheckpointTensors<'a> {
    checkpoint: &'a Checkpoint,
    /// What stands in the checkpoint for `model.`.
    decoder: &'static str,
    /// What stands in the checkpoint before `lm_head`.
    head: &'static str,
    tied: bool,
    read: HashSet<String>,
}

impl<'a> CheckpointTensors<'a> {
    /// `tied`: whether the head may be the embedding.
    pub fn new(checkpoint: &'a Checkpoint, tied: bool) -> Self {
        let has = |p: &&str, rest: &str| checkpoint.info(&format!("{p}{rest}")).is_some();
        let decoder = DECODER_PREFIXES
            .into_iter()
            .find(|p| has(p, "embed_tokens.weight") || has(p, "norm.weight"));
        let head = ["", "language_model.", "model."].into_iter().find(|p| {
            ["weight", "rb_bits", "rb_g"]
                .iter()
                .any(|s| has(p, &format!("lm_head.{s}")))
        });
        CheckpointTensors {
            checkpoint,
            decoder: decoder.unwrap_or("model."),
            head: head.unwrap_or(""),
            tied,
            read: HashSet::new(),
        }
    }

    /// The checkpoint's name for a tensor of the reference implementation.
    fn stored(&self, name: &str) -> String {
        match name.strip_prefix("model.") {
            Some(rest) => format!("{}{rest}", self.decoder),
            None => format!("{}{name}", self.head),
        }
    }

    /// With a tied head, embedding and head stand in for one another where one is absent, and
    /// are one where both are there and equal.
    fn tied_name(&mut self, name: &str, role: Role) -> String {
        let stored = self.stored(name);
        if !self.tied || !matches!(role, Role::Embedding | Role::Head) {
            return stored;
        }
        let embedding = self.stored("model.embed_tokens.weight");
        let head = self.stored("lm_head.weight");
        let bytes = |n: &str| self.checkpoint.bytes(n);
        match (bytes(&embedding), bytes(&head)) {
            (Some(e), Some(h)) if e == h => {
                self.read.insert(head);
                embedding
            }
            (Some(_), Some(_)) => stored,
            (None, Some(_)) => head,
            _ => embedding,
        }
    }

    /// Refuses tensors that nothing has read.
    pub fn finish(self, ignore: fn(&str) -> bool) -> Result<(), Error> {
        let names: Vec<_> = self
            .checkpoint
            .names()
            .filter(|n| !self.read.contains(*n) && !ignorable(n) && !ignore(n))
            .map(str::to_string)
            .collect();
        if names.is_empty() {
            return Ok(());
        }
        Err(Error::ExtraTensors {
            path: self.checkpoint.folder().to_path_buf(),
            names,
        })
    }

    fn error(&self, tensor: &str, reason: impl Into<String>) -> Error {
        let path = self.checkpoint.file_of(tensor);
        Error::tensor(path.unwrap_or(self.checkpoint.folder()), tensor, reason)
    }
}

/// Buffers that older checkpoints carry and that are computed here.
fn ignorable(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq") || name.ends_with(".masked_bias")
}

impl TensorSource for CheckpointTensors<'_> {
    fn form(&self, name: &str) -> Result<Form, Error> {
        let has = |suffix: &str| {
            let stored = self.stored(&format!("{name}{suffix}"));
            self.checkpoint.info(&stored).map(|info| (stored, info))
        };
        let packed = has(BITS).is_some();
        let Some((scales, info)) = has(OUTPUT_SCALES).or_else(|| has(INPUT_SCALES)) else {
            return match packed {
                true => Err(self.error(
                    &self.stored(&format!("{name}{BITS}")),
                    format!("has no scales `{name}{OUTPUT_SCALES}` beside it"),
                )),
                false => Ok(Form::Dense),
            };
        };
        match info.shape.as_slice() {
            &[paths, _] if (1..=MAX_PATHS).contains(&paths) => Ok(match packed {
                true => Form::Packed { paths },
                false => Form::Trained { paths },
            }),
            found => {
                let reason = format!(
                    "shape {found:?}: scales are [paths, channels], 1 to {MAX_PATHS} paths"
                );
                Err(self.error(&scales, reason))
            }
        }
    }

    fn take(&mut self, name: &str, shape: &[usize], role: Role) -> Result<Found, Error> {
        let stored = self.tied_name(name, role);
        let Some(info) = self.checkpoint.info(&stored) else {
            return Err(Error::MissingTensor {
                path: self.checkpoint.folder().to_path_buf(),
                tensor: stored,
                expected: storage_shape(shape, role),
            });
        };
        let expected = storage_shape(shape, role);
        if info.shape != expected {
            let path = self.checkpoint.file_of(&stored);
            return Err(Error::WrongShape {
                path: path.unwrap_or(self.checkpoint.folder()).to_path_buf(),
                tensor: stored,
                expected,
                found: info.shape,
            });
        }
        let found = match role {
            Role::Signs => WeightStore::info(self.checkpoint, &stored)
                .map(|(dtype, _)| dtype)
                .filter(|d| *d == DType::Bit),
            _ => dtype(info.dtype).filter(|d| d.is_float()),
        };
        let wanted = match role {
            Role::Signs => "packed signs are U8",
            _ => "weights are F32, F16 or BF16",
        };
        let dtype =
            found.ok_or_else(|| self.error(&stored, format!("{:?}: {wanted}", info.dtype)))?;
        self.read.insert(stored.clone());
        Ok(Found {
            name: stored,
            dtype,
        })
    }
}

/// The shape in the file: packed signs hold eight to a byte.
pub(crate) fn storage_shape(shape: &[usize], role: Role) -> Vec<usize> {
    let mut shape = shape.to_vec();
    if let (Role::Signs, Some(last)) = (role, shape.last_mut()) {
        *last = last.div_ceil(8);
    }
    shape
}
