//! One stage of a run: the student, its weights, and which of them train how.

use rabitc_ir::ops::effective_weight::Derive;
use rabitc_ir::{DType, Graph, Type, WeightStore};

use crate::engine::{Engine, Trainable};
use crate::error::TrainError;
use crate::graphs::{self, Student};
use crate::recipe::{Recipe, Stage};
use crate::start::held;

/// The group of latent weights in [`crate::engine::Update::learning_rates`].
const SHARED: usize = 0;
/// The group of scales.
const SCALES: usize = 1;
/// The group of everything else.
const REST: usize = 2;

/// What one stage of a run works with.
pub struct Plan {
    /// The stage.
    pub stage: Stage,
    /// Where cores come from.
    pub derive: Derive,
    /// The student for sequences of the run's length.
    pub student: Student,
    /// The weights that train.
    pub trained: Vec<Trainable>,
    weights: Vec<(String, Type)>,
}

impl Plan {
    /// The plan of `stage` for a model's graph as the frontend gives it.
    pub fn new(model: &Graph, recipe: &Recipe, stage: &Stage) -> Result<Plan, TrainError> {
        let student = graphs::student(model, recipe, stage, recipe.seq_len)?;
        let weights = graphs::weights(&student.graph);
        let mut plan = Plan {
            stage: *stage,
            derive: recipe.derive(),
            student,
            trained: Vec::new(),
            weights,
        };
        plan.trained = plan.trainables(recipe);
        Ok(plan)
    }

    /// The student's weights: names, types and shapes, in order of use.
    pub fn weights(&self) -> impl Iterator<Item = (&str, DType, Vec<usize>)> {
        self.weights.iter().map(|(name, ty)| {
            (
                name.as_str(),
                ty.dtype,
                ty.fixed_shape().unwrap_or_default(),
            )
        })
    }

    /// The shape of one of them.
    pub fn shape(&self, name: &str) -> Vec<usize> {
        let found = self.weights().find(|(n, _, _)| *n == name);
        found.map(|(_, _, shape)| shape).unwrap_or_default()
    }

    /// Whether a weight holds scales of a residual-binary layer.
    pub fn is_scale(&self, name: &str) -> bool {
        let mut layers = self.student.layers.iter();
        layers.any(|l| l.g == name || l.h == name)
    }

    /// The place of a latent weight among those of its layer.
    fn latent(&self, name: &str) -> Option<usize> {
        let mut layers = self.student.layers.iter();
        layers.find_map(|l| l.latents.iter().position(|n| n == name))
    }

    fn trainables(&self, recipe: &Recipe) -> Vec<Trainable> {
        let rates = recipe.optimizer.rates;
        let weights = self.weights().filter_map(|(name, dtype, shape)| {
            let group = match (self.is_scale(name), self.latent(name)) {
                (true, _) => SCALES,
                (_, Some(path)) if path < self.frozen() => return None,
                (_, Some(_)) => SHARED,
                _ => REST,
            };
            if [rates.shared, rates.scales, rates.rest][group] == 0.0 {
                return None;
            }
            let matrix = shape.len() > 1 && group != SCALES;
            Some(Trainable {
                name: name.to_string(),
                shape,
                dtype,
                group,
                decay: if matrix { recipe.optimizer.decay } else { 0.0 },
            })
        });
        weights.collect()
    }

    /// Leading latent weights that do not train.
    fn frozen(&self) -> usize {
        match self.derive {
            Derive::Residual => 0,
            Derive::Independent => self.stage.frozen,
        }
    }

    /// The names of what trains.
    pub fn trained_names(&self) -> Vec<String> {
        self.trained.iter().map(|t| t.name.clone()).collect()
    }

    /// Gives `engine` the student's weights from `source`, in the types that the graph has.
    pub fn set_weights(
        &self,
        engine: &mut dyn Engine,
        source: &dyn WeightStore,
    ) -> Result<(), TrainError> {
        for (name, dtype, shape) in self.weights() {
            let tensor = held(source.load(name)?, dtype);
            if tensor.shape != shape {
                let found = tensor.shape;
                let what = format!("weight `{name}` is {found:?}, the student has {shape:?}");
                return Err(TrainError::Setting(what));
            }
            engine.set_weight(name, &tensor)?;
            source.release(name);
        }
        Ok(())
    }
}

/// The learning rates of all groups for a factor.
pub fn rates(recipe: &Recipe, factor: f32) -> Vec<f32> {
    let rates = recipe.optimizer.rates;
    [rates.shared, rates.scales, rates.rest]
        .map(|rate| rate * factor)
        .to_vec()
}

/// Gives `engine` the teacher's weights from `source`, as its graph reads them.
pub fn set_teacher(
    engine: &mut dyn Engine,
    model: &Graph,
    source: &dyn WeightStore,
) -> Result<(), TrainError> {
    for (name, ty) in graphs::weights(model) {
        let tensor = source.load(&name)?;
        if tensor.ty() != ty {
            let found = tensor.ty();
            let what = format!("the teacher's `{name}` is {found}, its graph has {ty}");
            return Err(TrainError::Setting(what));
        }
        engine.set_weight(&format!("{}{name}", graphs::TEACHER), &tensor)?;
        source.release(&name);
    }
    Ok(())
}
