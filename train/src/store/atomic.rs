//! Files that are there complete or not at all.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;

use rabitc_files::AtomicFile;
use rabitc_ir::DType;
use rabitc_ir::types::storage_bytes;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use crate::error::TrainError;

/// What the names of unfinished files begin with.
pub(super) const UNFINISHED: &str = ".unfinished-";

/// Begins to write what will be `target`, under a temporary name that the next run in the folder
/// recognises.
fn unfinished(target: &Path) -> Result<AtomicFile, TrainError> {
    let mut name = OsString::from(UNFINISHED);
    name.push(target.file_name().unwrap_or_default());
    let file = AtomicFile::create_as(target, &target.with_file_name(name));
    file.map_err(TrainError::io(target))
}

/// Writes a small text file.
pub fn write_text(target: &Path, text: &str) -> Result<(), TrainError> {
    let mut file = unfinished(target)?;
    let written = file.write_all(text.as_bytes());
    written
        .and_then(|()| file.finish())
        .map_err(TrainError::io(target))
}

/// A tensor of a file that is to be written: name, type, shape.
pub type Entry = (String, DType, Vec<usize>);

/// A safetensors file that is written tensor by tensor, in the order of its header.
pub struct Tensors {
    file: AtomicFile,
    /// What is still to be written, last first, with its bytes.
    pending: Vec<(String, usize)>,
}

impl Tensors {
    /// Writes the header of a file with these tensors.
    pub fn create(
        target: &Path,
        entries: &[Entry],
        metadata: HashMap<String, String>,
    ) -> Result<Tensors, TrainError> {
        let (mut infos, mut pending, mut begin) = (Vec::new(), Vec::new(), 0usize);
        for (name, dtype, shape) in entries {
            let bad = || TrainError::file(target, format!("the size of `{name}` overflows"));
            let bytes = storage_bytes(*dtype, shape).ok_or_else(bad)?;
            let end = begin.checked_add(bytes).ok_or_else(bad)?;
            let (dtype, shape) = stored(*dtype, shape);
            let data_offsets = (begin, end);
            let info = TensorInfo {
                dtype,
                shape,
                data_offsets,
            };
            infos.push((name.clone(), info));
            pending.push((name.clone(), bytes));
            begin = end;
        }
        pending.reverse();
        let invalid = |e: String| TrainError::file(target, e);
        let header = Metadata::new(Some(metadata), infos).map_err(|e| invalid(e.to_string()))?;
        // In the order of names: the same tensors make the same file.
        let mut header = serde_json::to_value(&header).map_err(|e| invalid(e.to_string()))?;
        header.sort_all_objects();
        let mut json = header.to_string().into_bytes();
        json.resize(json.len().next_multiple_of(8), b' ');
        let mut tensors = Tensors {
            file: unfinished(target)?,
            pending,
        };
        tensors.write(&(json.len() as u64).to_le_bytes())?;
        tensors.write(&json)?;
        Ok(tensors)
    }

    /// Writes the next tensor, which must be `name`.
    pub fn tensor(&mut self, name: &str, bytes: &[u8]) -> Result<(), TrainError> {
        match self.pending.pop() {
            Some((expected, size)) if expected == name && size == bytes.len() => self.write(bytes),
            expected => {
                let found = bytes.len();
                let reason = format!("`{name}` has {found} bytes, expected {expected:?}");
                Err(TrainError::file(self.file.target(), reason))
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), TrainError> {
        let written = self.file.write_all(bytes);
        written.map_err(|e| TrainError::io(self.file.target())(e))
    }

    /// Puts the file in place.
    pub fn finish(self) -> Result<(), TrainError> {
        match self.pending.last() {
            None => {
                let target = self.file.target().to_path_buf();
                self.file.finish().map_err(TrainError::io(&target))
            }
            Some((name, _)) => {
                let reason = format!("`{name}` was not written");
                Err(TrainError::file(self.file.target(), reason))
            }
        }
    }
}

/// Type and shape in the file: signs are stored eight to a byte.
fn stored(dtype: DType, shape: &[usize]) -> (Dtype, Vec<usize>) {
    let mut shape = shape.to_vec();
    let dtype = match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I32 => Dtype::I32,
        DType::I8 => Dtype::I8,
        DType::U8 => Dtype::U8,
        DType::Bit => {
            if let Some(last) = shape.last_mut() {
                *last = last.div_ceil(8);
            }
            Dtype::U8
        }
    };
    (dtype, shape)
}
