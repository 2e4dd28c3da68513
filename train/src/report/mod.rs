//! What runs of training came to: one self-contained page, or numbers.

mod curves;
mod figures;
mod layers;
mod page;
mod runs;
mod svg;

use std::path::PathBuf;

use crate::error::TrainError;
pub use figures::{Figures, PathFigures};

/// Several runs, as their metrics tell them.
pub struct Report {
    runs: Vec<runs::Run>,
}

impl Report {
    /// Reads the runs in these folders.
    ///
    /// # Errors
    /// A folder that holds no run, or metrics that cannot be read.
    pub fn read(dirs: &[PathBuf]) -> Result<Report, TrainError> {
        let runs = dirs.iter().map(|dir| runs::Run::read(dir));
        let mut runs = runs.collect::<Result<Vec<_>, _>>()?;
        let names: Vec<_> = runs.iter().map(|run| run.name.clone()).collect();
        for (run, dir) in runs.iter_mut().zip(dirs) {
            // Folders of one name are told apart by their paths.
            if names.iter().filter(|name| **name == run.name).count() > 1 {
                run.name = dir.display().to_string();
            }
        }
        Ok(Report { runs })
    }

    /// What each run reached, in the order of the folders.
    pub fn figures(&self) -> Vec<Figures<'_>> {
        self.runs.iter().map(Figures::new).collect()
    }

    /// An HTML page that loads nothing: what the runs reached, their losses, and the paths of their
    /// layers.
    pub fn page(&self) -> String {
        page::page(&self.runs)
    }
}
