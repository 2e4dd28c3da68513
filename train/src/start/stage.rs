//! From one stage of a run to the next: the student gets one more path.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::PoisonError;

use rabitc_ir::{DType, Data, Tensor, WeightError, WeightStore};
use rabitc_passes::autodiff::training::BinaryLayer;

use super::{Part, dense_name, fit, held, parts};
use crate::cores::{LayerValues, stored_scales};
use crate::recipe::Recipe;
use crate::start::{Importance, LayerScales};

/// The weights of a student with one path more than the student of the stage before it had. The
/// new path is fitted to what the trained ones leave of the dense weight.
pub struct Grown<'a> {
    dense: &'a dyn WeightStore,
    recipe: &'a Recipe,
    /// Paths of the student before.
    before: usize,
    layers: &'a [BinaryLayer],
    importance: Option<&'a Importance>,
    /// All weights of the student before.
    weights: BTreeMap<String, Tensor>,
    parts: HashMap<String, (usize, Part)>,
    /// The new path of a layer: its latent weight and scales.
    added: Mutex<BTreeMap<usize, (Tensor, LayerScales)>>,
}

impl<'a> Grown<'a> {
    /// `weights` are those of the student before, which had `before` paths; `layers` are those of
    /// the new one.
    pub fn new(
        dense: &'a dyn WeightStore,
        recipe: &'a Recipe,
        before: usize,
        layers: &'a [BinaryLayer],
        importance: Option<&'a Importance>,
        weights: BTreeMap<String, Tensor>,
    ) -> Self {
        Grown {
            dense,
            recipe,
            before,
            layers,
            importance,
            weights,
            parts: parts(layers),
            added: Mutex::default(),
        }
    }

    /// The new path of a layer.
    fn added(&self, layer: usize) -> Result<(Tensor, LayerScales), WeightError> {
        let added = || self.added.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = added().get(&layer) {
            return Ok(found.clone());
        }
        let rest = self.rest(layer)?;
        let node = &self.layers[layer].node;
        let invalid = |reason: String| WeightError::Invalid {
            name: node.clone(),
            reason,
        };
        let channels = self.importance.map(|i| i.factors(node)).transpose();
        let channels = channels.map_err(invalid)?;
        let shape = [1, rest.shape[0], rest.shape[1]];
        let scales = fit::fit(rest.floats(), shape, self.recipe.initial.fit(), channels);
        let scales = scales.map_err(|e| invalid(e.to_string()))?;
        added().insert(layer, (rest.clone(), scales.clone()));
        Ok((rest, scales))
    }

    /// What the trained paths leave of the dense weight.
    fn rest(&self, layer: usize) -> Result<Tensor, WeightError> {
        let names = &self.layers[layer];
        let dense = dense_name(names);
        let mut rest = self.dense.load(&dense)?;
        self.dense.release(&dense);
        let latents = names.latents[..self.before].iter();
        let latents: Vec<Tensor> = latents
            .map(|n| self.weights.load(n))
            .collect::<Result<_, _>>()?;
        let latents: Vec<&[f32]> = latents.iter().map(Tensor::floats).collect();
        let [g, h] = [&names.g, &names.h].map(|name| self.weights.load(name));
        let [g, h] = [g?, h?].map(|scales| stored_scales(scales.floats()));
        let trained = LayerValues::new(self.recipe.derive(), g, h, &latents, self.before);
        if let Data::F32(values) = &mut rest.data {
            let pairs = values.iter_mut().zip(trained.effective());
            pairs.for_each(|(w, trained)| *w -= trained);
        }
        rest.dtype = DType::F32;
        Ok(held(rest, self.recipe.dtype()))
    }

    /// The scales of the paths before with those of the new one after them.
    fn extended(&self, name: &str, new: Vec<f32>) -> Result<Tensor, WeightError> {
        let mut values = self.weights.load(name)?.floats().to_vec();
        let channels = new.len();
        values.extend(new);
        Ok(Tensor::f32(&[self.before + 1, channels], values))
    }
}

impl WeightStore for Grown<'_> {
    fn info(&self, name: &str) -> Option<(DType, Vec<usize>)> {
        self.load(name).ok().map(|t| (t.dtype, t.shape))
    }

    fn load(&self, name: &str) -> Result<Tensor, WeightError> {
        match self.parts.get(name) {
            Some((layer, Part::G)) => self.extended(name, self.added(*layer)?.1.g),
            Some((layer, Part::H)) => self.extended(name, self.added(*layer)?.1.h),
            Some((layer, Part::Latent(path))) if *path == self.before => Ok(self.added(*layer)?.0),
            _ => self.weights.load(name),
        }
    }
}
