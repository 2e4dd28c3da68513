//! A run of training, from its beginning or from where it was.

mod record;

use std::fs;
use std::path::Path;
use std::time::Instant;

use crate::batches::Batches;
use crate::engine::{Memory, Update};
use crate::error::TrainError;
use crate::job::{Job, Observer};
use crate::metrics::{Metrics, Record};
use crate::plan::Plan;
use crate::recipe::{Stage, Start};
use crate::session::Session;
use crate::start::{Fresh, Grown, Importance};
use crate::store::{self, Lock, RunState, Saved};
use record::values;

/// What a run came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The update that it went on from; 0 for a new run.
    pub from: u64,
    /// Updates done in all: fewer than the recipe's if the run was told to stop.
    pub steps: u64,
    /// Seconds of training, of all the times that the run was started.
    pub seconds: f64,
    /// Bytes that the engine held at the end.
    pub memory: Memory,
}

/// Trains.
///
/// # Errors
/// Settings that do not fit the model or the text, a folder that holds another run, what the
/// engine or the disk refuses, or a loss that is no number. What has been saved remains. To be told
/// to stop is none: the outcome has fewer steps than the recipe, all of them saved.
pub fn run(job: &Job<'_>, observer: &mut dyn Observer) -> Result<Outcome, TrainError> {
    job.check()?;
    let earlier = Lock::take(job.dir)?;
    let saved = job.saved()?;
    let state = match &saved {
        Some(saved) => saved.state.clone(),
        None => job.new_state()?,
    };
    let (from, recipe) = (state.step, job.recipe);
    let (seq_len, batch, seed) = (recipe.seq_len, recipe.batch, recipe.seed);
    let batches = Batches::new(
        job.corpus,
        seq_len,
        batch,
        seed,
        recipe.noise,
        state.position,
    )?;
    create_folder(job.dir)?;
    let lock = match earlier {
        Some(lock) => Some(lock),
        None => Lock::take(job.dir)?,
    };
    if let Some(lock) = &lock {
        store::clean(job.dir, saved.as_ref().map(|saved| saved.state.step), lock)?;
    }
    let metrics = match &saved {
        Some(_) => Metrics::go_on(job.dir, state.step)?,
        None => Metrics::create(job.dir)?,
    };
    store::copy_side_files(job.teacher.checkpoint.folder(), job.dir)?;
    let mut run = Run {
        job,
        observer,
        metrics,
        batches,
        state,
        saved_step: None,
        importance: None,
    };
    let memory = run.stages(saved)?;
    Ok(Outcome {
        memory,
        from,
        steps: run.state.step,
        seconds: run.state.seconds,
    })
}

/// Makes the run's folder, unless it is there.
fn create_folder(dir: &Path) -> Result<(), TrainError> {
    if dir.exists() && !dir.is_dir() {
        return Err(TrainError::file(dir, "is a file, a run needs a folder"));
    }
    fs::create_dir_all(dir).map_err(TrainError::io(dir))
}

/// A run under way.
struct Run<'a, 'b> {
    job: &'b Job<'a>,
    observer: &'b mut dyn Observer,
    metrics: Metrics,
    batches: Batches<'a>,
    state: RunState,
    /// The update that was last saved.
    saved_step: Option<u64>,
    /// Once it has been measured.
    importance: Option<Importance>,
}

