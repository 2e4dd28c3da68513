//! The file that keeps measurements: every candidate of every shape, of every machine.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use rabitc_files::AtomicFile;
use rabitc_ir::layout::MAX_ROW_TILES;
use rabitc_ir::ops::residual_binary::Activations;
use rabitc_passes::tiles::LayerShape;
use serde::{Deserialize, Serialize};

pub use super::gpu::entry::GpuEntry;
use super::host::Host;

/// Version of the file's form.
const FORMAT: u32 = 1;
/// No cache is longer.
const LIMIT: u64 = 64 << 20;

/// All measurements of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cache {
    /// Version of the form.
    format: u32,
    /// One a machine and shape.
    pub entries: Vec<Entry>,
    /// One a GPU and product.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GpuEntry>,
}

/// The candidates of one shape on one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// What the times depend on besides the shape.
    #[serde(flatten)]
    pub host: Host,
    /// The shape.
    pub shape: Shape,
    /// Every candidate, the slow ones too.
    pub candidates: Vec<Candidate>,
}

/// A [`LayerShape`] in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    d_in: usize,
    segments: Vec<usize>,
    paths: usize,
    activations: String,
}

/// The times of one choice of tiles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Tiles in a row block.
    pub row_tiles: usize,
    /// The product of one token.
    pub decode: Timing,
    /// Signs read in a second at the median of `decode`, in 10⁹ bytes.
    pub gigabytes_per_second: f64,
    /// The product of a block of a prompt.
    pub prompt: Timing,
}

/// A summary of measured times, in nanoseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// The median.
    pub median_ns: f64,
    /// The first and the third quartile.
    pub quartiles_ns: [f64; 2],
    /// How many measurements.
    pub rounds: usize,
}

impl Default for Cache {
    fn default() -> Self {
        Cache {
            format: FORMAT,
            entries: Vec::new(),
            gpus: Vec::new(),
        }
    }
}

impl Shape {
    /// A shape for a file.
    pub fn of(shape: &LayerShape) -> Shape {
        Shape {
            d_in: shape.d_in,
            segments: shape.segments.clone(),
            paths: shape.paths,
            activations: shape.activations.to_owned(),
        }
    }

    /// The shape, if its activations are known.
    pub fn layer(&self) -> Option<LayerShape> {
        Some(LayerShape {
            d_in: self.d_in,
            segments: self.segments.clone(),
            paths: self.paths,
            activations: self.activations.parse::<Activations>().ok()?.name(),
        })
    }
}

impl Candidate {
    /// Medians of decoding and of a prompt's block.
    pub fn times(&self) -> [f64; 2] {
        [self.decode.median_ns, self.prompt.median_ns]
    }
}

impl Timing {
    pub(super) fn is_sane(&self) -> bool {
        self.median_ns.is_finite() && self.median_ns > 0.0
    }

    /// Summarises measurements; `None` if there are none.
    pub fn of(samples: &[f64]) -> Option<Timing> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = |quarter: usize| {
            // Between the two nearest ones, in proportion.
            let (whole, rest) = (last * quarter / 4, (last * quarter % 4) as f64 / 4.0);
            sorted[whole] * (1.0 - rest) + sorted[(whole + 1).min(last)] * rest
        };
        Some(Timing {
            median_ns: at(2),
            quartiles_ns: [at(1), at(3)],
            rounds: samples.len(),
        })
    }
}

impl Cache {
    /// Reads a cache.
    ///
    /// # Errors
    /// A file that cannot be read, is no cache, is damaged, or has another form.
    pub fn load(path: &Path) -> Result<Cache> {
        let name = || path.display().to_string();
        let file = std::fs::File::open(path).with_context(name)?;
        let mut text = String::new();
        let read = file.take(LIMIT).read_to_string(&mut text);
        let cache = match read {
            Ok(_) => Cache::parse(&text),
            // No text.
            Err(e) if e.kind() == std::io::ErrorKind::InvalidData => Err(e.into()),
            Err(e) => return Err(e).with_context(name),
        };
        cache.with_context(|| {
            let advice = "no tuning cache that can be used; delete it or name another";
            format!("{}: {advice}", name())
        })
    }

