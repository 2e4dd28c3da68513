//! Reading checkpoints: safetensors files through a memory map, and the small files beside them.
//!
//! Nothing here knows what a model is, and nothing here reads a tensor before it is asked for.

mod header;
mod locate;
mod shard;
pub(crate) mod side;
mod store;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use safetensors::Dtype;

use self::locate::Index;
use self::shard::Shard;
pub use self::side::{SideFiles, TokenizerSettings};
pub(crate) use self::store::{BITS, INPUT_SCALES, OUTPUT_SCALES, dtype};
use crate::error::Error;

/// Element type and shape of a stored tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type, as the file names it.
    pub dtype: Dtype,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
}

/// A checkpoint: its tensors by name, whichever file each is in, and its side files.
///
/// The files are mapped, not read. They must not be changed while the checkpoint is open: a file
/// that another process shortens meanwhile ends this one.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    shards: Vec<Shard>,
    /// Shard number by tensor name.
    tensors: BTreeMap<String, usize>,
}

impl Checkpoint {
    /// Opens a folder, a `.safetensors` file or a `.safetensors.index.json`.
    ///
    /// Headers and index are checked in full: every tensor lies inside its file, no tensor is in
    /// two files, the index and the files agree.
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint, Error> {
        let files = locate::locate(path.as_ref())?;
        let shards = files
            .shards
            .iter()
            .map(|p| Shard::open(p))
            .collect::<Result<Vec<_>, _>>()?;
        let tensors = gather(&shards)?;
        if let Some(index) = &files.index {
            check_index(index, &shards, &tensors)?;
        }
        Ok(Checkpoint {
            folder: files.folder,
            shards,
            tensors,
        })
    }

    /// The folder that holds `config.json` and the other side files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `config.json` of this checkpoint.
    pub fn config_path(&self) -> PathBuf {
        self.folder.join("config.json")
    }

    /// The tokenizer and other small files.
    pub fn side(&self) -> SideFiles {
        SideFiles::new(&self.folder)
    }

    /// The safetensors files, in order of their names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(|s| s.path.as_path())
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Element type and shape of a tensor, as stored.
    pub fn info(&self, name: &str) -> Option<TensorInfo> {
        let entry = self.shard(name)?.header.tensors.get(name)?;
        Some(TensorInfo {
            dtype: entry.dtype,
            shape: entry.shape.clone(),
        })
    }

    /// The bytes of a tensor as stored: little endian, row-major, not checked for NaN.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        self.shard(name)?.bytes(name)
    }

    /// The file that holds a tensor.
    pub fn file_of(&self, name: &str) -> Option<&Path> {
        self.shard(name).map(|s| s.path.as_path())
    }

    /// What `__metadata__` of the first file says.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &str)> {
        let metadata = self.shards.first().map(|s| &s.header.metadata);
        metadata
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Bytes of all tensors together.
    pub fn total_bytes(&self) -> u64 {
        let bytes = |name: &str| self.bytes(name).map_or(0, |b| b.len() as u64);
        self.names().map(bytes).sum()
    }

    fn release_pages(&self, name: &str) {
        if let Some(shard) = self.shard(name) {
            shard.release(name);
        }
    }

    fn shard(&self, name: &str) -> Option<&Shard> {
        self.tensors.get(name).map(|&i| &self.shards[i])
    }
}

/// Every tensor's shard; a tensor that is in two shards is refused.
fn gather(shards: &[Shard]) -> Result<BTreeMap<String, usize>, Error> {
    let mut tensors = BTreeMap::new();
    for (number, shard) in shards.iter().enumerate() {
        for name in shard.header.tensors.keys() {
            if let Some(other) = tensors.insert(name.clone(), number) {
                let reason = format!("is also in {}", shards[other].file_name());
                return Err(Error::tensor(&shard.path, name, reason));
            }
        }
    }
    Ok(tensors)
}

/// The index must name every tensor of the shards, in the shard it is in, and no others.
fn check_index(
    index: &Index,
    shards: &[Shard],
    tensors: &BTreeMap<String, usize>,
) -> Result<(), Error> {
    for (name, file) in &index.weight_map {
        let found = tensors.get(name).map(|&i| shards[i].file_name());
        if found != Some(file.as_str()) {
            let is = found.map_or("in no shard".to_string(), |f| format!("in {f}"));
            let reason = format!("the index says it is in {file}, but it is {is}");
            return Err(Error::tensor(&index.path, name, reason));
        }
    }
    for (name, &shard) in tensors {
        if !index.weight_map.contains_key(name) {
            let reason = format!("is in {} but not in the index", shards[shard].file_name());
            return Err(Error::tensor(&index.path, name, reason));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
