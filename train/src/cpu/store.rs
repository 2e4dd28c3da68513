//! The tensors that the engine holds.
//!
//! Floats are held as f32 whatever their type: it has every value of the 16-bit types, and kernels
//! know no other. A bf16 weight is one whose updates are rounded.

use std::collections::BTreeMap;

use rabitc_ir::{DType, Data, Tensor};
use rabitc_runtime::aligned::AlignedBytes;

use crate::engine::{EngineError, State, Trainable};

/// A weight.
pub struct Weight {
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub data: AlignedBytes,
}

/// What belongs to a weight that is trained, of its size.
pub struct Trained {
    /// Which of [`Store::weights`].
    pub weight: usize,
    pub what: Trainable,
    pub gradient: AlignedBytes,
    pub moment1: AlignedBytes,
    pub moment2: AlignedBytes,
}

/// All tensors, weights and what is trained each by number.
#[derive(Default)]
pub struct Store {
    pub weights: Vec<Weight>,
    pub trained: Vec<Trained>,
    names: BTreeMap<String, usize>,
    trained_names: BTreeMap<String, usize>,
}

/// Zeroed memory for `elements` f32s.
pub fn floats(elements: usize, what: &'static str) -> Result<AlignedBytes, EngineError> {
    let bytes = elements.checked_mul(4);
    let bytes = bytes.ok_or_else(|| EngineError::new(format!("{what} exceed any memory")))?;
    Ok(AlignedBytes::zeroed(bytes, what)?)
}

impl Weight {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len() / 4
    }

    fn tensor(&self, data: &AlignedBytes, dtype: DType) -> Tensor {
        Tensor {
            dtype,
            shape: self.shape.clone(),
            data: Data::F32(data.as_f32().to_vec()),
        }
    }
}

impl Store {
    /// The number of a weight.
    pub fn weight(&self, name: &str) -> Result<usize, EngineError> {
        let found = self.names.get(name).copied();
        found.ok_or_else(|| EngineError::new(format!("weight `{name}` has not been set")))
    }

    /// The number of what is trained of a weight.
    pub fn trained(&self, name: &str) -> Result<usize, EngineError> {
        let found = self.trained_names.get(name).copied();
        found.ok_or_else(|| EngineError::new(format!("weight `{name}` is not trained")))
    }

    /// Names of what is trained.
    pub fn trained_names(&self) -> impl Iterator<Item = &str> {
        self.trained_names.keys().map(String::as_str)
    }

    /// Makes a weight or replaces its values.
    pub fn set(&mut self, name: &str, value: &Tensor) -> Result<(), EngineError> {
        let Data::F32(data) = &value.data else {
            let ty = value.ty();
            return Err(EngineError::new(format!(
                "weight `{name}` is {ty}: weights of training graphs are floats"
            )));
        };
        let index = match self.names.get(name) {
            Some(index) => *index,
            None => {
                self.weights.push(Weight {
                    dtype: value.dtype,
                    shape: value.shape.clone(),
                    data: floats(data.len(), "a weight")?,
                });
                self.names.insert(name.to_string(), self.weights.len() - 1);
                self.weights.len() - 1
            }
        };
        let weight = &mut self.weights[index];
        if (weight.dtype, &weight.shape) != (value.dtype, &value.shape) {
            let (found, expected) = (value.ty(), weight.tensor(&weight.data, weight.dtype).ty());
            return Err(EngineError::new(format!(
                "weight `{name}` is {expected}: it cannot become {found}"
            )));
        }
        weight.data.as_mut_f32().copy_from_slice(data);
        Ok(())
    }

    /// Reads a weight.
    pub fn get(&self, name: &str) -> Result<Tensor, EngineError> {
        let weight = &self.weights[self.weight(name)?];
        Ok(weight.tensor(&weight.data, weight.dtype))
    }

    /// Makes gradients and moments for what is trained.
    pub fn train(&mut self, what: &[Trainable]) -> Result<(), EngineError> {
        if !self.trained.is_empty() {
            return Err(EngineError::new("what is trained has been said already"));
        }
        for what in what {
            let index = self.weight(&what.name)?;
            let weight = &self.weights[index];
            let (name, n) = (what.name.clone(), weight.len());
            if (weight.dtype, &weight.shape) != (what.dtype, &what.shape) {
                let found = weight.tensor(&weight.data, weight.dtype).ty();
                return Err(EngineError::new(format!(
                    "weight `{name}` is {found}, to be trained as {}{:?}",
                    what.dtype, what.shape
                )));
            }
            if !matches!(what.dtype, DType::F32 | DType::BF16) {
                return Err(EngineError::new(format!(
                    "weight `{name}` is {}: what is trained is f32 or bf16",
                    what.dtype
                )));
            }
            let number = self.trained.len();
            if self.trained_names.insert(name.clone(), number).is_some() {
                return Err(EngineError::new(format!(
                    "weight `{name}` is to be trained twice"
                )));
            }
            self.trained.push(Trained {
                weight: index,
                what: what.clone(),
                gradient: floats(n, "a gradient")?,
                moment1: floats(n, "a first moment")?,
                moment2: floats(n, "a second moment")?,
            });
        }
        Ok(())
    }

    /// Reads a moment.
    pub fn state(&self, name: &str, which: State) -> Result<Tensor, EngineError> {
        let trained = &self.trained[self.trained(name)?];
        let moment = match which {
            State::Moment1 => &trained.moment1,
            State::Moment2 => &trained.moment2,
        };
        Ok(self.weights[trained.weight].tensor(moment, DType::F32))
    }

    /// Replaces a moment.
    pub fn set_state(
        &mut self,
        name: &str,
        which: State,
        value: &Tensor,
    ) -> Result<(), EngineError> {
        let number = self.trained(name)?;
        let trained = &mut self.trained[number];
        let shape = &self.weights[trained.weight].shape;
        let moment = match which {
            State::Moment1 => &mut trained.moment1,
            State::Moment2 => &mut trained.moment2,
        };
        match &value.data {
            Data::F32(data) if value.dtype == DType::F32 && value.shape == *shape => {
                moment.as_mut_f32().copy_from_slice(data);
                Ok(())
            }
            _ => Err(EngineError::new(format!(
                "a moment of `{name}` is f32{shape:?}, found {}",
                value.ty()
            ))),
        }
    }
}
