//! Files that are there complete or not at all.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use rabitc_ir::DType;
use rabitc_ir::types::storage_bytes;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use crate::error::TrainError;

/// What the names of unfinished files begin with.
pub(super) const UNFINISHED: &str = ".unfinished-";

/// A file under a temporary name, which is removed unless [`AtomicFile::finish`] renames it.
pub struct AtomicFile {
    target: PathBuf,
    path: PathBuf,
    writer: Option<BufWriter<File>>,
}

impl AtomicFile {
    /// Begins to write what will be `target`.
    pub fn create(target: &Path) -> Result<AtomicFile, TrainError> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let path = target.with_file_name(format!("{UNFINISHED}{name}"));
        let file = File::create(&path).map_err(TrainError::io(&path))?;
        Ok(AtomicFile {
            target: target.to_path_buf(),
            path,
            writer: Some(BufWriter::with_capacity(1 << 20, file)),
        })
    }

    /// Writes on.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), TrainError> {
        match &mut self.writer {
            Some(writer) => writer
                .write_all(bytes)
                .map_err(TrainError::io(&self.target)),
            None => Ok(()),
        }
    }

    /// Puts the file in place: its content is on the disk before it has its name.
    pub fn finish(mut self) -> Result<(), TrainError> {
        let Some(writer) = self.writer.take() else {
            return Ok(());
        };
        let synced = writer
            .into_inner()
            .map_err(|e| e.into_error())
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&self.path, &self.target));
        if synced.is_err() {
            let _ = fs::remove_file(&self.path);
        }
        synced.map_err(TrainError::io(&self.target))?;
        sync_folder(&self.target)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if self.writer.is_some() {
            // Nothing can be done about a file that cannot be removed; the next run tries again.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes the names in the folder of `path` last.
fn sync_folder(path: &Path) -> Result<(), TrainError> {
    #[cfg(unix)]
    if let Some(folder) = path.parent() {
        let folder = match folder.as_os_str().is_empty() {
            true => Path::new("."),
            false => folder,
        };
        let synced = File::open(folder).and_then(|f| f.sync_all());
        synced.map_err(TrainError::io(folder))?;
    }
    Ok(())
}

/// Writes a small text file.
pub fn write_text(target: &Path, text: &str) -> Result<(), TrainError> {
    let mut file = AtomicFile::create(target)?;
    file.write(text.as_bytes())?;
    file.finish()
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
        let mut file = AtomicFile::create(target)?;
        file.write(&(json.len() as u64).to_le_bytes())?;
        file.write(&json)?;
        Ok(Tensors { file, pending })
    }

    /// Writes the next tensor, which must be `name`.
    pub fn tensor(&mut self, name: &str, bytes: &[u8]) -> Result<(), TrainError> {
        match self.pending.pop() {
            Some((expected, size)) if expected == name && size == bytes.len() => {
                self.file.write(bytes)
            }
            expected => {
                let found = bytes.len();
                let reason = format!("`{name}` has {found} bytes, expected {expected:?}");
                Err(TrainError::file(&self.file.target, reason))
            }
        }
    }

    /// Puts the file in place.
    pub fn finish(self) -> Result<(), TrainError> {
        match self.pending.last() {
            None => self.file.finish(),
            Some((name, _)) => {
                let reason = format!("`{name}` was not written");
                Err(TrainError::file(&self.file.target, reason))
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
