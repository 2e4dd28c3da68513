//! What is held of the weights that are trained: gradients and moments, and what updates them.

use std::collections::HashMap;
use std::sync::Arc;

use rabitc_codegen::cuda::kernels::train::adamw::{AdamW, CHUNK, CHUNKS, STEP, TENSOR};
use rabitc_codegen::cuda::kernels::train::square_norm::{BLOCKS, SquareNorm};
use rabitc_codegen::cuda::{CudaSpec, Source};
use rabitc_ir::DType;
use rabitc_rbx::SmArch;
use rabitc_runtime::Error;
use rabitc_runtime::cuda::driver::{Device, DeviceMemory};

use super::kernels::Kernels;
use crate::engine::{EngineError, State, Trainable, Update};

/// Tensors begin at multiples of this many elements in the buffers that hold all of them: whole
/// vectors for every kernel and product.
const ALIGNMENT: usize = 64;

/// One trained weight.
struct Tensor {
    first: usize,
    elements: usize,
    group: usize,
}

/// Gradients and moments of all that is trained, one buffer each.
pub struct Held {
    names: HashMap<String, usize>,
    tensors: Vec<Tensor>,
    gradients: DeviceMemory,
    moments: [DeviceMemory; 2],
    elements: usize,
    records: DeviceMemory,
    chunks: DeviceMemory,
    blocks: u32,
    step: DeviceMemory,
    groups: usize,
    /// The number of 16-byte pieces of the gradients, then the blocks' sums.
    sums: DeviceMemory,
}

fn message(e: Error) -> EngineError {
    EngineError::new(e.to_string())
}

/// The kernels that this needs.
pub fn sources(arch: SmArch) -> [Source; 2] {
    [AdamW.source(arch), SquareNorm.source(arch)]
}

impl Held {
    /// Zeroed gradients and moments. `address` tells where a weight is.
    ///
    /// # Errors
    /// Too little memory, or a name twice.
    pub fn new(
        device: &Arc<Device>,
        what: &[Trainable],
        address: impl Fn(&Trainable) -> Result<u64, EngineError>,
    ) -> Result<Held, EngineError> {
        let (mut names, mut tensors, mut end) = (HashMap::new(), Vec::new(), 0usize);
        let (mut records, mut chunks) = (Vec::new(), Vec::new());
        for (number, one) in what.iter().enumerate() {
            let elements: usize = one.shape.iter().product();
            if names.insert(one.name.clone(), number).is_some() {
                let name = &one.name;
                return Err(EngineError::new(format!("`{name}` is to be trained twice")));
            }
            let group = one.group;
            records.extend(record(one, address(one)?, end, elements, number));
            let pieces = elements.div_ceil(CHUNK) as u32;
            chunks.extend((0..pieces).flat_map(|i| chunk(number as u32, i)));
            let first = end;
            tensors.push(Tensor {
                first,
                elements,
                group,
            });
            end += elements.next_multiple_of(ALIGNMENT);
        }
        let floats = |what| DeviceMemory::zeroed(device, end * 4, what).map_err(message);
        let filled = |bytes: &[u8], what| -> Result<DeviceMemory, Error> {
            let memory = DeviceMemory::zeroed(device, bytes.len(), what)?;
            memory.write(0, bytes)?;
            Ok(memory)
        };
        let groups = what.iter().map(|t| t.group + 1).max().unwrap_or(0);
        let sums = DeviceMemory::zeroed(device, 8 + BLOCKS * 8, "sums").map_err(message)?;
        sums.write(0, &((end / 4) as u64).to_le_bytes())
            .map_err(message)?;
        Ok(Held {
            gradients: floats("gradients")?,
            moments: [floats("first moments")?, floats("second moments")?],
            elements: end,
            blocks: (chunks.len() / CHUNKS) as u32,
            records: filled(&records, "the table of weights").map_err(message)?,
            chunks: filled(&chunks, "the table of chunks").map_err(message)?,
            step: DeviceMemory::zeroed(device, STEP + groups * 4, "a step").map_err(message)?,
            names,
            tensors,
            groups,
            sums,
        })
    }

