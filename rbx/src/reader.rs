//! Reads artifacts: maps the file and checks it before anything in it is believed.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::SafeTensors;

use crate::error::Error;
use crate::manifest::Manifest;
use crate::plan::{Arg, Host, Work};
use crate::writer::NO_HASH;
use crate::{FORMAT, GRAPH, HASH_KEY, MANIFEST_KEY, PAD_PREFIX, SECTION_PREFIX};

/// Where and what one tensor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Element type as safetensors names it.
    pub dtype: String,
    /// Shape.
    pub shape: Vec<usize>,
    range: Range<usize>,
}

/// An open artifact.
pub struct Artifact {
    path: PathBuf,
    map: Mmap,
    manifest: Manifest,
    tensors: BTreeMap<String, Tensor>,
}

impl Artifact {
    /// Maps `path`, checks the header's hash, the manifest, and every reference in the plan, and
    /// the hashes of everything but weights. [`Artifact::check`] checks the weights too.
    pub fn open(path: &Path) -> Result<Artifact, Error> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        if !file.metadata().map_err(|e| Error::io(path, e))?.is_file() {
            return Err(Error::invalid(path, "is not a file"));
        }
        // SAFETY: the map is read-only. Another program that truncates the file while it is
        // mapped makes reads fault, as for every mapped file; artifacts are replaced by renaming.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        let invalid = |reason: String| Error::invalid(path, reason);
        let (header_len, metadata) = SafeTensors::read_metadata(&map)
            .map_err(|e| invalid(format!("not a safetensors file, or damaged: {e}")))?;
        let header = &map[8..8 + header_len];
        let values = metadata.metadata().clone().unwrap_or_default();
        let text = values
            .get(MANIFEST_KEY)
            .ok_or_else(|| invalid("a safetensors file, but no .rbx artifact".into()))?;
        check_header(header, values.get(HASH_KEY)).map_err(invalid)?;
        let manifest: Manifest =
            serde_json::from_str(text).map_err(|e| invalid(format!("manifest: {e}")))?;
        if manifest.format != FORMAT {
            let found = manifest.format;
            return Err(invalid(format!(
                "is of format {found}, this program reads format {FORMAT}"
            )));
        }
        let start = 8 + header_len;
        let tensors = metadata
            .tensors()
            .into_iter()
            .map(|(name, info)| {
                let (begin, end) = info.data_offsets;
                let tensor = Tensor {
                    dtype: format!("{:?}", info.dtype),
                    shape: info.shape.clone(),
                    range: start + begin..start + end,
                };
                (name, tensor)
            })
            .collect();
        let artifact = Artifact {
            path: path.to_path_buf(),
            map,
            manifest,
            tensors,
        };
        artifact.check_references().map_err(invalid)?;
        artifact.check_matching(|name| name.starts_with(SECTION_PREFIX))?;
        Ok(artifact)
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size of the file in bytes.
    pub fn file_bytes(&self) -> usize {
        self.map.len()
    }

    /// Names and shapes of the tensors, filler left out.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        let all = self.tensors.iter().map(|(n, t)| (n.as_str(), t));
        all.filter(|(n, _)| !n.starts_with(PAD_PREFIX))
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<(&Tensor, &[u8])> {
        let tensor = self.tensors.get(name)?;
        Some((tensor, &self.map[tensor.range.clone()]))
    }

    /// The bytes of a tensor or section.
    pub fn bytes(&self, name: &str) -> Result<&[u8], Error> {
        let found = self.tensor(name).map(|(_, bytes)| bytes);
        found.ok_or_else(|| Error::invalid(&self.path, format!("has no tensor `{name}`")))
    }

    /// A section that is text.
    pub fn text(&self, name: &str) -> Result<&str, Error> {
        std::str::from_utf8(self.bytes(name)?)
            .map_err(|e| Error::invalid(&self.path, format!("`{name}` is not text: {e}")))
    }

    /// The graph after all passes.
    pub fn graph(&self) -> Result<&str, Error> {
        self.text(GRAPH)
    }

    /// Checks the hash of every tensor and that all filler is zero.
    pub fn check(&self) -> Result<(), Error> {
        self.check_matching(|_| true)
    }

