//! Writing a planned checkpoint: a folder under a temporary name, filled file by file, renamed
//! when it is complete.

use std::cmp::Reverse;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use rabitc_files::AtomicFolder;
use serde_json::{Map, json};

use super::fill::{Filler, Quantiles};
use super::plan::Planned;
use super::{SynthOptions, SynthProgress, SynthReport};
use crate::error::Error;

/// Bytes produced at a time.
const BLOCK: usize = 1 << 20;

/// Writes the tensors of `plan` and a copy of the configuration to the folder `out`.
pub(super) fn write(
    plan: &[Planned],
    config: &str,
    out: &Path,
    options: &SynthOptions,
    progress: &mut dyn FnMut(SynthProgress<'_>),
) -> Result<SynthReport, Error> {
    let folder = AtomicFolder::create(out).map_err(Error::io(out))?;
    let shards = split(plan, options.max_shard_bytes);
    let mut writer = Writer {
        seed: options.seed,
        quantiles: Quantiles::new(),
        written: 0,
        total: plan.iter().map(|t| t.bytes).sum(),
        progress,
    };
    let files = writer.fill(&folder, config, &shards);
    files.map_err(|error| in_place(error, &folder))?;
    let total = writer.total;
    folder.finish().map_err(Error::io(out))?;
    Ok(SynthReport {
        tensors: plan.len(),
        files: shards.len(),
        bytes: total,
    })
}

/// An error that names a file where the user looks for it, not by its temporary name.
fn in_place(error: Error, folder: &AtomicFolder) -> Error {
    match error {
        Error::Io { path, source } => Error::Io {
            path: folder.in_place(&path),
            source,
        },
        error => error,
    }
}

/// Cuts the plan into files of at most `limit` bytes, or of one tensor.
fn split(plan: &[Planned], limit: u64) -> Vec<Vec<&Planned>> {
    let mut shards: Vec<Vec<&Planned>> = Vec::new();
    let mut size = 0u64;
    for tensor in plan {
        let fits = size.checked_add(tensor.bytes).is_some_and(|n| n <= limit);
        match shards.last_mut() {
            Some(shard) if fits => shard.push(tensor),
            _ => {
                shards.push(vec![tensor]);
                size = 0;
            }
        }
        size = size.saturating_add(tensor.bytes);
    }
    for shard in &mut shards {
        // Wider elements first, so that every tensor is aligned to its own element.
        shard.sort_by_key(|t| Reverse(t.dtype.bitsize()));
    }
    shards
}

fn file_name(number: usize, of: usize) -> String {
    match of {
        1 => "model.safetensors".to_string(),
        _ => format!("model-{:05}-of-{of:05}.safetensors", number + 1),
    }
}

fn write_file(folder: &AtomicFolder, name: &str, text: &str) -> Result<(), Error> {
    let path = folder.path().join(name);
    let written = folder
        .file(name)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(Error::io(&path))
}

/// The length and the JSON of a safetensors header, padded so that data starts at a multiple
/// of 8.
fn header(tensors: &[&Planned]) -> Vec<u8> {
    let mut map = Map::new();
    map.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut begin = 0u64;
    for t in tensors {
        let end = begin + t.bytes;
        let entry =
            json!({"dtype": t.dtype.to_string(), "shape": t.shape, "data_offsets": [begin, end]});
        map.insert(t.name.clone(), entry);
        begin = end;
    }
    let mut json = serde_json::Value::Object(map).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut out = (json.len() as u64).to_le_bytes().to_vec();
    out.extend(json);
    out
}

struct Writer<'a> {
    seed: u64,
    quantiles: Quantiles,
    written: u64,
    total: u64,
    progress: &'a mut dyn FnMut(SynthProgress<'_>),
}

impl Writer<'_> {
    /// Writes all files of the checkpoint to `folder`.
    fn fill(
        &mut self,
        folder: &AtomicFolder,
        config: &str,
        shards: &[Vec<&Planned>],
    ) -> Result<(), Error> {
        let mut map = Map::new();
        for (i, shard) in shards.iter().enumerate() {
            let name = file_name(i, shards.len());
            self.shard(folder, &name, shard)?;
            map.extend(shard.iter().map(|t| (t.name.clone(), json!(name))));
        }
        if shards.len() > 1 {
            let index = json!({"metadata": {"total_size": self.total}, "weight_map": map});
            let text = format!("{index:#}\n");
            write_file(folder, "model.safetensors.index.json", &text)?;
        }
        write_file(folder, "config.json", config)
    }

    fn shard(
        &mut self,
        folder: &AtomicFolder,
        name: &str,
        tensors: &[&Planned],
    ) -> Result<(), Error> {
        let path = folder.path().join(name);
        let mut file = folder.file(name).map_err(Error::io(&path))?;
        file.write_all(&header(tensors)).map_err(Error::io(&path))?;
        for tensor in tensors {
            self.tensor(&mut file, &path, tensor)?;
        }
        file.flush().map_err(Error::io(&path))
    }

    fn tensor(&mut self, file: &mut File, path: &Path, tensor: &Planned) -> Result<(), Error> {
        let mut filler = Filler::new(&tensor.fill, self.seed, &tensor.name);
        let mut block = vec![0; filler.block(BLOCK)];
        let mut left = tensor.bytes;
        while left > 0 {
            let n = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            filler.next(&mut block[..n], &mut self.quantiles);
            file.write_all(&block[..n]).map_err(Error::io(path))?;
            left -= n as u64;
            self.written += n as u64;
            (self.progress)(SynthProgress {
                tensor: &tensor.name,
                written: self.written,
                total: self.total,
            });
        }
        Ok(())
    }
}
