//! Engines that fail when they are told to.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;

use rabitc_ir::{Data, Graph, Tensor};
use rabitc_train::engine::{Memory, Program, State, Trainable, Update};

use super::*;

/// What happens.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Fault {
    /// The engine stops, as if the program had been killed.
    Stop,
    /// The loss is no number.
    Nan,
    /// The gradient's norm is infinite.
    Infinite,
    /// The hidden states' error is infinite, from the first run on.
    Hidden,
    /// A scale has a value that f16 does not hold.
    Scale,
    /// A moment is infinite.
    Moment,
}

/// Engines of which the run after `after` updates meets the fault.
pub(crate) struct Failing {
    pub(crate) fault: Fault,
    pub(crate) after: u64,
    pub(crate) updates: Rc<Cell<u64>>,
}

impl Failing {
    pub(crate) fn new(fault: Fault, after: u64) -> Failing {
        let updates = Rc::default();
        Failing {
            fault,
            after,
            updates,
        }
    }
}

impl Engines for Failing {
    fn engine(&self) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(FailingEngine {
            inner: Cpu.engine()?,
            fault: self.fault,
            after: self.after,
            updates: self.updates.clone(),
        }))
    }

    fn storage(&self) -> DType {
        DType::F32
    }
}

struct FailingEngine {
    inner: Box<dyn Engine>,
    fault: Fault,
    after: u64,
    updates: Rc<Cell<u64>>,
}

impl FailingEngine {
    fn meets(&self, fault: Fault) -> bool {
        self.fault == fault && self.updates.get() == self.after
    }
}

impl Engine for FailingEngine {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn deterministic(&self) -> bool {
        self.inner.deterministic()
    }
    fn set_weight(&mut self, name: &str, value: &Tensor) -> Result<(), EngineError> {
        self.inner.set_weight(name, value)
    }
    fn weight(&mut self, name: &str) -> Result<Tensor, EngineError> {
        let mut weight = self.inner.weight(name)?;
        if let (true, true, Data::F32(values)) = (
            self.meets(Fault::Scale),
            name.ends_with("rb_h"),
            &mut weight.data,
        ) {
            values[1] = 70_000.0;
        }
        Ok(weight)
    }
    fn train(&mut self, what: &[Trainable]) -> Result<(), EngineError> {
        self.inner.train(what)
    }
    fn state(&mut self, name: &str, which: State) -> Result<Tensor, EngineError> {
        let mut state = self.inner.state(name, which)?;
        if let (true, State::Moment2, Data::F32(values)) =
            (self.meets(Fault::Moment), which, &mut state.data)
        {
            values[0] = f32::INFINITY;
        }
        Ok(state)
    }
    fn set_state(&mut self, name: &str, which: State, value: &Tensor) -> Result<(), EngineError> {
        self.inner.set_state(name, which, value)
    }
    fn program(&mut self, graph: &Graph, tokens: usize) -> Result<Program, EngineError> {
        self.inner.program(graph, tokens)
    }
    fn run(
        &mut self,
        program: Program,
        inputs: &[(&str, &[i32])],
    ) -> Result<BTreeMap<String, Tensor>, EngineError> {
        let mut outputs = self.inner.run(program, inputs)?;
        if let (true, Some(loss)) = (self.meets(Fault::Nan), outputs.get_mut("loss")) {
            *loss = Tensor::f32(&[1], vec![f32::NAN]);
        }
        if let (true, Some(hidden)) = (self.fault == Fault::Hidden, outputs.get_mut("hidden")) {
            *hidden = Tensor::f32(&[1], vec![f32::INFINITY]);
        }
        Ok(outputs)
    }
    fn gradient_norm(&mut self) -> Result<f64, EngineError> {
        match self.meets(Fault::Infinite) {
            true => Ok(f64::INFINITY),
            false => self.inner.gradient_norm(),
        }
    }
    fn update(&mut self, update: &Update) -> Result<(), EngineError> {
        if self.meets(Fault::Stop) {
            return Err(EngineError::new("killed"));
        }
        self.updates.set(self.updates.get() + 1);
        self.inner.update(update)
    }
    fn clear_gradients(&mut self) -> Result<(), EngineError> {
        self.inner.clear_gradients()
    }
    fn memory(&self) -> Memory {
        self.inner.memory()
    }
}
