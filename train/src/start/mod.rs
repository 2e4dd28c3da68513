//! The weights that a student starts from.

mod fit;
pub mod importance;
mod stage;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use rabitc_ir::ops::effective_weight::Derive;
use rabitc_ir::{DType, Data, Tensor, WeightError, WeightStore};
use rabitc_passes::autodiff::training::BinaryLayer;

use crate::error::TrainError;
use crate::recipe::Recipe;
pub use fit::LayerScales;
pub use importance::Importance;
pub use stage::Grown;

/// A weight as it is held in `dtype`: floats rounded to it.
pub fn held(mut tensor: Tensor, dtype: DType) -> Tensor {
    if let Data::F32(values) = &mut tensor.data {
        match dtype {
            DType::BF16 => values
                .iter_mut()
                .for_each(|x| *x = half::bf16::from_f32(*x).to_f32()),
            DType::F16 => values
                .iter_mut()
                .for_each(|x| *x = half::f16::from_f32(*x).to_f32()),
            _ => {}
        }
        tensor.dtype = dtype;
    }
    tensor
}

/// A weight rounded to `dtype`, as it is written to a file.
///
/// # Errors
/// A finite value that `dtype` does not reach: rounding would make it infinite.
pub fn rounded(name: &str, tensor: Tensor, dtype: DType) -> Result<Tensor, TrainError> {
    let largest = match dtype {
        DType::F16 => half::f16::MAX.to_f32(),
        DType::BF16 => half::bf16::MAX.to_f32(),
        _ => f32::MAX,
    };
    let before = match &tensor.data {
        Data::F32(values) => values.iter().copied().find(|x| x.abs() > largest),
        _ => None,
    };
    match before {
        None => Ok(held(tensor, dtype)),
        Some(x) => Err(TrainError::Setting(format!(
            "`{name}` holds {x}, and {} ends at {largest}",
            dtype.name()
        ))),
    }
}

/// What a weight of a residual-binary layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    G,
    H,
    Latent(usize),
}

/// Which layer each weight belongs to, and as what.
fn parts(layers: &[BinaryLayer]) -> HashMap<String, (usize, Part)> {
    let mut out = HashMap::new();
    for (i, layer) in layers.iter().enumerate() {
        out.insert(layer.g.clone(), (i, Part::G));
        out.insert(layer.h.clone(), (i, Part::H));
        let latents = layer.latents.iter().enumerate();
        out.extend(latents.map(|(path, name)| (name.clone(), (i, Part::Latent(path)))));
    }
    out
}

/// The name of the dense weight that the latent weights of a layer stand for.
fn dense_name(layer: &BinaryLayer) -> String {
    let base = layer
        .g
        .strip_suffix(rabitc_passes::pass::binarize::G_SUFFIX);
    format!("{}.weight", base.unwrap_or(&layer.g))
}

/// A student that starts from a dense model: its weights by the names they have in the student's
/// graph. Scales are fitted when they are first read, and kept; where the model has scales already,
/// those are taken.
///
/// The cores of the fit are those that the student derives: with one shared weight that is the
/// dense weight itself; with a latent weight a path, path i starts from what the paths before it
/// left, whose signs its cores are.
pub struct Fresh<'a> {
    dense: &'a dyn WeightStore,
    recipe: &'a Recipe,
    paths: usize,
    layers: &'a [BinaryLayer],
    importance: Option<&'a Importance>,
    parts: HashMap<String, (usize, Part)>,
    fits: Mutex<BTreeMap<usize, Arc<LayerScales>>>,
}

impl<'a> Fresh<'a> {
    /// The start of the student with these `layers` of `paths` paths.
    pub fn new(
        dense: &'a dyn WeightStore,
        recipe: &'a Recipe,
        paths: usize,
        layers: &'a [BinaryLayer],
        importance: Option<&'a Importance>,
    ) -> Self {
        Fresh {
            dense,
            recipe,
            paths,
            layers,
            importance,
            parts: parts(layers),
            fits: Mutex::default(),
        }
    }

