//! Where a graph's weights come from.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::tensor::Tensor;
use crate::types::DType;

/// Why a weight could not be read.
#[derive(Debug, thiserror::Error)]
pub enum WeightError {
    /// No tensor of that name.
    #[error("there is no weight named `{0}`")]
    Missing(String),
    /// The tensor is there, but what it holds cannot be used.
    #[error("weight `{name}`: {reason}")]
    Invalid {
        /// The tensor.
        name: String,
        /// What is wrong, and where.
        reason: String,
    },
}

/// Gives weights by name, one at a time, so that no model is ever in memory whole.
pub trait WeightStore: Sync {
    /// Element type and shape, without reading the data. Packed signs (`….rb_bits`) are
    /// `Bit [k, d_out, d_in]` here where `d_in` is known, else their storage type.
    fn info(&self, name: &str) -> Option<(DType, Vec<usize>)>;
    /// The elements, floats widened to f32. Float weights must be finite.
    fn load(&self, name: &str) -> Result<Tensor, WeightError>;
    /// The bytes as they are stored, little endian, without a copy where possible. Float weights
    /// must be finite.
    fn raw(&self, name: &str) -> Result<Cow<'_, [u8]>, WeightError> {
        self.load(name).map(|t| Cow::Owned(t.to_le_bytes()))
    }
    /// Says that the tensor's data is not needed for now, so that memory it takes can be given
    /// back. It can still be read later.
    fn release(&self, _name: &str) {}
}

/// A store that holds its tensors in memory: for tests and small graphs.
impl WeightStore for BTreeMap<String, Tensor> {
    fn info(&self, name: &str) -> Option<(DType, Vec<usize>)> {
        self.get(name).map(|t| (t.dtype, t.shape.clone()))
    }
    fn load(&self, name: &str) -> Result<Tensor, WeightError> {
        self.get(name)
            .cloned()
            .ok_or_else(|| WeightError::Missing(name.to_string()))
    }
}
