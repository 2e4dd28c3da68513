//! The weights on a device, by name.

use std::collections::HashMap;
use std::sync::Arc;

use rabitc_ir::{DType, Tensor, Type};
use rabitc_runtime::cuda::driver::{Device, DeviceMemory};

use super::message;
use crate::engine::EngineError;

/// A weight on the device.
pub struct Weight {
    /// Its element type.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its size.
    pub bytes: usize,
    memory: DeviceMemory,
}

impl Weight {
    /// Where it is. It never moves.
    pub fn address(&self) -> u64 {
        self.memory.at(0)
    }
}

/// All weights.
pub struct Weights {
    device: Arc<Device>,
    all: HashMap<String, Weight>,
}

impl Weights {
    /// None yet.
    pub fn new(device: &Arc<Device>) -> Weights {
        Weights {
            device: Arc::clone(device),
            all: HashMap::new(),
        }
    }

    /// Makes a weight, or replaces its elements, from these as they are stored, little endian.
    ///
    /// # Errors
    /// Elements that are no floats or do not fill the shape, another type or shape than before, or
    /// too little memory.
    pub fn set(
        &mut self,
        name: &str,
        dtype: DType,
        shape: &[usize],
        bytes: &[u8],
    ) -> Result<(), EngineError> {
        let ty = Type::fixed(dtype, shape);
        if !dtype.is_float() || ty.storage_bytes() != Some(bytes.len()) {
            let found = bytes.len();
            let reason = format!("weight `{name}`: {found} bytes are no floats of {ty}");
            return Err(EngineError::new(reason));
        }
        if let Some(old) = self.all.get(name) {
            if (old.dtype, old.shape.as_slice()) != (dtype, shape) {
                let old = Type::fixed(old.dtype, &old.shape);
                let reason = format!("weight `{name}` is {old} and cannot become {ty}");
                return Err(EngineError::new(reason));
            }
            return old.memory.write(0, bytes).map_err(message);
        }
        let memory = DeviceMemory::zeroed(&self.device, bytes.len(), "a weight");
        let memory = memory.map_err(message)?;
        memory.write(0, bytes).map_err(message)?;
        let (shape, bytes) = (shape.to_vec(), bytes.len());
        let weight = Weight {
            dtype,
            shape,
            bytes,
            memory,
        };
        self.all.insert(name.to_string(), weight);
        Ok(())
    }

    /// The weight of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn get(&self, name: &str) -> Result<&Weight, EngineError> {
        let missing = || EngineError::new(format!("there is no weight `{name}`"));
        self.all.get(name).ok_or_else(missing)
    }

    /// Its elements.
    ///
    /// # Errors
    /// There is none, or the device was lost.
    pub fn read(&self, name: &str) -> Result<Tensor, EngineError> {
        let weight = self.get(name)?;
        let mut bytes = vec![0; weight.bytes];
        weight.memory.read(0, &mut bytes).map_err(message)?;
        let tensor = Tensor::from_le_bytes(weight.dtype, &weight.shape, &bytes);
        tensor.ok_or_else(|| EngineError::new(format!("weight `{name}` was read badly")))
    }

    /// Bytes of all.
    pub fn bytes(&self) -> u64 {
        self.all.values().map(|w| w.bytes as u64).sum()
    }
}