    fn check_matching(&self, wanted: impl Fn(&str) -> bool) -> Result<(), Error> {
        for (name, tensor) in self.tensors.iter().filter(|(n, _)| wanted(n)) {
            let bytes = &self.map[tensor.range.clone()];
            let intact = if name.starts_with(PAD_PREFIX) {
                bytes.iter().all(|b| *b == 0)
            } else {
                let hash = blake3::hash(bytes).to_hex();
                self.manifest.hashes.get(name).map(String::as_str) == Some(hash.as_str())
            };
            if !intact {
                let reason = format!("is damaged: the hash of `{name}` does not match");
                return Err(Error::invalid(&self.path, reason));
            }
        }
        Ok(())
    }

    /// Everything that the plan and the kernel table refer to exists.
    fn check_references(&self) -> Result<(), String> {
        let kernels = &self.manifest.kernels;
        for target in &self.manifest.targets {
            let section = self.tensors.get(&target.section);
            let section = section.ok_or(format!("has no code section `{}`", target.section))?;
            if target.entries.len() != kernels.len() {
                return Err(format!("target {}: kernels are missing", target.level));
            }
            if let Some(entry) = target.entries.iter().find(|e| **e >= section.range.len()) {
                return Err(format!("target {}: no code at {entry}", target.level));
            }
        }
        let section = |name: &str| self.tensors.get(name).map(|t| t.range.clone());
        for target in &self.manifest.gpus {
            crate::gpu_check::check(target, &self.manifest.model, &section)?;
        }
        let steps = self.manifest.programs.iter().map(|p| p.steps.len());
        let gpus = self.manifest.gpus.iter().flat_map(|g| &g.programs);
        let steps = steps.chain(gpus.map(|p| p.steps.len()));
        if self.manifest.model.n_layers > steps.max().unwrap_or(0) {
            return Err("has more layers than steps".into());
        }
        for program in &self.manifest.programs {
            let mut phase = 0;
            for step in &program.steps {
                let at =
                    |reason: String| format!("{} step `{}`: {reason}", program.name, step.node);
                if step.phase < phase {
                    return Err(at("phases are out of order".into()));
                }
                phase = step.phase;
                self.check_work(&step.work, program.arena_bytes)
                    .map_err(at)?;
            }
            let vocab = self.manifest.model.vocab_size;
            let logits = program
                .max_tokens
                .checked_mul(vocab)
                .and_then(|n| n.checked_mul(4));
            let end = logits.and_then(|n| n.checked_add(program.logits));
            if end.is_none_or(|end| end > program.arena_bytes) {
                return Err(format!("{}: logits lie outside the arena", program.name));
            }
        }
        Ok(())
    }

    fn check_work(&self, work: &Work, arena: usize) -> Result<(), String> {
        let check = |arg: &Arg| match arg {
            Arg::Arena(offset) if *offset >= arena.max(1) => {
                Err(format!("offset {offset} is outside the arena"))
            }
            Arg::Weight(name) if !self.tensors.contains_key(name) => {
                Err(format!("has no tensor `{name}`"))
            }
            _ => Ok(()),
        };
        match work {
            Work::Host(Host::RopeTable { out, .. }) => check(out),
            Work::Kernel {
                kernel,
                args,
                scalars,
                ..
            } => {
                let kernels = &self.manifest.kernels;
                let kernel = kernels.get(*kernel).ok_or("no such kernel")?;
                if (kernel.params.len(), kernel.scalars.len()) != (args.len(), scalars.len()) {
                    return Err(format!("arguments do not fit kernel {}", kernel.name));
                }
                args.iter().try_for_each(check)
            }
        }
    }
}

/// The header's hash is taken with its own place filled with zeros.
fn check_header(header: &[u8], hash: Option<&String>) -> Result<(), String> {
    let damaged = || "is damaged: the header's hash does not match".to_string();
    let hash = hash
        .filter(|h| h.len() == NO_HASH.len())
        .ok_or_else(damaged)?;
    let text = std::str::from_utf8(header).map_err(|_| damaged())?;
    let place = format!("\"{HASH_KEY}\":\"{hash}\"");
    let at = text.find(&place).ok_or_else(damaged)?;
    let start = at + place.len() - 1 - hash.len();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&header[..start]);
    hasher.update(NO_HASH.as_bytes());
    hasher.update(&header[start + hash.len()..]);
    match hasher.finalize().to_hex().as_str() == hash {
        true => Ok(()),
        false => Err(damaged()),
    }
}
