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
    let runs = runs.collect::<Result<Vec<_>, _>>()?;
    Ok(page::page(&runs))
}