impl<'a> Run<'a, '_> {
    /// Runs all stages from the one that the state is in; gives what the engine held at the end.
    fn stages(&mut self, saved: Option<Saved>) -> Result<Memory, TrainError> {
        let stages = self.job.recipe.stages();
        let at = stages.iter().position(|s| self.state.step <= s.end);
        let at = at.unwrap_or(stages.len() - 1);
        let mut session = match &saved {
            Some(saved) => {
                self.saved_step = Some(saved.state.step);
                self.observer.phase("going on");
                let plan = self.plan(&stages[at])?;
                Session::open(self.job, plan, &saved.weights(), Some(saved))?
            }
            None => self.fresh(&stages[at])?,
        };
        drop(saved);
        for stage in &stages[at..] {
            if session.plan.stage != *stage {
                session = self.grown(stage, session)?;
            }
            self.stage(&mut session)?;
            if self.stopping() {
                return self.stop(session);
            }
        }
        self.finish(session)
    }

    fn plan(&self, stage: &Stage) -> Result<Plan, TrainError> {
        Plan::new(&self.job.teacher.graph, self.job.recipe, stage)
    }

    /// The student at the beginning of a run, measured and saved.
    fn fresh(&mut self, stage: &Stage) -> Result<Session<'a>, TrainError> {
        let job = self.job;
        let plan = self.plan(stage)?;
        self.measure_importance()?;
        let importance = self.importance.take();
        self.observer.phase("fitting the student's layers");
        let layers = plan.student.layers.clone();
        let start = Fresh::new(
            job.dense(),
            job.recipe,
            stage.paths,
            &layers,
            importance.as_ref(),
        );
        if job.cadence.diagnose {
            let values = values(&plan, &start)?;
            self.diagnose(&values)?;
        }
        let mut session = Session::open(job, plan, &start, None)?;
        self.importance = importance;
        self.record_run(&session)?;
        self.validate(&mut session)?;
        self.save(&mut session)?;
        Ok(session)
    }

    /// The student of the next stage, from what the one before it has become.
    fn grown(&mut self, stage: &Stage, mut before: Session<'a>) -> Result<Session<'a>, TrainError> {
        let job = self.job;
        let weights = before.weights()?;
        let paths = before.plan.stage.paths;
        // One engine at a time: two would need the memory twice.
        drop(before);
        self.measure_importance()?;
        self.observer.phase("fitting the next path");
        let plan = self.plan(stage)?;
        let layers = plan.student.layers.clone();
        let importance = self.importance.as_ref();
        let dense = job.dense();
        let start = Grown::new(dense, job.recipe, paths, &layers, importance, weights);
        Session::open(job, plan, &start, None)
    }

    fn measure_importance(&mut self) -> Result<(), TrainError> {
        let job = self.job;
        if job.recipe.initial.start != Start::Importance || self.importance.is_some() {
            return Ok(());
        }
        self.observer.phase("measuring the importance of channels");
        let (graph, recipe) = (&job.teacher.graph, job.recipe);
        let mut engine = job.engine()?;
        let measured = Importance::measure(&mut *engine, graph, recipe, job.corpus)?;
        self.importance = Some(measured);
        Ok(())
    }

    /// All updates of a stage that are still to be done.
    fn stage(&mut self, session: &mut Session<'a>) -> Result<(), TrainError> {
        let (end, cadence) = (session.plan.stage.end, self.job.cadence);
        while self.state.step < end && !self.stopping() {
            self.update(session)?;
            let due = |every: u64| every > 0 && self.state.step.is_multiple_of(every);
            let (validate, save) = (due(cadence.validate), due(cadence.save));
            if validate && self.state.step < self.job.recipe.steps {
                self.validate(session)?;
            }
            if save {
                self.save(session)?;
            }
        }
        Ok(())
    }

    /// One update.
    fn update(&mut self, session: &mut Session<'a>) -> Result<(), TrainError> {
        let (recipe, start) = (self.job.recipe, Instant::now());
        let step = self.state.step + 1;
        let batches = &mut self.batches;
        let losses = session.accumulate(recipe.accumulate, || batches.next(recipe.batch))?;
        self.finite(step, "loss", losses.loss)?;
        let runs = recipe.accumulate as f64;
        let norm = session.gradient_norm()? / runs;
        self.finite(step, "gradient's norm", norm)?;
        let clip = f64::from(recipe.optimizer.clip);
        let clipped = if clip > 0.0 && norm > clip {
            clip / norm
        } else {
            1.0
        };
        let rates = session.rates(self.job, step);
        session.update(&Update {
            step: step - session.plan.stage.begin,
            seed: recipe.seed.wrapping_add(session.plan.stage.begin),
            learning_rates: rates.clone(),
            beta1: recipe.optimizer.beta1,
            beta2: recipe.optimizer.beta2,
            eps: recipe.optimizer.eps,
            gradient_factor: (clipped / runs) as f32,
        })?;
        self.state.step = step;
        self.state.position = self.batches.position();
        let seconds = start.elapsed().as_secs_f64();
        self.state.seconds += seconds;
        self.record_step(losses, norm, rates, seconds)
    }

    fn save(&mut self, session: &mut Session<'a>) -> Result<(), TrainError> {
        session.save(self.job, &self.state)?;
        self.saved_step = Some(self.state.step);
        Ok(())
    }

    /// Whether the run has been told to stop before its last update.
    fn stopping(&self) -> bool {
        self.state.step < self.job.recipe.steps && self.observer.stopped()
    }

    /// Saves the student of a run that was told to stop.
    fn stop(&mut self, mut session: Session<'a>) -> Result<Memory, TrainError> {
        if self.saved_step != Some(self.state.step) {
            self.save(&mut session)?;
        }
        Ok(session.memory())
    }

    /// Measures and saves the student at the end of a run, unless it had ended before.
    fn finish(&mut self, mut session: Session<'a>) -> Result<Memory, TrainError> {
        let memory = session.memory();
        let records = crate::metrics::read(self.job.dir)?;
        let last = self.state.step;
        let has = |kind: fn(&Record) -> bool| records.iter().any(|r| r.step() == last && kind(r));
        if !has(|r| matches!(r, Record::Validation(_))) {
            self.validate(&mut session)?;
        }
        if self.saved_step != Some(last) {
            self.save(&mut session)?;
        }
        if self.job.cadence.diagnose && !has(|r| matches!(r, Record::Layers(_))) {
            let layers = session.layers()?;
            drop(session);
            self.diagnose(&layers)?;
        }
        Ok(memory)
    }
}
