//! One mapped safetensors file.

use std::fs::File;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;

use super::header::Header;
use crate::error::Error;

/// A safetensors file in memory, its header checked against its length.
#[derive(Debug)]
pub(crate) struct Shard {
    pub path: PathBuf,
    pub header: Header,
    map: Mmap,
}

impl Shard {
    /// Maps the file and checks its header.
    pub fn open(path: &Path) -> Result<Shard, Error> {
        if !std::fs::metadata(path).map_err(Error::io(path))?.is_file() {
            return Err(Error::file(path, "not a regular file"));
        }
        let file = File::open(path).map_err(Error::io(path))?;
        // SAFETY: the map is read-only and lives as long as the `Shard`. The one thing Rust cannot
        // rule out, another process shortening or rewriting the file while it is mapped, is the
        // known limit of every memory-mapped reader and is stated at `Checkpoint`.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
        let header = Header::parse(&map).map_err(|e| match e.tensor {
            Some(tensor) => Error::tensor(path, &tensor, e.reason),
            None => Error::file(path, e.reason),
        })?;
        Ok(Shard {
            path: path.to_path_buf(),
            header,
            map,
        })
    }

    /// The bytes of a tensor of this file.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        let (begin, end) = self.header.tensors.get(name)?.data_offsets;
        self.map[self.header.data_start..].get(begin..end)
    }

    /// Gives the memory of a tensor's pages back to the system; reading them again maps them
    /// again. Elsewhere than on Unix nothing happens.
    pub fn release(&self, name: &str) {
        #[cfg(unix)]
        if let Some(entry) = self.header.tensors.get(name) {
            let (begin, end) = entry.data_offsets;
            let start = self.header.data_start + begin;
            // SAFETY: the map is a read-only view of a file, so pages that are dropped are read
            // from the file again when they are touched; no data of this process is in them.
            let advice = unsafe {
                self.map
                    .unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - begin)
            };
            // Advice that the system does not take costs memory, nothing else.
            let _ = advice;
        }
    }

    /// The file's name, without its folder.
    pub fn file_name(&self) -> &str {
        self.path.file_name().and_then(|n| n.to_str()).unwrap_or("")
    }
}
