//! A weight store that adds fitted scales to a checkpoint of dense weights.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use rabitc_ir::{DType, Data, Graph, Op, Tensor, WeightError, WeightStore};

use crate::pass::binarize::{G_SUFFIX, H_SUFFIX};
use crate::svid::{self, Init, Scales};

/// What one layer's scales are fitted to.
#[derive(Clone, Debug)]
struct Request {
    weight: String,
    paths: usize,
    shape: [usize; 2],
}

/// A checkpoint's weights, and for every scale that a graph asks for and the checkpoint lacks,
/// the fit to the dense weight of the same layer, computed when first read and kept.
pub struct FittedStore<'a> {
    base: &'a dyn WeightStore,
    init: Init,
    requests: BTreeMap<String, Request>,
    fits: Mutex<HashMap<String, Arc<Scales>>>,
}

impl<'a> FittedStore<'a> {
    /// Finds the scales that `graph` reads and `base` does not have. `graph` is as the binarize
    /// pass leaves it.
    pub fn new(base: &'a dyn WeightStore, graph: &Graph, init: Init) -> Self {
        let mut requests = BTreeMap::new();
        for id in graph.order() {
            let Op::ResidualSign(_) = graph.op(id) else {
                continue;
            };
            let sources = graph.operands(id).into_iter();
            let names: Option<Vec<&String>> = sources
                .map(|o| match graph.op(o) {
                    Op::Weight(w) => Some(&w.name),
                    _ => None,
                })
                .collect();
            let shape = graph.ty(id).fixed_shape().unwrap_or_default();
            // One of the two alone would not go with the other's fit: reading it is an error.
            let (Some([weight, scales @ ..]), &[paths, d_out, d_in]) =
                (names.as_deref(), shape.as_slice())
            else {
                continue;
            };
            if scales.iter().all(|name| base.info(name).is_none()) {
                let request = Request {
                    weight: weight.to_string(),
                    paths,
                    shape: [d_out, d_in],
                };
                requests.extend(
                    scales
                        .iter()
                        .map(|name| (name.to_string(), request.clone())),
                );
            }
        }
        FittedStore {
            base,
            init,
            requests,
            fits: Mutex::new(HashMap::new()),
        }
    }

    /// Layers whose scales are fitted.
    pub fn layers(&self) -> usize {
        self.requests.len() / 2
    }

    fn fit(&self, request: &Request) -> Result<Arc<Scales>, WeightError> {
        let fits = || self.fits.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(scales) = fits().get(&request.weight) {
            return Ok(scales.clone());
        }
        let dense = self.base.load(&request.weight)?;
        let [d_out, d_in] = request.shape;
        if !dense.dtype.is_float() || dense.shape != request.shape {
            return Err(WeightError::Invalid {
                name: request.weight.clone(),
                reason: format!("is {}, the graph has [{d_out},{d_in}] floats", dense.ty()),
            });
        }
        let scales = svid::fit_scales(dense.floats(), d_out, d_in, request.paths, self.init);
        let scales = Arc::new(scales.map_err(|e| WeightError::Invalid {
            name: request.weight.clone(),
            reason: e.to_string(),
        })?);
        fits().insert(request.weight.clone(), scales.clone());
        Ok(scales)
    }
}

impl WeightStore for FittedStore<'_> {
    fn info(&self, name: &str) -> Option<(DType, Vec<usize>)> {
        match self.requests.get(name) {
            None => self.base.info(name),
            Some(r) if name.ends_with(G_SUFFIX) => Some((DType::F16, vec![r.paths, r.shape[0]])),
            Some(r) => Some((DType::F16, vec![r.paths, r.shape[1]])),
        }
    }

    fn load(&self, name: &str) -> Result<Tensor, WeightError> {
        let Some(request) = self.requests.get(name) else {
            return self.base.load(name);
        };
        let scales = self.fit(request)?;
        let (values, channels) = match name.ends_with(H_SUFFIX) {
            true => (&scales.h, request.shape[1]),
            false => (&scales.g, request.shape[0]),
        };
        Ok(Tensor {
            dtype: DType::F16,
            shape: vec![request.paths, channels],
            data: Data::F32(values.iter().map(|x| x.to_f32()).collect()),
        })
    }

    fn raw(&self, name: &str) -> Result<Cow<'_, [u8]>, WeightError> {
        match self.requests.contains_key(name) {
            true => self.load(name).map(|t| Cow::Owned(t.to_le_bytes())),
            false => self.base.raw(name),
        }
    }

    fn release(&self, name: &str) {
        match self.requests.get(name) {
            Some(request) => self.base.release(&request.weight),
            None => self.base.release(name),
        }
    }
}