    /// The names of what is trained.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.names.keys()
    }

    fn tensor(&self, name: &str) -> Result<&Tensor, EngineError> {
        let missing = || EngineError::new(format!("`{name}` is not trained"));
        let number = self.names.get(name).ok_or_else(missing)?;
        Ok(&self.tensors[*number])
    }

    /// Where the gradient of a weight is, and its bytes.
    ///
    /// # Errors
    /// A weight that is not trained.
    pub fn gradient(&self, name: &str) -> Result<(u64, usize), EngineError> {
        let tensor = self.tensor(name)?;
        Ok((self.gradients.at(tensor.first * 4), tensor.elements * 4))
    }

    /// Reads the gradient held for a weight.
    ///
    /// # Errors
    /// A weight that is not trained, or a device that was lost.
    pub fn read_gradient(&self, name: &str) -> Result<Vec<f32>, EngineError> {
        let tensor = self.tensor(name)?;
        read(&self.gradients, tensor)
    }

    fn moments(&self, which: State) -> &DeviceMemory {
        match which {
            State::Moment1 => &self.moments[0],
            State::Moment2 => &self.moments[1],
        }
    }

    /// Reads a moment.
    ///
    /// # Errors
    /// As for [`Held::read_gradient`].
    pub fn moment(&self, name: &str, which: State) -> Result<Vec<f32>, EngineError> {
        read(self.moments(which), self.tensor(name)?)
    }

    /// Replaces a moment.
    ///
    /// # Errors
    /// A weight that is not trained, or another number of elements.
    pub fn set_moment(&self, name: &str, which: State, values: &[f32]) -> Result<(), EngineError> {
        let tensor = self.tensor(name)?;
        if values.len() != tensor.elements {
            let (found, expected) = (values.len(), tensor.elements);
            return Err(EngineError::new(format!(
                "the moment of `{name}` has {expected} elements, not {found}"
            )));
        }
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let memory = self.moments(which);
        memory.write(tensor.first * 4, &bytes).map_err(message)
    }

    /// Sets all gradients to zero.
    ///
    /// # Errors
    /// A device that was lost.
    pub fn clear(&self) -> Result<(), EngineError> {
        self.gradients.clear(0, self.elements * 4).map_err(message)
    }

    /// The Euclidean norm over all gradients.
    ///
    /// # Errors
    /// A device that was lost.
    pub fn norm(&self, kernels: &Kernels) -> Result<f64, EngineError> {
        let kernel = kernels.get(&SquareNorm.name())?;
        let pointers = [self.gradients.at(0), self.sums.at(0), self.sums.at(8)];
        // SAFETY: the kernel's three parameters, all memory of `self`.
        unsafe { kernel.launch([BLOCKS as u32, 1, 1], &pointers) }.map_err(message)?;
        let mut bytes = vec![0; BLOCKS * 8];
        self.sums.read(8, &mut bytes).map_err(message)?;
        let sums = bytes.chunks_exact(8);
        let sums = sums.map(|b| f64::from_le_bytes(b.try_into().expect("8 bytes")));
        Ok(sums.sum::<f64>().sqrt())
    }

    /// One step of AdamW; the gradients are zero after it.
    ///
    /// # Errors
    /// A group without a learning rate, or a device that was lost.
    pub fn update(&self, kernels: &Kernels, update: &Update) -> Result<(), EngineError> {
        if update.learning_rates.len() < self.groups {
            let (found, expected) = (update.learning_rates.len(), self.groups);
            let reason = format!("{found} learning rates for {expected} groups");
            return Err(EngineError::new(reason));
        }
        debug_assert!(self.tensors.iter().all(|t| t.group < self.groups));
        self.step
            .write(0, &step(update, self.groups))
            .map_err(message)?;
        let kernel = kernels.get(&AdamW.name())?;
        let pointers = [
            self.records.at(0),
            self.chunks.at(0),
            self.step.at(0),
            self.gradients.at(0),
            self.moments[0].at(0),
            self.moments[1].at(0),
        ];
        // SAFETY: the kernel's six parameters; the records point to weights that live as long as
        // the engine, of the sizes that they name.
        unsafe { kernel.launch([self.blocks, 1, 1], &pointers) }.map_err(message)
    }

    /// Bytes of the gradients, and of the moments.
    pub fn bytes(&self) -> (u64, u64) {
        let moments = self.moments.iter().map(|m| m.bytes() as u64).sum();
        (self.gradients.bytes() as u64, moments)
    }
}

fn read(memory: &DeviceMemory, tensor: &Tensor) -> Result<Vec<f32>, EngineError> {
    let mut bytes = vec![0; tensor.elements * 4];
    memory.read(tensor.first * 4, &mut bytes).map_err(message)?;
    let floats = bytes.chunks_exact(4);
    Ok(floats
        .map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes")))
        .collect())
}

/// A weight as the kernel knows it.
fn record(
    one: &Trainable,
    address: u64,
    first: usize,
    elements: usize,
    number: usize,
) -> [u8; TENSOR] {
    let mut out = [0; TENSOR];
    out[..8].copy_from_slice(&address.to_le_bytes());
    out[8..16].copy_from_slice(&(first as u64).to_le_bytes());
    out[16..24].copy_from_slice(&(elements as u64).to_le_bytes());
    let bf16 = u32::from(one.dtype == DType::BF16);
    let words = [bf16, one.group as u32, one.decay.to_bits(), number as u32];
    for (word, bytes) in words.iter().zip(out[24..].chunks_exact_mut(4)) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    out
}

fn chunk(tensor: u32, piece: u32) -> [u8; CHUNKS] {
    let mut out = [0; CHUNKS];
    out[..4].copy_from_slice(&tensor.to_le_bytes());
    out[4..].copy_from_slice(&piece.to_le_bytes());
    out
}

/// A step as the kernel knows it.
fn step(update: &Update, groups: usize) -> Vec<u8> {
    let bias = |beta: f32| (1.0 - f64::from(beta).powf(update.step as f64)) as f32;
    let (beta1, beta2) = (update.beta1, update.beta2);
    let floats = [
        beta1,
        beta2,
        bias(beta1),
        bias(beta2),
        update.eps,
        update.gradient_factor,
    ];
    let numbers = [update.seed, update.step].into_iter();
    let rates = update.learning_rates[..groups].iter();
    let bytes = floats.iter().flat_map(|f| f.to_le_bytes());
    let bytes = bytes.chain(numbers.flat_map(u64::to_le_bytes));
    bytes.chain(rates.flat_map(|f| f.to_le_bytes())).collect()
}
