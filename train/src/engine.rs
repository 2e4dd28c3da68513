//! What runs the graphs of a training run, and holds its weights.
//!
//! An engine owns four kinds of tensors, all known by the names that weights have in the graphs:
//! weights, and of those that are trained gradients and two moments. The trainer never sees where
//! they are. Programs share weights by name.

use std::collections::BTreeMap;

use rabitc_ir::{DType, Graph, Tensor};

/// Outputs whose name starts so are gradients of the weight that the rest names.
pub const GRADIENT: &str = "grad.";

/// Why an engine could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct EngineError {
    /// What was tried on which tensor or node, and why it failed.
    pub reason: String,
}

impl EngineError {
    /// An error with this message.
    pub fn new(reason: impl Into<String>) -> Self {
        EngineError {
            reason: reason.into(),
        }
    }
}

/// A graph that an engine has taken in; an index that means something to that engine alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Program(pub usize);

/// A weight that is trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Trainable {
    /// Its name in the graphs.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The type that it is held in: f32, or bf16 with stochastic rounding after each update. The
    /// graphs' weight nodes have this type too.
    pub dtype: DType,
    /// Which of [`Update::learning_rates`] is its own.
    pub group: usize,
    /// Factor on the weight that an update subtracts, times the learning rate (AdamW's decoupled
    /// weight decay).
    pub decay: f32,
}

/// One step of AdamW (Loshchilov and Hutter, arXiv 1711.05101) over all that is trained.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// Number of the step, from 1: what the moments' bias is corrected by, and with
    /// [`Update::seed`] and an element's index what stochastic rounding depends on.
    pub step: u64,
    /// Seed of stochastic rounding.
    pub seed: u64,
    /// Learning rate of each group.
    pub learning_rates: Vec<f32>,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the square root of the second moment.
    pub eps: f32,
    /// Factor on all gradients before anything else: 1 over the number of runs accumulated, times
    /// what clipping by the global norm leaves.
    pub gradient_factor: f32,
}

/// Which tensor of a trained weight is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// The first moment, f32.
    Moment1,
    /// The second moment, f32.
    Moment2,
}

/// Bytes that an engine holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// All weights, the teacher's among them.
    pub weights: u64,
    /// Gradients of what is trained.
    pub gradients: u64,
    /// Moments of what is trained.
    pub moments: u64,
    /// The intermediate values of the largest program.
    pub activations: u64,
    /// The most that was ever allocated at once, as the device counts it; 0 if it cannot tell.
    pub peak: u64,
}

/// Runs graphs and updates weights.
///
/// The same calls in the same order give the same bits on the same machine where
/// [`Engine::deterministic`] says so.
pub trait Engine {
    /// What runs, for people: a processor's or a device's name and the number format of products.
    fn describe(&self) -> String;

    /// Whether results depend on nothing but the calls.
    fn deterministic(&self) -> bool;

    /// Makes a weight, or replaces it. Its type and shape are the tensor's and never change.
    fn set_weight(&mut self, name: &str, value: &Tensor) -> Result<(), EngineError>;

    /// Reads a weight.
    fn weight(&mut self, name: &str) -> Result<Tensor, EngineError>;

    /// Says what is trained: zeroed gradients and moments are made for it. Called once, after all
    /// weights are set and before programs with gradients are taken in.
    fn train(&mut self, what: &[Trainable]) -> Result<(), EngineError>;

    /// Reads a moment.
    fn state(&mut self, name: &str, which: State) -> Result<Tensor, EngineError>;

    /// Replaces a moment.
    fn set_state(&mut self, name: &str, which: State, value: &Tensor) -> Result<(), EngineError>;

    /// Takes in a graph for runs of exactly `tokens` tokens (the dimension T). All its weights are
    /// set. Unknown ops, or ones that the engine cannot run, are an error that names the node.
    fn program(&mut self, graph: &Graph, tokens: usize) -> Result<Program, EngineError>;

    /// Runs a program. Inputs are i32 vectors by name. Outputs `grad.NAME` of what is trained are
    /// added to the gradients held; all others come back by name.
    fn run(
        &mut self,
        program: Program,
        inputs: &[(&str, &[i32])],
    ) -> Result<BTreeMap<String, Tensor>, EngineError>;

    /// The Euclidean norm over all gradients held.
    fn gradient_norm(&mut self) -> Result<f64, EngineError>;

    /// Updates all that is trained from the gradients held, then sets these to zero.
    fn update(&mut self, update: &Update) -> Result<(), EngineError>;

    /// Sets the gradients held to zero.
    fn clear_gradients(&mut self) -> Result<(), EngineError>;

    /// Bytes held now.
    fn memory(&self) -> Memory;
}