    /// Reads a cache, or begins one where there is no file.
    ///
    /// # Errors
    /// As [`Cache::load`].
    pub fn load_or_new(path: &Path) -> Result<Cache> {
        match path
            .try_exists()
            .with_context(|| path.display().to_string())?
        {
            true => Cache::load(path),
            false => Ok(Cache::default()),
        }
    }

    /// Reads the text of a cache.
    ///
    /// # Errors
    /// As [`Cache::load`].
    pub fn parse(text: &str) -> Result<Cache> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let head: Head = serde_json::from_str(text)?;
        if head.format != FORMAT {
            bail!(
                "its format is {}, this program reads format {FORMAT}",
                head.format
            );
        }
        let cache: Cache = serde_json::from_str(text)?;
        let sane =
            cache.entries.iter().all(Entry::is_sane) && cache.gpus.iter().all(GpuEntry::is_sane);
        match sane {
            true => Ok(cache),
            false => Err(anyhow!("it holds numbers that no measurement gives")),
        }
    }

    /// Adds an entry in place of what was measured before under the same conditions.
    pub fn put(&mut self, entry: Entry) {
        self.entries
            .retain(|e| e.host != entry.host || e.shape != entry.shape);
        self.entries.push(entry);
    }

    /// Adds entries to the file, which is read anew so that what others added stays. The file is
    /// complete at any time.
    ///
    /// # Errors
    /// As [`Cache::load`], or a file that cannot be written.
    pub fn add(path: &Path, entries: Vec<Entry>) -> Result<()> {
        Cache::change(path, |cache| entries.into_iter().for_each(|e| cache.put(e)))
    }

    /// Adds entries of GPUs, as [`Cache::add`] does.
    ///
    /// # Errors
    /// As [`Cache::add`].
    pub fn add_gpus(path: &Path, entries: Vec<GpuEntry>) -> Result<()> {
        Cache::change(path, |cache| {
            for entry in entries {
                let same = |e: &GpuEntry| e.gpu == entry.gpu && e.problem == entry.problem;
                cache.gpus.retain(|e| !same(e));
                cache.gpus.push(entry);
            }
        })
    }

    /// Refuses a file that could not be added to, before a minute is spent on what to add.
    ///
    /// # Errors
    /// As [`Cache::add`].
    pub fn check(path: &Path) -> Result<()> {
        Cache::load_or_new(path)?;
        create_folder(path)?;
        let created = AtomicFile::create(path).map(drop);
        created.with_context(|| path.display().to_string())
    }

    fn change(path: &Path, change: impl FnOnce(&mut Cache)) -> Result<()> {
        let mut cache = Cache::load_or_new(path)?;
        change(&mut cache);
        let text = serde_json::to_string_pretty(&cache)? + "\n";
        create_folder(path)?;
        rabitc_files::write(path, text.as_bytes())
            .with_context(|| format!("writing the tuning cache: {}", path.display()))
    }
}

/// Creates the folder that the cache is to be in.
fn create_folder(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let made = std::fs::create_dir_all(folder);
    made.with_context(|| format!("the folder {} of the tuning cache", folder.display()))
}

impl Entry {
    fn is_sane(&self) -> bool {
        let sane = |c: &Candidate| {
            let tiles = (1..=MAX_ROW_TILES).contains(&c.row_tiles);
            tiles && c.decode.is_sane() && c.prompt.is_sane()
        };
        !self.candidates.is_empty() && self.candidates.iter().all(sane)
    }
}

/// Where the cache is if nothing else is said: `$XDG_CACHE_HOME/rabitc/tune.json`, or the same
/// below `~/.cache`.
///
/// # Errors
/// An environment with neither `XDG_CACHE_HOME` nor `HOME`.
pub fn default_path() -> Result<PathBuf> {
    let folder = |name: &str| {
        let value = std::env::var_os(name).map(PathBuf::from);
        // The specification has relative ones ignored.
        value.filter(|path| path.is_absolute())
    };
    let base = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
    let base = base.ok_or_else(|| {
        anyhow!("neither XDG_CACHE_HOME nor HOME says where the tuning cache is: name a file")
    })?;
    Ok(base.join("rabitc").join("tune.json"))
}

#[cfg(test)]
#[path = "cache_tests.rs"]
pub(super) mod tests;
