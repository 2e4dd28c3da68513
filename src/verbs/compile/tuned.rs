//! What `compile --tuned` takes from the cache.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rabitc::compile::Targets;
use rabitc::tune::cache::{self, Cache};
use rabitc::tune::choose;
use rabitc::tune::gpu::tables::GpuTables;
use rabitc::tune::host::{self, Host};
use rabitc_codegen::backend::Backend;
use rabitc_ir::ops::residual_binary::Activations;
use rabitc_passes::tiles::LayerShape;
use rabitc_rbx::{Level, SmArch};
use rabitc_runtime::topology;

use super::Args;

/// Row tiles by shape.
type Tiles = BTreeMap<LayerShape, usize>;

/// What was measured for the targets: row tiles for the best of the CPU levels that this machine
/// runs, and the tables for GPUs. Without `--tuned`, tables that come with the program only.
///
/// # Errors
/// A cache that cannot be read, or `--tuned` where nothing of it can be used.
pub fn tuned(
    args: &Args,
    backend: &dyn Backend,
    targets: &Targets,
    activations: Activations,
) -> Result<(Tiles, GpuTables)> {
    let shipped = GpuTables::shipped()?;
    let Some(file) = &args.tuned else {
        return Ok((Tiles::new(), shipped));
    };
    let path = match file {
        Some(path) => path.clone(),
        None => cache::default_path().context("--tuned")?,
    };
    let cache = Cache::load_or_new(&path)?;
    let tiles = match targets.levels.is_empty() {
        true => Tiles::new(),
        false => on_cpu(&cache, &path, backend, &targets.levels, activations)?,
    };
    let tables = shipped.with_cache(cache);
    on_gpus(&tables, &path, &targets.gpus)?;
    Ok((tiles, tables))
}

/// The tiles that were measured here for the best of the levels that this machine runs.
fn on_cpu(
    cache: &Cache,
    path: &Path,
    backend: &dyn Backend,
    levels: &[Level],
    activations: Activations,
) -> Result<Tiles> {
    let run = levels.iter().copied().filter(|level| host::runs(*level));
    let Some(level) = run.max() else {
        bail!("--tuned: this machine runs none of the targets");
    };
    let host = Host::new(backend, level, activations, topology::default_threads())?;
    let tiles = choose::tiles(cache, &host);
    if tiles.is_empty() {
        bail!(
            "--tuned: {} has no times of {} code for {level} with {} activations by this version \
             on this processor: run `rabitc tune` first",
            path.display(),
            backend.name(),
            activations.name(),
        );
    }
    Ok(tiles)
}

/// Each architecture must have been measured on some card.
fn on_gpus(tables: &GpuTables, path: &Path, arches: &[SmArch]) -> Result<()> {
    match arches.iter().find(|arch| !tables.has_own(**arch)) {
        Some(arch) => bail!(
            "--tuned: {} has no times for {arch}: run `rabitc tune --device cuda` on such a card \
             first, or leave --tuned out",
            path.display(),
        ),
        None => Ok(()),
    }
}
