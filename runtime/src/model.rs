//! An artifact, opened: its weights mapped, its native code loaded.

use std::path::Path;

use rabitc_rbx::{Artifact, Level, Manifest, Target};

use crate::error::Error;
use crate::exec_memory::{ExecMemory, KernelFn};

/// A model that sessions run.
pub struct Model {
    artifact: Artifact,
    level: Level,
    // Keeps the code that `kernels` points into mapped.
    _code: ExecMemory,
    kernels: Vec<KernelFn>,
}

impl Model {
    /// Opens an artifact, picks the best code that this machine runs and loads it.
    ///
    /// # Errors
    /// A file that is no artifact or a damaged one, or one with no code for this machine.
    pub fn open(path: &Path) -> Result<Model, Error> {
        let artifact = Artifact::open(path)?;
        let target = choose_target(artifact.manifest())?;
        let code = ExecMemory::load(artifact.bytes(&target.section)?)?;
        let entries = target.entries.iter();
        let kernels = entries.map(|e| code.kernel(*e)).collect::<Result<_, _>>()?;
        Ok(Model {
            level: target.level,
            _code: code,
            kernels,
            artifact,
        })
    }

    /// The artifact.
    pub fn artifact(&self) -> &Artifact {
        &self.artifact
    }

    /// The artifact's manifest.
    pub fn manifest(&self) -> &Manifest {
        self.artifact.manifest()
    }

    /// The CPU level of the code that was loaded.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The kernels' entry points, in the order of the manifest's kernel table.
    pub(crate) fn kernels(&self) -> &[KernelFn] {
        &self.kernels
    }
}

/// The highest level among the artifact's targets that this machine runs.
fn choose_target(manifest: &Manifest) -> Result<Target, Error> {
    let machine = Level::native();
    let runs = |t: &&Target| machine.is_some_and(|m| m.supports(t.level));
    let best = manifest.targets.iter().filter(runs).max_by_key(|t| t.level);
    best.cloned().ok_or_else(|| {
        let levels: Vec<_> = manifest.targets.iter().map(|t| t.level.name()).collect();
        Error::NoCode {
            offered: levels.join(", "),
            machine: machine.map_or("below every level", Level::name),
        }
    })
}
