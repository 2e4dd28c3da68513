//! An engine over the reference interpreter: slow, on one thread, and the definition of what the
//! others compute.

use std::collections::BTreeMap;

use rabitc_ir::{DType, Data, Graph, Interpreter, Op, Tensor, verify};

use crate::adamw;
use crate::engine::{Engine, EngineError, GRADIENT, Memory, Program, State, Trainable, Update};

/// What is held of a trained weight beside itself.
struct Trained {
    what: Trainable,
    gradient: Vec<f64>,
    moments: [Vec<f32>; 2],
}

/// The engine.
#[derive(Default)]
pub struct InterpreterEngine {
    weights: BTreeMap<String, Tensor>,
    trained: BTreeMap<String, Trained>,
    programs: Vec<(Graph, usize)>,
}

impl InterpreterEngine {
    /// An engine without weights.
    pub fn new() -> Self {
        InterpreterEngine::default()
    }

    fn trained(&mut self, name: &str) -> Result<&mut Trained, EngineError> {
        let missing = || EngineError::new(format!("`{name}` is not trained"));
        self.trained.get_mut(name).ok_or_else(missing)
    }

    /// Adds to the gradient held of `name`.
    fn add_gradient(&mut self, name: &str, gradient: &Tensor) -> Result<(), EngineError> {
        let trained = self.trained(name)?;
        let pairs = trained.gradient.iter_mut().zip(gradient.floats());
        pairs.for_each(|(sum, x)| *sum += f64::from(*x));
        Ok(())
    }
}

fn moment(which: State) -> usize {
    match which {
        State::Moment1 => 0,
        State::Moment2 => 1,
    }
}

impl Engine for InterpreterEngine {
    fn describe(&self) -> String {
        "the reference interpreter".into()
    }

    fn deterministic(&self) -> bool {
        true
    }

    fn set_weight(&mut self, name: &str, value: &Tensor) -> Result<(), EngineError> {
        if let Some(old) = self.weights.get(name)
            && old.ty() != value.ty()
        {
            let (old, new) = (old.ty(), value.ty());
            return Err(EngineError::new(format!(
                "weight `{name}` is {old} and cannot become {new}"
            )));
        }
        self.weights.insert(name.to_string(), value.clone());
        Ok(())
    }

    fn weight(&mut self, name: &str) -> Result<Tensor, EngineError> {
        let missing = || EngineError::new(format!("there is no weight `{name}`"));
        self.weights.get(name).cloned().ok_or_else(missing)
    }

    fn train(&mut self, what: &[Trainable]) -> Result<(), EngineError> {
        if !self.trained.is_empty() {
            return Err(EngineError::new("what is trained has been said already"));
        }
        for trainable in what {
            let weight = self.weight(&trainable.name)?;
            if (weight.dtype, &weight.shape) != (trainable.dtype, &trainable.shape) {
                let (name, found) = (&trainable.name, weight.ty());
                let (dtype, shape) = (trainable.dtype, &trainable.shape);
                return Err(EngineError::new(format!(
                    "weight `{name}` is {found}, {dtype:?} {shape:?} is to be trained"
                )));
            }
            let len = weight.floats().len();
            let trained = Trained {
                what: trainable.clone(),
                gradient: vec![0.0; len],
                moments: [vec![0.0; len], vec![0.0; len]],
            };
            self.trained.insert(trainable.name.clone(), trained);
        }
        Ok(())
    }

    fn state(&mut self, name: &str, which: State) -> Result<Tensor, EngineError> {
        let trained = self.trained(name)?;
        let data = trained.moments[moment(which)].clone();
        Ok(Tensor::f32(&trained.what.shape, data))
    }

    fn set_state(&mut self, name: &str, which: State, value: &Tensor) -> Result<(), EngineError> {
        let trained = self.trained(name)?;
        if value.shape != trained.what.shape || value.dtype != DType::F32 {
            let (found, shape) = (value.ty(), &trained.what.shape);
            return Err(EngineError::new(format!(
                "a moment of `{name}` is f32 {shape:?}, found {found}"
            )));
        }
        trained.moments[moment(which)] = value.floats().to_vec();
        Ok(())
    }

    fn program(&mut self, graph: &Graph, tokens: usize) -> Result<Program, EngineError> {
        verify::verify(graph).map_err(|e| EngineError::new(e.to_string()))?;
        for id in graph.order() {
            if let Op::Weight(weight) = graph.op(id)
                && !self.weights.contains_key(&weight.name)
            {
                let (name, node) = (&weight.name, &graph.node(id).name);
                return Err(EngineError::new(format!(
                    "%{node} reads weight `{name}`, which is not set"
                )));
            }
        }
        self.programs.push((graph.clone(), tokens));
        Ok(Program(self.programs.len() - 1))
    }

    fn run(
        &mut self,
        program: Program,
        inputs: &[(&str, &[i32])],
    ) -> Result<BTreeMap<String, Tensor>, EngineError> {
        let (graph, tokens) = &self.programs[program.0];
        if let Some((name, ids)) = inputs.iter().find(|(_, ids)| ids.len() != *tokens) {
            let (found, tokens) = (ids.len(), *tokens);
            return Err(EngineError::new(format!(
                "input `{name}` has {found} elements, the program is for {tokens}"
            )));
        }
        let tensors = inputs
            .iter()
            .map(|(name, ids)| (name.to_string(), Tensor::i32(&[ids.len()], ids.to_vec())));
        let outputs = Interpreter::new(graph, &self.weights).run(tensors);
        let outputs = outputs.map_err(|e| EngineError::new(e.to_string()))?;
        let mut others = BTreeMap::new();
        for (name, value) in outputs {
            match name.strip_prefix(GRADIENT) {
                Some(weight) if self.trained.contains_key(weight) => {
                    self.add_gradient(weight, &value)?;
                }
                _ => {
                    others.insert(name, value);
                }
            }
        }
        Ok(others)
    }

    fn gradient_norm(&mut self) -> Result<f64, EngineError> {
        let all = self.trained.values().flat_map(|t| &t.gradient);
        Ok(all.map(|x| x * x).sum::<f64>().sqrt())
    }

    fn update(&mut self, update: &Update) -> Result<(), EngineError> {
        for (number, trained) in self.trained.values_mut().enumerate() {
            let name = &trained.what.name;
            let Some(Data::F32(weights)) = self.weights.get_mut(name).map(|w| &mut w.data) else {
                return Err(EngineError::new(format!("`{name}` holds no floats")));
            };
            let step = adamw::Step::new(update, &trained.what, number)?;
            let [first, second] = &mut trained.moments;
            for (i, weight) in weights.iter_mut().enumerate() {
                let state = (&mut first[i], &mut second[i]);
                *weight = step.apply(i, *weight, trained.gradient[i], state);
            }
        }
        self.clear_gradients()
    }

    fn clear_gradients(&mut self) -> Result<(), EngineError> {
        let all = self.trained.values_mut();
        all.for_each(|t| t.gradient.fill(0.0));
        Ok(())
    }

    fn memory(&self) -> Memory {
        let bytes = |t: &Tensor| t.ty().storage_bytes().unwrap_or(0) as u64;
        let elements = self.trained.values().map(|t| t.gradient.len() as u64);
        let elements: u64 = elements.sum();
        Memory {
            weights: self.weights.values().map(bytes).sum(),
            gradients: elements * 8,
            moments: elements * 8,
            ..Memory::default()
        }
    }
}
