//! What a run of training is given, and what must hold before it starts.

use std::path::Path;

use rabitc_ir::{DType, WeightStore};

use crate::batches::Position;
use crate::corpus::Corpus;
use crate::engine::{Engine, EngineError};
use crate::error::TrainError;
use crate::metrics::{StepRecord, ValidationRecord};
use crate::plan::{self, Plan};
use crate::recipe::Recipe;
use crate::resume;
use crate::store::{self, HeldState, METRICS, RunState, Saved};
use crate::teacher::Teacher;
use crate::validation::Held;

/// Makes the engines of a run.
pub trait Engines {
    /// A new engine without weights.
    fn engine(&self) -> Result<Box<dyn Engine>, EngineError>;

    /// Refuses what no engine can be made for, before a run writes anything.
    fn check(&self) -> Result<(), EngineError> {
        self.engine().map(drop)
    }

    /// The type that the engines store activations in.
    fn storage(&self) -> DType;
}

/// Is told how far a run is.
pub trait Observer {
    /// Something that takes a while begins.
    fn phase(&mut self, what: &str);
    /// An update is done.
    fn step(&mut self, record: &StepRecord);
    /// A measurement is done.
    fn validation(&mut self, record: &ValidationRecord);
    /// Whether the run is to stop after the update that is done: it saves, and ends.
    fn stopped(&self) -> bool {
        false
    }
}

/// When a run measures and saves. The result does not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cadence {
    /// Updates between measurements on the validation text.
    pub validate: u64,
    /// Updates between checkpoints.
    pub save: u64,
    /// Whether the paths of layers are compared at the beginning and at the end.
    pub diagnose: bool,
}

/// All that a run of training is given.
pub struct Job<'a> {
    /// The teacher.
    pub teacher: &'a Teacher,
    /// A checkpoint that the student starts from in place of the teacher.
    pub student: Option<&'a Teacher>,
    /// What is trained, and how.
    pub recipe: &'a Recipe,
    /// When it measures and saves.
    pub cadence: Cadence,
    /// The text.
    pub corpus: &'a Corpus,
    /// The validation text.
    pub held: Option<Held<'a>>,
    /// The run's folder.
    pub dir: &'a Path,
    /// Whether a run that is there already goes on.
    pub resume: bool,
    /// What runs it.
    pub engines: &'a dyn Engines,
}

impl Job<'_> {
    pub(crate) fn check(&self) -> Result<(), TrainError> {
        let recipe = self.recipe;
        recipe.check()?;
        let too_large = "a batch has more tokens than can be counted: give a smaller one";
        let too_large = || TrainError::Setting(too_large.into());
        recipe.tokens().ok_or_else(too_large)?;
        recipe.check_lengths(self.window(), self.teacher.info.context_length)?;
        if self.held.as_ref().is_some_and(|held| held.most == Some(0)) {
            let what = "at most 0 windows: nothing would be measured";
            return Err(TrainError::Setting(what.into()));
        }
        if let Some(student) = self.student {
            self.teacher.check_student(student)?;
        }
        // What no student can be made of is refused before anything is written.
        for (number, stage) in recipe.stages().iter().enumerate() {
            let plan = Plan::new(&self.teacher.graph, recipe, stage)?;
            if let (0, Some(student)) = (number, self.student) {
                check_paths(student, &plan)?;
            }
        }
        Ok(self.engines.check()?)
    }

    /// The run in the folder that is to go on, if there is one.
    pub(crate) fn saved(&self) -> Result<Option<Saved>, TrainError> {
        let Some(saved) = Saved::find(self.dir)? else {
            // A run that has not come to its first checkpoint has its metrics.
            let reason = match (self.dir.join(METRICS).exists(), self.resume) {
                _ if store::is_empty(self.dir) => return Ok(None),
                (true, true) => return Ok(None),
                (true, false) => {
                    "holds a run that has not come to its first checkpoint: give --resume to begin \
                     it again, or another folder"
                }
                (false, _) => "the folder is not empty",
            };
            return Err(TrainError::file(self.dir, reason));
        };
        let refuse = |reason: String| Err(TrainError::file(self.dir, reason));
        if !self.resume {
            let step = saved.state.step;
            return refuse(format!(
                "holds a run at step {step}: give --resume to go on with it, or another folder"
            ));
        }
        if let Some(difference) = resume::difference(&saved.state, &self.new_state()?) {
            return refuse(difference);
        }
        Ok(Some(saved))
    }

    /// Where the run is before its first update.
    pub(crate) fn new_state(&self) -> Result<RunState, TrainError> {
        Ok(RunState {
            step: 0,
            position: Position::default(),
            recipe: self.recipe.clone(),
            teacher: self.teacher.fingerprint()?,
            student: self.student.map(Teacher::fingerprint).transpose()?,
            buffers: self.teacher.buffers.name().to_string(),
            text: self.corpus.hash(),
            held: self.held_state(),
            seconds: 0.0,
        })
    }

    /// What the run is measured on, as a checkpoint names it.
    fn held_state(&self) -> Option<HeldState> {
        self.held.as_ref().map(|held| HeldState {
            text: held.corpus.hash(),
            window: held.window,
            most: held.most,
        })
    }

    /// An engine that has the teacher's weights.
    pub(crate) fn engine(&self) -> Result<Box<dyn Engine>, TrainError> {
        let mut engine = self.engines.engine()?;
        let (graph, weights) = (&self.teacher.graph, &self.teacher.checkpoint);
        plan::set_teacher(&mut *engine, graph, weights)?;
        Ok(engine)
    }

    /// The model that latent weights and everything dense start from.
    pub(crate) fn dense(&self) -> &dyn WeightStore {
        &self.student.unwrap_or(self.teacher).checkpoint
    }

    pub(crate) fn window(&self) -> Option<usize> {
        self.held.as_ref().map(|held| held.window)
    }
}

/// Refuses a student that was trained with another number of paths than the run begins with.
fn check_paths(student: &Teacher, plan: &Plan) -> Result<(), TrainError> {
    for layer in &plan.student.layers {
        let found = WeightStore::info(&student.checkpoint, &layer.g);
        let found = found.and_then(|(_, shape)| shape.first().copied());
        let paths = plan.stage.paths;
        if let Some(found) = found.filter(|found| *found != paths) {
            let (student, layer) = (&student.name, &layer.node);
            return Err(TrainError::Setting(format!(
                "the student {student} has {found} paths in `{layer}`, the run begins with {paths}"
            )));
        }
    }
    Ok(())
}
