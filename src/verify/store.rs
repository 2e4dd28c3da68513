//! An artifact's tensors as a weight store for the interpreter.

use std::borrow::Cow;

use rabitc_ir::{DType, Tensor, WeightError, WeightStore};
use rabitc_rbx::Artifact;

/// Reads weights from an artifact.
pub struct ArtifactStore<'a> {
    artifact: &'a Artifact,
}

impl<'a> ArtifactStore<'a> {
    /// A store over `artifact`.
    pub fn new(artifact: &'a Artifact) -> Self {
        ArtifactStore { artifact }
    }
}

fn dtype(name: &str) -> Option<DType> {
    Some(match name {
        "F32" => DType::F32,
        "F16" => DType::F16,
        "BF16" => DType::BF16,
        "I32" => DType::I32,
        "I8" => DType::I8,
        "U8" => DType::U8,
        _ => return None,
    })
}

impl WeightStore for ArtifactStore<'_> {
    fn info(&self, name: &str) -> Option<(DType, Vec<usize>)> {
        let (tensor, _) = self.artifact.tensor(name)?;
        Some((dtype(&tensor.dtype)?, tensor.shape.clone()))
    }

    fn load(&self, name: &str) -> Result<Tensor, WeightError> {
        let missing = || WeightError::Missing(name.to_string());
        let (tensor, bytes) = self.artifact.tensor(name).ok_or_else(missing)?;
        let loaded = dtype(&tensor.dtype)
            .and_then(|dtype| Tensor::from_le_bytes(dtype, &tensor.shape, bytes));
        loaded.ok_or_else(|| WeightError::Invalid {
            name: name.to_string(),
            reason: format!("{} {:?} is not what it holds", tensor.dtype, tensor.shape),
        })
    }

    fn raw(&self, name: &str) -> Result<Cow<'_, [u8]>, WeightError> {
        let missing = || WeightError::Missing(name.to_string());
        let (_, bytes) = self.artifact.tensor(name).ok_or_else(missing)?;
        Ok(Cow::Borrowed(bytes))
    }
}
