//! How much memory a run takes, without running it.

use std::collections::HashSet;

use rabitc_codegen::train::{Options, plan};
use rabitc_ir::{DType, Graph, Type};
use serde::{Deserialize, Serialize};

use crate::cpu::widen;
use crate::error::TrainError;
use crate::graphs;
use crate::plan::Plan;
use crate::recipe::{Method, Recipe};

/// Bytes on the device that trains.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryPlan {
    /// The student's weights.
    pub weights: u64,
    /// The teacher's.
    pub teacher: u64,
    /// Gradients of what trains, f32.
    pub gradients: u64,
    /// Two moments of what trains, f32.
    pub optimizer: u64,
    /// The intermediate values of the larger of a training step and a validation.
    pub activations: u64,
    /// All of these.
    pub total: u64,
    /// Weights of binarized layers, each counted once however many latent weights it has.
    pub binarized: u64,
    /// Bytes of moments a binarized weight.
    pub optimizer_per_binarized: f64,
}

impl MemoryPlan {
    /// Plans the stage of a run that takes most: the last one. Activations are stored as
    /// `storage`; `window` is the length of validation windows, if there are any.
    ///
    /// # Errors
    /// A model or recipe that cannot be trained.
    pub fn new(
        model: &Graph,
        recipe: &Recipe,
        storage: DType,
        window: Option<usize>,
    ) -> Result<MemoryPlan, TrainError> {
        let plans = recipe.stages().into_iter().map(|stage| {
            let plan = Plan::new(model, recipe, &stage)?;
            MemoryPlan::stage(model, recipe, &plan, storage, window)
        });
        let plans = plans.collect::<Result<Vec<_>, TrainError>>()?;
        Ok(plans
            .into_iter()
            .max_by_key(|p| p.total)
            .unwrap_or_default())
    }

    fn stage(
        model: &Graph,
        recipe: &Recipe,
        stage: &Plan,
        storage: DType,
        window: Option<usize>,
    ) -> Result<MemoryPlan, TrainError> {
        let trained = stage.trained.iter().map(|t| elements(&t.shape));
        let trained: u64 = trained.sum();
        let names = stage.trained_names();
        let step = graphs::step(&stage.student, model, recipe, &names)?;
        let tokens = recipe.tokens().ok_or_else(too_large)?;
        let mut activations = arena(&step, tokens, storage, &names)?;
        if recipe.noise.by_teacher() {
            let graph = graphs::writing(model, recipe.seq_len)?;
            activations = activations.max(arena(&graph, tokens, storage, &[])?);
        }
        if let Some(window) = window {
            let student = graphs::student(model, recipe, &stage.stage, window)?;
            let graph = graphs::validation(&student, model, window)?;
            let tokens = (tokens / window).max(1) * window;
            activations = activations.max(arena(&graph, tokens, storage, &[])?);
        }
        let mut out = MemoryPlan {
            weights: bytes(&stage.student.graph, storage),
            teacher: bytes(model, storage),
            gradients: trained * 4,
            optimizer: trained * 8,
            activations,
            ..MemoryPlan::default()
        };
        out.total = out.weights + out.teacher + out.gradients + out.optimizer + out.activations;
        out.count_binarized(stage);
        Ok(out)
    }

    fn count_binarized(&mut self, stage: &Plan) {
        let latents = |name: &String| stage.trained.iter().any(|t| t.name == *name);
        let mut moments = 0;
        for layer in &stage.student.layers {
            let [g, h] = [&layer.g, &layer.h].map(|name| stage.shape(name)[1] as u64);
            self.binarized += g * h;
            moments += 8 * g * h * layer.latents.iter().filter(|n| latents(n)).count() as u64;
            let scales = [&layer.g, &layer.h].into_iter().filter(|n| latents(n));
            moments += scales.map(|n| 8 * elements(&stage.shape(n))).sum::<u64>();
        }
        self.optimizer_per_binarized = moments as f64 / self.binarized.max(1) as f64;
    }
}

/// The plan for every method, the recipe otherwise the same.
pub fn by_method(
    model: &Graph,
    recipe: &Recipe,
    storage: DType,
    window: Option<usize>,
) -> Result<Vec<(Method, MemoryPlan)>, TrainError> {
    let plans = Method::ALL.iter().map(|method| {
        let recipe = Recipe {
            method: *method,
            ..recipe.clone()
        };
        Ok((*method, MemoryPlan::new(model, &recipe, storage, window)?))
    });
    plans.collect()
}

fn too_large() -> TrainError {
    TrainError::Setting("a batch has more tokens than can be counted: give a smaller one".into())
}

fn elements(shape: &[usize]) -> u64 {
    shape.iter().map(|n| *n as u64).product()
}

/// Bytes of a graph's weights. Engines that store activations as f32 hold weights so, too.
fn bytes(graph: &Graph, storage: DType) -> u64 {
    let weights = graphs::weights(graph).into_iter();
    let size = |ty: Type| match storage {
        DType::F32 => elements(&ty.fixed_shape().unwrap_or_default()) * 4,
        _ => ty.storage_bytes().unwrap_or(0) as u64,
    };
    weights.map(|(_, ty)| size(ty)).sum()
}

fn arena(
    graph: &Graph,
    tokens: usize,
    storage: DType,
    trained: &[String],
) -> Result<u64, TrainError> {
    let trained: HashSet<String> = trained.iter().cloned().collect();
    let options = Options {
        tokens,
        storage,
        trained,
        join_norms: storage != DType::F32,
    };
    // Products of weights held in 16 bits read copies; with f32 storage there are none.
    let arena = match storage {
        DType::F32 => plan(&widen(graph)?, &options)?.arena,
        _ => plan(graph, &options)?.arena,
    };
    Ok(arena as u64)
}
