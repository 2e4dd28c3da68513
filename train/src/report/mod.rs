//! One self-contained page about one or several runs.

mod page;
mod runs;
mod svg;

use std::path::PathBuf;

use crate::error::TrainError;

/// The page about the runs in these folders: what they reached, their losses, and the paths of
/// their layers.
///
/// # Errors
/// A folder that holds no run, or metrics that cannot be read.
pub fn report(dirs: &[PathBuf]) -> Result<String, TrainError> {
    let runs = dirs.iter().map(|dir| runs::Run::read(dir));
    let mut runs = runs.collect::<Result<Vec<_>, _>>()?;
    let names: Vec<_> = runs.iter().map(|run| run.name.clone()).collect();
    for (run, dir) in runs.iter_mut().zip(dirs) {
        // Folders of one name are told apart by their paths.
        if names.iter().filter(|name| **name == run.name).count() > 1 {
            run.name = dir.display().to_string();
        }
    }
    Ok(page::page(&runs))
}
