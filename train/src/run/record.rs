//! What a run measures along the way, and what it writes down.

use rabitc_ir::{Tensor, WeightStore};

use super::Run;
use crate::cores::{LayerValues, stored_scales};
use crate::diagnostics;
use crate::error::TrainError;
use crate::memory::MemoryPlan;
use crate::metrics::{LayersRecord, Record, RunRecord, StepRecord};
use crate::plan::Plan;
use crate::session::{Losses, Session};
use crate::start::Fresh;

impl<'a> Run<'a, '_> {
    /// The error of a value that is no number.
    pub(super) fn finite(
        &self,
        step: u64,
        what: &'static str,
        value: f64,
    ) -> Result<(), TrainError> {
        if value.is_finite() {
            return Ok(());
        }
        let dir = self.job.dir.display();
        let kept = match self.saved_step {
            Some(saved) => format!("{dir} keeps the checkpoint of step {saved}"),
            None => format!("{dir} has no checkpoint yet"),
        };
        Err(TrainError::NotFinite {
            step,
            what,
            value,
            kept,
        })
    }

    pub(super) fn record_step(
        &mut self,
        losses: Losses,
        gradient_norm: f64,
        rates: Vec<f32>,
        seconds: f64,
    ) -> Result<(), TrainError> {
        let recipe = self.job.recipe;
        let tokens = (recipe.batch * recipe.seq_len * recipe.accumulate) as u64;
        let record = StepRecord {
            step: self.state.step,
            loss: losses.loss,
            kl: losses.kl,
            hidden: Some(losses.hidden).filter(|h| h.is_finite()),
            text: losses.text,
            diversity: losses.diversity,
            gradient_norm,
            rates,
            tokens: tokens * self.state.step,
            tokens_per_second: tokens as f64 / seconds.max(f64::MIN_POSITIVE),
        };
        self.observer.step(&record);
        self.metrics.add(&Record::Step(record))
    }

    pub(super) fn record_run(&mut self, session: &Session<'a>) -> Result<(), TrainError> {
        let job = self.job;
        let storage = job.engines.storage();
        let memory = MemoryPlan::new(&job.teacher.graph, job.recipe, storage, job.window())?;
        self.metrics.add(&Record::Run(Box::new(RunRecord {
            recipe: job.recipe.clone(),
            engine: session.describe(),
            teacher: job.teacher.name.clone(),
            text_tokens: job.corpus.tokens(),
            memory,
        })))
    }

    pub(super) fn validate(&mut self, session: &mut Session<'a>) -> Result<(), TrainError> {
        if let Some(record) = session.validate(self.state.step)? {
            self.observer.validation(&record);
            self.metrics.add(&Record::Validation(record))?;
        }
        Ok(())
    }

    /// Compares the paths of these layers, on an engine of its own.
    pub(super) fn diagnose(&mut self, layers: &[(String, LayerValues)]) -> Result<(), TrainError> {
        let job = self.job;
        self.observer.phase("comparing the paths of layers");
        let corpus = job.held.as_ref().map_or(job.corpus, |held| held.corpus);
        let mut engine = job.engine()?;
        let (graph, recipe) = (&job.teacher.graph, job.recipe);
        let layers = diagnostics::layers(&mut *engine, graph, recipe, corpus, layers)?;
        let step = self.state.step;
        self.metrics
            .add(&Record::Layers(LayersRecord { step, layers }))
    }
}

/// Scales and cores of every layer of a student that is still to be set up.
pub(super) fn values(
    plan: &Plan,
    start: &Fresh<'_>,
) -> Result<Vec<(String, LayerValues)>, TrainError> {
    let values = plan.student.layers.iter().map(|layer| {
        let [g, h] = [&layer.g, &layer.h].map(|name| start.load(name));
        let [g, h] = [g?, h?].map(|scales| stored_scales(scales.floats()));
        let latents = layer.latents.iter().map(|name| start.load(name));
        let latents = latents.collect::<Result<Vec<_>, _>>()?;
        let latents: Vec<&[f32]> = latents.iter().map(Tensor::floats).collect();
        let values = LayerValues::new(plan.derive, g, h, &latents, plan.stage.paths);
        Ok((layer.node.clone(), values))
    });
    values.collect()
}
