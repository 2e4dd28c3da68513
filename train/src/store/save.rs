//! Writes the checkpoint of a run.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::path::Path;

use rabitc_frontend::BUFFERS_KEY;
use rabitc_ir::ops::effective_weight::Derive;
use rabitc_ir::{DType, Tensor};
use rabitc_passes::autodiff::training::BinaryLayer;
use rabitc_passes::pass::binarize::G_SUFFIX;

use super::atomic::{Entry, Tensors};
use super::clean::remove_others;
use super::{MASTER, MODEL, MOMENT1, MOMENT2, RunState, STATE, STEP, optimizer_path};
use crate::cores::{LayerValues, stored_scales};
use crate::engine::{Engine, State};
use crate::error::TrainError;
use crate::graphs::SCALES;
use crate::plan::Plan;
use crate::start::rounded;

/// Suffix of packed signs.
const BITS_SUFFIX: &str = ".rb_bits";

/// Saves all that `engine` holds of the student in `dir`. Whatever happens meanwhile, `dir` has
/// either this checkpoint or the one before.
///
/// # Errors
/// A disk that is full, a folder that cannot be written to, or what the engine refuses.
pub fn save(
    dir: &Path,
    engine: &mut dyn Engine,
    plan: &Plan,
    state: &RunState,
) -> Result<(), TrainError> {
    write_optimizer(dir, engine, plan, state)?;
    write_model(dir, engine, plan, state)?;
    remove_others(dir, state.step)
}

/// The names of weights that the model's file has in another form than they are trained in.
fn masters(plan: &Plan) -> HashSet<&str> {
    let layers = plan.student.layers.iter();
    let names = layers.flat_map(|layer| {
        let latents = match plan.derive {
            Derive::Residual => &[][..],
            Derive::Independent => &layer.latents[..],
        };
        [&layer.g, &layer.h].into_iter().chain(latents)
    });
    names.map(String::as_str).collect()
}

fn write_optimizer(
    dir: &Path,
    engine: &mut dyn Engine,
    plan: &Plan,
    state: &RunState,
) -> Result<(), TrainError> {
    let masters = masters(plan);
    let mut entries: Vec<Entry> = Vec::new();
    for (name, dtype, shape) in plan.weights() {
        if masters.contains(name) {
            entries.push((format!("{MASTER}{name}"), dtype, shape));
        }
    }
    for what in &plan.trained {
        for prefix in [MOMENT1, MOMENT2] {
            let name = format!("{prefix}{}", what.name);
            entries.push((name, DType::F32, what.shape.clone()));
        }
    }
    let path = optimizer_path(dir, state.step);
    let text = serde_json::to_string(state);
    let text = text.map_err(|e| TrainError::file(&path, e.to_string()))?;
    let metadata = HashMap::from([(STATE.to_string(), text)]);
    let mut file = Tensors::create(&path, &entries, metadata)?;
    for (name, _, _) in &entries {
        let tensor = match (
            name.strip_prefix(MASTER),
            name.strip_prefix(MOMENT1),
            name.strip_prefix(MOMENT2),
        ) {
            (Some(name), _, _) => engine.weight(name)?,
            (_, Some(name), _) => engine.state(name, State::Moment1)?,
            (_, _, name) => engine.state(name.unwrap_or_default(), State::Moment2)?,
        };
        file.tensor(name, &finite(name, tensor)?.to_le_bytes())?;
    }
    file.finish()
}

/// A tensor of the model's file and where it comes from.
enum Source<'a> {
    /// A weight as it is.
    Weight,
    /// Scales, rounded.
    Scales,
    /// The signs of a layer.
    Signs(&'a BinaryLayer),
}

fn write_model(
    dir: &Path,
    engine: &mut dyn Engine,
    plan: &Plan,
    state: &RunState,
) -> Result<(), TrainError> {
    let (mut entries, mut sources) = (Vec::<Entry>::new(), Vec::new());
    let masters = masters(plan);
    for (name, dtype, shape) in plan.weights() {
        let layer = plan.student.layers.iter().find(|l| l.g == name);
        if let (Some(layer), Derive::Independent) = (layer, plan.derive) {
            let d_in = plan.shape(&layer.h).last().copied().unwrap_or(0);
            let bits = format!("{}{BITS_SUFFIX}", name.trim_end_matches(G_SUFFIX));
            entries.push((bits, DType::Bit, vec![shape[0], shape[1], d_in]));
            sources.push(Source::Signs(layer));
        }
        if !masters.contains(name) {
            entries.push((name.to_string(), dtype, shape));
            sources.push(Source::Weight);
        } else if plan.is_scale(name) {
            entries.push((name.to_string(), SCALES, shape));
            sources.push(Source::Scales);
        }
    }
    // Wider elements first, so that every tensor is aligned to its own.
    let mut order: Vec<_> = entries.into_iter().zip(sources).collect();
    order.sort_by_key(|((_, dtype, _), _)| Reverse(dtype.bits()));
    let entries: Vec<Entry> = order.iter().map(|(entry, _)| entry.clone()).collect();
    let pairs = [
        ("format", "pt".to_string()),
        (BUFFERS_KEY, state.buffers.clone()),
        (STEP, state.step.to_string()),
    ];
    let metadata = pairs.map(|(key, value)| (key.to_string(), value)).into();
    let mut file = Tensors::create(&dir.join(MODEL), &entries, metadata)?;
    for ((name, _, _), source) in &order {
        let bytes = match source {
            Source::Weight => finite(name, engine.weight(name)?)?.to_le_bytes(),
            Source::Scales => {
                let scales = finite(name, engine.weight(name)?)?;
                rounded(name, scales, SCALES)?.to_le_bytes()
            }
            Source::Signs(layer) => layer_values(engine, plan, layer)?.bits,
        };
        file.tensor(name, &bytes)?;
    }
    file.finish()
}

/// A checkpoint with numbers that are none could not be read again.
fn finite(name: &str, tensor: Tensor) -> Result<Tensor, TrainError> {
    match tensor.floats().iter().find(|x| !x.is_finite()) {
        None => Ok(tensor),
        Some(x) => Err(TrainError::Setting(format!(
            "`{name}` has become {x}: the learning rate may be too high"
        ))),
    }
}

/// The layer's scales and cores as the forward pass has them.
pub fn layer_values(
    engine: &mut dyn Engine,
    plan: &Plan,
    layer: &BinaryLayer,
) -> Result<LayerValues, TrainError> {
    let g = stored_scales(engine.weight(&layer.g)?.floats());
    let h = stored_scales(engine.weight(&layer.h)?.floats());
    let latents = layer.latents.iter().map(|name| engine.weight(name));
    let latents = latents.collect::<Result<Vec<_>, _>>()?;
    let latents: Vec<&[f32]> = latents.iter().map(Tensor::floats).collect();
    Ok(LayerValues::new(
        plan.derive,
        g,
        h,
        &latents,
        plan.stage.paths,
    ))
}
