//! A residual-binary checkpoint as an ordinary dense one.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use rabitc_files::AtomicFolder;
use rabitc_frontend::{BUFFERS_KEY, Checkpoint};
use rabitc_ir::ops::effective_weight::Derive;
use rabitc_ir::{DType, Tensor, WeightStore};
use serde::Serialize;
use serde_json::Value;

use crate::cores::LayerValues;
use crate::error::TrainError;
use crate::start::rounded;
use crate::store::{Tensors, copy_side_files, write_text};

/// What an export wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// Tensors.
    pub tensors: usize,
    /// Of these, the effective weights of residual-binary layers.
    pub layers: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Writes the checkpoint `from`, trained or packed, to the folder `to` as a dense one: every
/// residual-binary layer as the matrix that it multiplies by, all floats in `dtype`.
///
/// # Errors
/// A checkpoint that cannot be read, or that has no residual-binary layer, a folder that is not
/// empty, a value that `dtype` does not reach, or a residual-binary head that shares its weight with
/// the embedding, which a dense checkpoint cannot hold.
pub fn export(from: &Path, to: &Path, dtype: DType) -> Result<Exported, TrainError> {
    let checkpoint = Checkpoint::open(from)?;
    // Refuses what does not fit its configuration.
    let lowered = rabitc_frontend::lower(&checkpoint, &Default::default())?;
    let tensors = tensors(&checkpoint)?;
    if !tensors.iter().any(|t| matches!(t.1, Source::Layer { .. })) {
        let reason = "has no residual-binary layer: it is dense already, nothing is to be exported";
        return Err(TrainError::file(from, reason));
    }
    let folder = AtomicFolder::create(to).map_err(TrainError::io(to))?;
    let pairs = [("format", "pt"), (BUFFERS_KEY, lowered.buffers.name())];
    let metadata = pairs.map(|(key, value)| (key.to_string(), value.to_string()));
    let written = write(&checkpoint, &tensors, folder.path(), dtype, metadata.into());
    let written = written.map_err(|error| match error {
        TrainError::Io { path, source } => TrainError::io(&folder.in_place(&path))(source),
        error => error,
    })?;
    folder.finish().map_err(TrainError::io(to))?;
    Ok(written)
}

/// Writes the tensors, and what is beside them, to a folder.
fn write(
    checkpoint: &Checkpoint,
    tensors: &[(String, Source, Vec<usize>)],
    to: &Path,
    dtype: DType,
    metadata: HashMap<String, String>,
) -> Result<Exported, TrainError> {
    let entries = tensors
        .iter()
        .map(|(name, _, shape)| (name.clone(), dtype, shape.clone()));
    let entries: Vec<_> = entries.collect();
    let mut file = Tensors::create(&to.join(crate::store::MODEL), &entries, metadata)?;
    let (mut bytes, mut layers) = (0, 0);
    for (name, source, _) in tensors {
        let tensor = match source {
            Source::Dense => checkpoint.load(name)?,
            Source::Layer { base } => {
                layers += 1;
                effective(checkpoint, base)?
            }
        };
        let tensor = rounded(name, tensor, dtype)?.to_le_bytes();
        bytes += tensor.len() as u64;
        file.tensor(name, &tensor)?;
        checkpoint.release(name);
    }
    file.finish()?;
    copy_side_files(checkpoint.folder(), to)?;
    set_dtype(&to.join("config.json"), dtype)?;
    Ok(Exported {
        tensors: tensors.len(),
        layers,
        bytes,
    })
}

/// Where a tensor of the export comes from.
enum Source {
    /// The tensor of the same name.
    Dense,
    /// The residual-binary layer of this name.
    Layer { base: String },
}

/// The tensors of the export: name, source and shape.
fn tensors(checkpoint: &Checkpoint) -> Result<Vec<(String, Source, Vec<usize>)>, TrainError> {
    let has = |name: String| checkpoint.info(&name).is_some();
    let mut out = Vec::new();
    for name in checkpoint.names() {
        let (base, part) = name.rsplit_once('.').unwrap_or((name, ""));
        let binary = has(format!("{base}.rb_g"));
        match part {
            "rb_g" => {
                let shape = |part: &str| {
                    let info = checkpoint.info(&format!("{base}.{part}"));
                    info.and_then(|info| info.shape.get(1).copied())
                        .unwrap_or(0)
                };
                if !has(format!("{base}.weight")) && !has(format!("{base}.rb_bits")) {
                    let reason = format!("`{base}` shares its weight with the embedding");
                    return Err(TrainError::file(checkpoint.folder(), reason));
                }
                let base = base.to_string();
                let shape = vec![shape("rb_g"), shape("rb_h")];
                out.push((format!("{base}.weight"), Source::Layer { base }, shape));
            }
            "rb_h" | "rb_bits" => {}
            "weight" if binary => {}
            _ => {
                let shape = checkpoint.info(name).map(|info| info.shape);
                out.push((name.to_string(), Source::Dense, shape.unwrap_or_default()));
            }
        }
    }
    Ok(out)
}

/// The dense weight that a residual-binary layer amounts to.
fn effective(checkpoint: &Checkpoint, base: &str) -> Result<Tensor, TrainError> {
    let load = |part: &str| checkpoint.load(&format!("{base}.{part}"));
    let (g, h) = (load("rb_g")?, load("rb_h")?);
    let shape = [g.shape[0], g.shape[1], h.shape[1]];
    let (g, h) = (g.floats().to_vec(), h.floats().to_vec());
    let values = match checkpoint.info(&format!("{base}.rb_bits")) {
        Some(_) => LayerValues {
            shape,
            g,
            h,
            bits: load("rb_bits")?.raw().to_vec(),
        },
        None => {
            let weight = load("weight")?;
            LayerValues::new(Derive::Residual, g, h, &[weight.floats()], shape[0])
        }
    };
    Ok(Tensor::f32(&shape[1..], values.effective()))
}

/// Lets the configuration name the type of the tensors.
fn set_dtype(path: &Path, dtype: DType) -> Result<(), TrainError> {
    let text = fs::read_to_string(path).map_err(TrainError::io(path))?;
    let bad = |e: serde_json::Error| TrainError::file(path, e.to_string());
    let mut config: Value = serde_json::from_str(&text).map_err(bad)?;
    let name = match dtype {
        DType::BF16 => "bfloat16",
        DType::F16 => "float16",
        _ => "float32",
    };
    for key in ["dtype", "torch_dtype"] {
        if let Some(value) = config.get_mut(key) {
            *value = name.into();
        }
    }
    write_text(path, &format!("{config:#}\n"))
}