    /// The dense weight of a layer, as the student holds it.
    fn dense(&self, layer: usize) -> Result<Tensor, WeightError> {
        let name = dense_name(&self.layers[layer]);
        let tensor = held(self.dense.load(&name)?, self.recipe.dtype());
        self.dense.release(&name);
        Ok(tensor)
    }

    fn scales(&self, layer: usize) -> Result<Arc<LayerScales>, WeightError> {
        let fits = || self.fits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(scales) = fits().get(&layer) {
            return Ok(scales.clone());
        }
        let scales = Arc::new(match self.stored(layer)? {
            Some(scales) => scales,
            None => self.fitted(layer)?,
        });
        fits().insert(layer, scales.clone());
        Ok(scales)
    }

    /// The scales that the model has already, if it was trained before.
    fn stored(&self, layer: usize) -> Result<Option<LayerScales>, WeightError> {
        let names = &self.layers[layer];
        let Some((_, shape)) = self.dense.info(&names.g) else {
            return Ok(None);
        };
        if shape.first() != Some(&self.paths) {
            let (name, paths) = (names.g.clone(), self.paths);
            let reason = format!("is {shape:?}, the student has {paths} paths");
            return Err(WeightError::Invalid { name, reason });
        }
        let [g, h] = [&names.g, &names.h].map(|name| self.dense.load(name));
        let [g, h] = [g?, h?];
        Ok(Some(LayerScales {
            shape: [self.paths, g.width(), h.width()],
            g: g.floats().to_vec(),
            h: h.floats().to_vec(),
        }))
    }

    fn fitted(&self, layer: usize) -> Result<LayerScales, WeightError> {
        let weight = self.dense(layer)?;
        let node = &self.layers[layer].node;
        let channels = self.importance.map(|i| i.factors(node)).transpose();
        let invalid = |reason: String| WeightError::Invalid {
            name: node.clone(),
            reason,
        };
        let channels = channels.map_err(invalid)?;
        let shape = [self.paths, weight.shape[0], weight.shape[1]];
        let scales = fit::fit(weight.floats(), shape, self.recipe.initial.fit(), channels);
        scales.map_err(|e| invalid(e.to_string()))
    }

    fn latent(&self, layer: usize, path: usize) -> Result<Tensor, WeightError> {
        let mut weight = self.dense(layer)?;
        if let (Derive::Independent, Data::F32(values)) = (self.recipe.derive(), &mut weight.data) {
            self.scales(layer)?.leave(values, path);
        }
        Ok(held(weight, self.recipe.dtype()))
    }
}

impl WeightStore for Fresh<'_> {
    fn info(&self, name: &str) -> Option<(DType, Vec<usize>)> {
        match self.parts.contains_key(name) {
            true => self.load(name).ok().map(|t| (t.dtype, t.shape)),
            false => self.dense.info(name),
        }
    }

    fn load(&self, name: &str) -> Result<Tensor, WeightError> {
        match self.parts.get(name) {
            None => self.dense.load(name),
            Some((layer, Part::Latent(path))) => self.latent(*layer, *path),
            Some((layer, Part::G)) => Ok(self.scales(*layer)?.g()),
            Some((layer, Part::H)) => Ok(self.scales(*layer)?.h()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_type_does_not_reach_is_refused_by_name() {
        let tensor = |x: f32| Tensor::f32(&[2], vec![-1.0, x]);
        let largest = half::f16::MAX.to_f32();
        let kept = rounded("w", tensor(-largest), DType::F16).unwrap();
        assert_eq!(kept.floats(), [-1.0, -largest]);
        for (x, dtype, words) in [
            (
                65_505.0,
                DType::F16,
                "`w` holds 65505, and f16 ends at 65504",
            ),
            (-70_000.0, DType::F16, "`w` holds -70000, and f16"),
            (f32::MAX, DType::BF16, "and bf16 ends at 33895"),
        ] {
            let message = rounded("w", tensor(x), dtype).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
        assert!(rounded("w", tensor(f32::MAX), DType::F32).is_ok());
    }
}
