//! From what the user names to the files of a checkpoint: a folder, one `.safetensors` file, or
//! an index of shards.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use super::side::{INDEX_LIMIT, read_limited};
use crate::error::Error;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The files of a checkpoint.
#[derive(Debug)]
pub(crate) struct Files {
    /// The folder that holds config.json and the side files.
    pub folder: PathBuf,
    /// The safetensors files, sorted by name.
    pub shards: Vec<PathBuf>,
    /// Which shard the index says each tensor is in; `None` without an index.
    pub index: Option<Index>,
}

/// A parsed `model.safetensors.index.json`.
#[derive(Debug)]
pub(crate) struct Index {
    pub path: PathBuf,
    /// Shard file name by tensor name.
    pub weight_map: BTreeMap<String, String>,
}

/// Finds the files of the checkpoint that `path` names.
pub(crate) fn locate(path: &Path) -> Result<Files, Error> {
    let meta = std::fs::metadata(path).map_err(Error::io(path))?;
    if meta.is_dir() {
        return locate_in_folder(path);
    }
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
    if name.ends_with(".index.json") {
        with_index(path)
    } else if name.ends_with(".safetensors") {
        refuse_lone_shard(path, name)?;
        Ok(Files {
            folder: parent(path),
            shards: vec![path.to_path_buf()],
            index: None,
        })
    } else {
        Err(Error::file(
            path,
            "not a checkpoint: expected a folder, a .safetensors file or a .safetensors.index.json",
        ))
    }
}

fn locate_in_folder(folder: &Path) -> Result<Files, Error> {
    let single = folder.join(SINGLE);
    if single.exists() {
        return Ok(Files {
            folder: folder.to_path_buf(),
            shards: vec![single],
            index: None,
        });
    }
    let index = folder.join(INDEX);
    if index.exists() {
        return with_index(&index);
    }
    let reason = format!("holds neither {SINGLE} nor {INDEX}");
    Err(Error::file(folder, reason))
}

/// One shard of several holds only a part of the model; the index beside it names the rest.
fn refuse_lone_shard(path: &Path, name: &str) -> Result<(), Error> {
    let sharded = name.contains("-of-") && !name.contains("-00001-of-00001");
    let index = parent(path).join(INDEX);
    if sharded && index.exists() {
        let reason = format!("is one shard of several; name the folder or {INDEX} instead");
        return Err(Error::file(path, reason));
    }
    Ok(())
}

fn with_index(path: &Path) -> Result<Files, Error> {
    #[derive(serde::Deserialize)]
    struct Raw {
        weight_map: BTreeMap<String, String>,
    }
    let text = read_limited(path, INDEX_LIMIT)?;
    let raw: Raw = serde_json::from_str(&text)
        .map_err(|e| Error::file(path, format!("not a safetensors index: {e}")))?;
    if raw.weight_map.is_empty() {
        return Err(Error::file(path, "the weight_map is empty"));
    }
    let folder = parent(path);
    let mut names: Vec<_> = raw.weight_map.values().collect();
    names.sort();
    names.dedup();
    let shards = names
        .into_iter()
        .map(|name| shard_path(path, &folder, name))
        .collect::<Result<_, _>>()?;
    Ok(Files {
        folder,
        shards,
        index: Some(Index {
            path: path.to_path_buf(),
            weight_map: raw.weight_map,
        }),
    })
}

/// A shard must be a plain file name beside the index, so that no index can reach elsewhere.
fn shard_path(index: &Path, folder: &Path, name: &str) -> Result<PathBuf, Error> {
    let mut parts = Path::new(name).components();
    let plain = matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(part)), None) if part == name
    );
    if !plain || name.contains(['/', '\\', '\0']) || !name.ends_with(".safetensors") {
        let reason = format!("shard name `{name}` is not a .safetensors file beside the index");
        return Err(Error::file(index, reason));
    }
    let path = folder.join(name);
    if !path.is_file() {
        let reason = format!("names the shard `{name}`, which does not exist");
        return Err(Error::file(index, reason));
    }
    Ok(path)
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_path_buf(),
        _ => PathBuf::from("."),
    }
}
