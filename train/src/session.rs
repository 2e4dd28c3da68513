//! One stage of a run on an engine.

use std::collections::BTreeMap;

use rabitc_ir::{Op, Tensor, WeightStore};

use crate::cores::LayerValues;
use crate::corpus::Batch;
use crate::engine::{Engine, EngineError, Memory, Program, Update};
use crate::error::TrainError;
use crate::graphs;
use crate::job::Job;
use crate::metrics::ValidationRecord;
use crate::noise::teacher::Blanks;
use crate::plan::{self, Plan};
use crate::store::{self, Saved};
use crate::validation::Validation;

/// The losses of one run of the step's graph.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    /// What is minimised.
    pub loss: f64,
    /// KL(teacher ‖ student).
    pub kl: f64,
    /// The hidden states' error.
    pub hidden: f64,
    /// The cross-entropy with the text, where it is a part of the loss.
    pub text: Option<f64>,
    /// The overlap of paths, where it is a part of the loss.
    pub diversity: Option<f64>,
}

impl Losses {
    /// Adds `share` of other losses.
    fn add(&mut self, other: Losses, share: f64) {
        self.loss += other.loss * share;
        self.kl += other.kl * share;
        self.hidden += other.hidden * share;
        let parts = [
            (&mut self.text, other.text),
            (&mut self.diversity, other.diversity),
        ];
        for (sum, part) in parts {
            if let Some(part) = part {
                *sum.get_or_insert(0.0) += part * share;
            }
        }
    }
}

/// An engine with the student of one stage and the teacher, and its programs.
pub struct Session<'a> {
    /// The stage's plan.
    pub plan: Plan,
    engine: Box<dyn Engine>,
    step: Program,
    /// The inputs that the step's graph reads.
    inputs: Vec<String>,
    /// The teacher's own, if it writes tokens.
    writing: Option<Program>,
    seq_len: usize,
    validation: Option<Validation<'a>>,
}

impl<'a> Session<'a> {
    /// Sets the student's weights from `source`, and the moments from `saved` if there is one.
    pub fn open(
        job: &Job<'a>,
        plan: Plan,
        source: &dyn WeightStore,
        saved: Option<&Saved>,
    ) -> Result<Session<'a>, TrainError> {
        let (model, recipe) = (&job.teacher.graph, job.recipe);
        let mut engine = job.engine()?;
        plan.set_weights(&mut *engine, source)?;
        engine.train(&plan.trained)?;
        if let Some(saved) = saved {
            saved.restore_moments(&mut *engine, &plan.trained)?;
        }
        let graph = graphs::step(&plan.student, model, recipe, &plan.trained_names())?;
        let inputs = graph
            .order()
            .into_iter()
            .filter_map(|id| match graph.op(id) {
                Op::Input(input) => Some(input.name.clone()),
                _ => None,
            });
        let inputs = inputs.collect();
        let step = engine.program(&graph, recipe.batch * recipe.seq_len)?;
        let writing = recipe.noise.by_teacher().then(|| {
            let graph = graphs::writing(model, recipe.seq_len)?;
            Ok::<_, TrainError>(engine.program(&graph, recipe.batch * recipe.seq_len)?)
        });
        let validation = job.held.as_ref().map(|held| {
            let stage = &plan.stage;
            Validation::new(&mut *engine, model, recipe, stage, held)
        });
        Ok(Session {
            validation: validation.transpose()?,
            plan,
            engine,
            step,
            inputs,
            writing: writing.transpose()?,
            seq_len: recipe.seq_len,
        })
    }

    /// What runs it.
    pub fn describe(&self) -> String {
        self.engine.describe()
    }

    /// Bytes that the engine holds.
    pub fn memory(&self) -> Memory {
        self.engine.memory()
    }

    /// Adds the gradients of `count` batches up, after the teacher has written what it is to; gives
    /// the mean losses.
    pub fn accumulate(
        &mut self,
        count: usize,
        mut next: impl FnMut() -> (Batch, Blanks),
    ) -> Result<Losses, TrainError> {
        let mut mean = Losses::default();
        for _ in 0..count {
            let (mut batch, blanks) = next();
            if let Some(program) = self.writing {
                blanks.fill(&mut *self.engine, program, &mut batch, self.seq_len)?;
            }
            let all = batch.inputs();
            let read = |(name, _): &(&str, &[i32])| self.inputs.iter().any(|n| n == name);
            let inputs: Vec<_> = all.into_iter().filter(read).collect();
            let outputs = self.engine.run(self.step, &inputs)?;
            let losses = Losses {
                loss: scalar(&outputs, "loss")?,
                kl: scalar(&outputs, "kl")?,
                hidden: scalar(&outputs, "hidden")?,
                text: optional(&outputs, "text"),
                diversity: optional(&outputs, "diversity"),
            };
            mean.add(losses, 1.0 / count as f64);
        }
        Ok(mean)
    }

    /// The norm of the gradients held.
    pub fn gradient_norm(&mut self) -> Result<f64, TrainError> {
        Ok(self.engine.gradient_norm()?)
    }

    /// Updates what trains.
    pub fn update(&mut self, update: &Update) -> Result<(), TrainError> {
        Ok(self.engine.update(update)?)
    }

    /// Measures on the validation text, if there is one.
    pub fn validate(&mut self, step: u64) -> Result<Option<ValidationRecord>, TrainError> {
        let validation = self.validation.as_ref();
        let record = validation.map(|v| v.run(&mut *self.engine, step));
        record.transpose()
    }

    /// Saves the student in the run's folder.
    pub fn save(&mut self, job: &Job<'_>, state: &store::RunState) -> Result<(), TrainError> {
        store::save(job.dir, &mut *self.engine, &self.plan, state)
    }

    /// All weights of the student.
    pub fn weights(&mut self) -> Result<BTreeMap<String, Tensor>, TrainError> {
        let names: Vec<String> = self.plan.weights().map(|(n, _, _)| n.to_string()).collect();
        let weights = names.into_iter().map(|name| {
            let tensor = self.engine.weight(&name)?;
            Ok((name, tensor))
        });
        weights.collect()
    }

    /// Scales and cores of every layer, as the forward pass has them.
    pub fn layers(&mut self) -> Result<Vec<(String, LayerValues)>, TrainError> {
        let (engine, plan) = (&mut *self.engine, &self.plan);
        let layers = plan.student.layers.iter().map(|layer| {
            let values = store::layer_values(engine, plan, layer)?;
            Ok((layer.node.clone(), values))
        });
        layers.collect()
    }

    /// The learning rates of update `step`, by group.
    pub fn rates(&self, job: &Job<'_>, step: u64) -> Vec<f32> {
        plan::rates(job.recipe, job.recipe.rate(&self.plan.stage, step))
    }
}

fn optional(outputs: &BTreeMap<String, Tensor>, name: &str) -> Option<f64> {
    outputs.get(name).map(|value| f64::from(value.floats()[0]))
}

fn scalar(outputs: &BTreeMap<String, Tensor>, name: &str) -> Result<f64, EngineError> {
    let missing = || EngineError::new(format!("the engine gave no `{name}`"));
    Ok(f64::from(
        outputs.get(name).ok_or_else(missing)?.floats()[0],
    ))
}
