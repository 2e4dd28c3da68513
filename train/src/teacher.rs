//! The dense model that a student is trained towards.

use std::path::Path;

use rabitc_frontend::{BufferPrecision, Checkpoint, LowerOptions, ModelInfo, lower};
use rabitc_ir::{DType, Graph, WeightStore};

use crate::error::TrainError;
use crate::graphs;

/// Bytes of each tensor that a teacher is recognised by.
const SAMPLE: usize = 4096;

/// A teacher: a checkpoint and its graph.
#[derive(Debug)]
pub struct Teacher {
    /// Its weights and side files.
    pub checkpoint: Checkpoint,
    /// Its graph, as the frontend gives it.
    pub graph: Graph,
    /// What is known of the model.
    pub info: ModelInfo,
    /// The type that its computed buffers are rounded to; the student's are, too.
    pub buffers: DType,
    /// The name of its folder or file, without the path.
    pub name: String,
}

impl Teacher {
    /// Opens a checkpoint. `buffers` is the precision of what is computed from its configuration.
    pub fn open(path: &Path, buffers: BufferPrecision) -> Result<Teacher, TrainError> {
        let checkpoint = Checkpoint::open(path)?;
        let options = LowerOptions {
            buffers,
            ..LowerOptions::default()
        };
        let lowered = lower(&checkpoint, &options)?;
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
        Ok(Teacher {
            checkpoint,
            graph: lowered.graph,
            info: lowered.model,
            buffers: lowered.buffers,
            name: name.unwrap_or_else(|| path.display().to_string()),
        })
    }

    /// A hash of the configuration and of every tensor's name, type, shape and first bytes.
    pub fn fingerprint(&self) -> Result<String, TrainError> {
        let path = self.checkpoint.config_path();
        let mut text = std::fs::read(&path).map_err(TrainError::io(&path))?;
        text.extend(self.buffers.name().bytes());
        for name in self.checkpoint.names() {
            let info = self.checkpoint.info(name);
            text.extend(format!("\n{name} {info:?}").bytes());
            let bytes = self.checkpoint.bytes(name).unwrap_or_default();
            text.extend(&bytes[..bytes.len().min(SAMPLE)]);
        }
        Ok(rabitc_rbx::hash_hex(&text))
    }

    /// Refuses a checkpoint that a student of this teacher cannot start from: one of another
    /// architecture, or with tensors of other shapes.
    pub fn check_student(&self, student: &Teacher) -> Result<(), TrainError> {
        let (ours, theirs) = (&self.info, &student.info);
        let facts = [
            ("layers", ours.n_layers, theirs.n_layers),
            ("tokens of vocabulary", ours.vocab_size, theirs.vocab_size),
            ("channels", ours.hidden_size, theirs.hidden_size),
            ("heads", ours.n_heads, theirs.n_heads),
        ];
        let names = || format!("the student {} and the teacher {}", student.name, self.name);
        if ours.architecture != theirs.architecture {
            let (a, b) = (&theirs.architecture, &ours.architecture);
            let what = format!("{} do not match: {a} and {b}", names());
            return Err(TrainError::Setting(what));
        }
        if let Some((what, a, b)) = facts.into_iter().find(|(_, a, b)| a != b) {
            let what = format!("{} do not match: {b} and {a} {what}", names());
            return Err(TrainError::Setting(what));
        }
        for (name, ty) in graphs::weights(&self.graph) {
            let shape = ty.fixed_shape().unwrap_or_default();
            let found = WeightStore::info(&student.checkpoint, &name).map(|(_, shape)| shape);
            if found.as_ref() != Some(&shape) {
                let found = found.map_or("nothing".into(), |shape| format!("{shape:?}"));
                let what = format!(
                    "{} do not match: `{name}` is {found} and {shape:?}",
                    names()
                );
                return Err(TrainError::Setting(what));
            }
        }
        Ok(())
    }
}
