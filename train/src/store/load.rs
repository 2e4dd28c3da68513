//! Finds the checkpoint of a run again.

use std::path::{Path, PathBuf};

use rabitc_frontend::Checkpoint;
use rabitc_ir::{DType, Tensor, WeightError, WeightStore};

use super::{MASTER, MODEL, MOMENT1, MOMENT2, RunState, STATE, STEP, optimizer_path};
use crate::engine::{Engine, State, Trainable};
use crate::error::TrainError;

/// A checkpoint of a run.
pub struct Saved {
    /// Where the run was.
    pub state: RunState,
    model: Checkpoint,
    optimizer: Checkpoint,
}

impl Saved {
    /// The checkpoint in `dir`, if there is one. Nothing is changed.
    ///
    /// # Errors
    /// A model that no run of training wrote, or files that are damaged or do not belong together.
    pub fn find(dir: &Path) -> Result<Option<Saved>, TrainError> {
        if !dir.is_dir() {
            return Ok(None);
        }
        let path = dir.join(MODEL);
        if !path.exists() {
            return Ok(None);
        }
        let model = Checkpoint::open(&path)?;
        let step = metadata(&model, &path, STEP)?;
        let bad = |_| TrainError::file(&path, format!("names step `{step}`, which is no number"));
        let step: u64 = step.parse().map_err(bad)?;
        let path = optimizer_path(dir, step);
        let optimizer = Checkpoint::open(&path)?;
        let text = metadata(&optimizer, &path, STATE)?;
        let state: RunState = serde_json::from_str(&text)
            .map_err(|e| TrainError::file(&path, format!("the run's state: {e}")))?;
        if state.step != step {
            let reason = format!("is of step {}, the model of step {step}", state.step);
            return Err(TrainError::file(&path, reason));
        }
        Ok(Some(Saved {
            state,
            model,
            optimizer,
        }))
    }

    /// The student's weights as they are trained.
    pub fn weights(&self) -> SavedWeights<'_> {
        SavedWeights(self)
    }

    /// Gives `engine` the moments of what is trained.
    pub fn restore_moments(
        &self,
        engine: &mut dyn Engine,
        trained: &[Trainable],
    ) -> Result<(), TrainError> {
        for what in trained {
            for (prefix, which) in [(MOMENT1, State::Moment1), (MOMENT2, State::Moment2)] {
                let moment = self.optimizer.load(&format!("{prefix}{}", what.name))?;
                engine.set_state(&what.name, which, &moment)?;
            }
        }
        Ok(())
    }
}

fn metadata(checkpoint: &Checkpoint, path: &Path, key: &str) -> Result<String, TrainError> {
    let found = checkpoint.metadata().find(|(k, _)| *k == key);
    let missing = || {
        let path: PathBuf = path.to_path_buf();
        let reason = format!("was not written by training: its metadata has no `{key}`");
        TrainError::File { path, reason }
    };
    found
        .map(|(_, value)| value.to_string())
        .ok_or_else(missing)
}

/// The student's weights in a checkpoint, by the names that they have in the student's graph.
pub struct SavedWeights<'a>(&'a Saved);

impl WeightStore for SavedWeights<'_> {
    fn info(&self, name: &str) -> Option<(DType, Vec<usize>)> {
        let master = WeightStore::info(&self.0.optimizer, &format!("{MASTER}{name}"));
        master.or_else(|| WeightStore::info(&self.0.model, name))
    }

    fn load(&self, name: &str) -> Result<Tensor, WeightError> {
        let master = format!("{MASTER}{name}");
        match WeightStore::info(&self.0.optimizer, &master) {
            Some(_) => self.0.optimizer.load(&master),
            None => self.0.model.load(name),
        }
    }
}
