//! Writes artifacts: streaming, to a temporary file that is renamed at the end.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use rabitc_files::AtomicFile;
use serde_json::json;

use crate::error::Error;
use crate::manifest::Manifest;
use crate::{ALIGNMENT, HASH_KEY, MANIFEST_KEY, PAD_PREFIX, PAGE};

/// Produces the bytes of one tensor when its turn comes.
pub type Produce<'a> = Box<dyn FnOnce() -> Result<Vec<u8>, String> + 'a>;

/// One tensor to be written.
pub struct Entry<'a> {
    /// Its name.
    pub name: String,
    /// Its element type as safetensors names it, e.g. `F16`.
    pub dtype: &'static str,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its size in bytes, known before its contents are.
    pub bytes: usize,
    /// Its contents.
    pub produce: Produce<'a>,
}

/// Where one tensor lies in the data section.
struct Placed {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    begin: usize,
    end: usize,
}

/// 64 zeros: stands for a hash while it is not known, and in the header that the header's own
/// hash is taken of.
pub(crate) const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Writes an artifact of `entries`, in order, to `path`. `manifest.hashes` is filled in here.
/// `progress` is called with the bytes of each finished tensor. Nothing is left behind, and a
/// previous file at `path` stays untouched, if anything fails.
///
/// # Errors
/// What the system refuses, or a tensor that cannot be produced.
pub fn write(
    path: &Path,
    mut manifest: Manifest,
    entries: Vec<Entry<'_>>,
    progress: &mut dyn FnMut(usize),
) -> Result<Manifest, Error> {
    let io = |e| Error::io(path, e);
    let placed = place(&entries);
    for entry in &entries {
        let hash = NO_HASH.to_string();
        manifest.hashes.insert(entry.name.clone(), hash);
    }
    let header_len = header(&manifest, &placed, NO_HASH).len();
    let mut out = AtomicFile::create(path).map_err(io)?;
    out.write_all(&vec![0; 8 + header_len]).map_err(io)?;
    for entry in entries {
        let bytes = (entry.produce)().map_err(|reason| Error::Tensor {
            name: entry.name.clone(),
            reason,
        })?;
        if bytes.len() != entry.bytes {
            return Err(Error::Tensor {
                reason: format!("has {} bytes, expected {}", bytes.len(), entry.bytes),
                name: entry.name,
            });
        }
        let hash = blake3::hash(&bytes).to_hex().to_string();
        manifest.hashes.insert(entry.name, hash);
        out.write_all(&bytes).map_err(io)?;
        let pad = bytes.len().next_multiple_of(ALIGNMENT) - bytes.len();
        out.write_all(&[0; ALIGNMENT][..pad]).map_err(io)?;
        progress(bytes.len());
    }
    out.seek(SeekFrom::Start(0)).map_err(io)?;
    let unsigned = header(&manifest, &placed, NO_HASH);
    let hash = blake3::hash(unsigned.as_bytes()).to_hex().to_string();
    let header = header(&manifest, &placed, &hash);
    debug_assert_eq!(header.len(), header_len);
    out.write_all(&(header.len() as u64).to_le_bytes())
        .map_err(io)?;
    out.write_all(header.as_bytes()).map_err(io)?;
    out.finish().map_err(io)?;
    Ok(manifest)
}

/// Puts the tensors one after the other, with filler tensors between them: safetensors allows no
/// holes, and every tensor is to start at a multiple of [`ALIGNMENT`].
fn place(entries: &[Entry<'_>]) -> Vec<Placed> {
    let mut placed = Vec::new();
    let mut at = 0;
    for (i, entry) in entries.iter().enumerate() {
        let end = at + entry.bytes;
        placed.push(Placed {
            name: entry.name.clone(),
            dtype: entry.dtype,
            shape: entry.shape.clone(),
            begin: at,
            end,
        });
        at = end.next_multiple_of(ALIGNMENT);
        if at > end {
            placed.push(Placed {
                name: format!("{PAD_PREFIX}{i}"),
                dtype: "U8",
                shape: vec![at - end],
                begin: end,
                end: at,
            });
        }
    }
    placed
}

/// The safetensors header, padded with spaces so that the data starts on a page.
fn header(manifest: &Manifest, placed: &[Placed], hash: &str) -> String {
    let manifest = serde_json::to_string(manifest).expect("a manifest has string keys only");
    let metadata = json!({ MANIFEST_KEY: manifest, HASH_KEY: hash });
    let mut out = format!("{{\"__metadata__\":{metadata}");
    for t in placed {
        let entry = json!({
            "dtype": t.dtype, "shape": t.shape, "data_offsets": [t.begin, t.end],
        });
        out.push_str(&format!(",{}:{entry}", json!(t.name)));
    }
    out.push('}');
    let padded = (8 + out.len()).next_multiple_of(PAGE) - 8;
    out.extend(std::iter::repeat_n(' ', padded - out.len()));
    out
}
