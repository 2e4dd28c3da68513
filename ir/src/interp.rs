//! The reference interpreter: plain, slow, the definition of what a graph computes.

use std::collections::{BTreeMap, HashMap};

use crate::graph::{Graph, NodeId};
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::{Dim, Type};
use crate::weights::{WeightError, WeightStore};

/// Why a graph could not be evaluated.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct EvalError {
    message: String,
}

impl EvalError {
    /// An error with this message.
    pub fn new(message: impl Into<String>) -> Self {
        EvalError {
            message: message.into(),
        }
    }
}

impl From<WeightError> for EvalError {
    fn from(e: WeightError) -> Self {
        EvalError::new(e.to_string())
    }
}

/// Keys and values of one layer, `[position, n_kv_heads·head_dim]` each.
#[derive(Clone, Debug, Default)]
pub struct Cache<F = f32> {
    /// Keys.
    pub k: Vec<F>,
    /// Values.
    pub v: Vec<F>,
}

/// What ops may read beside their operands: the inputs of the step, the weights, the caches.
pub struct EvalContext<'a, F = f32> {
    inputs: BTreeMap<String, Tensor<F>>,
    weights: &'a dyn WeightStore,
    /// Weights that were given in place of the store's.
    given: BTreeMap<String, Tensor<F>>,
    caches: BTreeMap<usize, Cache<F>>,
    /// What `T` and `R` stand for in this step, once an input has told.
    sizes: HashMap<Dim, usize>,
}

impl<'a> EvalContext<'a> {
    /// A context with no inputs and empty caches.
    pub fn new(weights: &'a dyn WeightStore) -> Self {
        EvalContext::empty(weights)
    }
}

impl<'a, F: Real> EvalContext<'a, F> {
    fn empty(weights: &'a dyn WeightStore) -> Self {
        EvalContext {
            inputs: BTreeMap::new(),
            weights,
            given: BTreeMap::new(),
            caches: BTreeMap::new(),
            sizes: HashMap::new(),
        }
    }

    /// The input of that name, which must be of type `ty`; all inputs of a step must agree on
    /// what `T` and `R` are.
    pub fn input(&mut self, name: &str, ty: &Type) -> Result<Tensor<F>, EvalError> {
        let input = self.inputs.get(name).cloned();
        let input = input.ok_or_else(|| EvalError::new(format!("input `{name}` was not given")))?;
        let mut fits = input.dtype == ty.dtype && input.shape.len() == ty.rank();
        for (dim, &size) in ty.shape.iter().zip(&input.shape) {
            let expected = match dim {
                Dim::Fixed(n) => *n,
                symbol => *self.sizes.entry(*symbol).or_insert(size),
            };
            fits &= expected == size;
        }
        if !fits {
            let found = input.ty();
            return Err(EvalError::new(format!(
                "input `{name}` is {found}, the graph has {ty}"
            )));
        }
        Ok(input)
    }

    /// What a dimension is in this step: a symbol's size is known once an input has told it.
    pub fn size(&self, dim: Dim) -> Result<usize, EvalError> {
        let known = dim.fixed().or_else(|| self.sizes.get(&dim).copied());
        known.ok_or_else(|| EvalError::new(format!("no input says what {dim} is")))
    }

    /// The weight of that name.
    pub fn weight(&self, name: &str) -> Result<Tensor<F>, EvalError> {
        match self.given.get(name) {
            Some(weight) => Ok(weight.clone()),
            None => Ok(self.weights.load(name)?.widen()),
        }
    }

    /// The cache of attention layer `layer`.
    pub fn cache(&mut self, layer: usize) -> &mut Cache<F> {
        self.caches.entry(layer).or_default()
    }
}

/// Evaluates a graph step by step, keeping attention caches between steps.
pub struct Interpreter<'a, F = f32> {
    graph: &'a Graph,
    ctx: EvalContext<'a, F>,
    constants: HashMap<NodeId, Tensor<F>>,
}

impl<'a> Interpreter<'a> {
    /// An interpreter with empty caches, whose values are f32.
    pub fn new(graph: &'a Graph, weights: &'a dyn WeightStore) -> Self {
        Interpreter::empty(graph, weights)
    }
}

impl<'a> Interpreter<'a, f64> {
    /// An interpreter with empty caches, whose values are f64 whatever the graph's types say.
    pub fn wide(graph: &'a Graph, weights: &'a dyn WeightStore) -> Self {
        Interpreter::empty(graph, weights)
    }
}

impl<'a, F: Real> Interpreter<'a, F> {
    fn empty(graph: &'a Graph, weights: &'a dyn WeightStore) -> Self {
        Interpreter {
            graph,
            ctx: EvalContext::empty(weights),
            constants: HashMap::new(),
        }
    }

    /// Uses `value` for the weight `name` from the next step on, in place of the store's.
    pub fn give_weight(&mut self, name: &str, value: Tensor<F>) {
        self.ctx.given.insert(name.to_string(), value);
        self.constants.clear();
    }

    /// Runs one step and gives the outputs by name.
    pub fn run(
        &mut self,
        inputs: impl IntoIterator<Item = (String, Tensor<F>)>,
    ) -> Result<BTreeMap<String, Tensor<F>>, EvalError> {
        self.ctx.inputs = inputs.into_iter().collect();
        self.ctx.sizes.clear();
        let mut values: HashMap<NodeId, Tensor<F>> = HashMap::new();
        for id in self.graph.order() {
            self.step(id, &mut values)?;
        }
        let outputs = self.graph.outputs().iter();
        outputs
            .map(|(name, id)| {
                let value = values.get(id).or_else(|| self.constants.get(id));
                let value = value.ok_or_else(|| EvalError::new(format!("no value for {name}")))?;
                Ok((name.clone(), value.clone()))
            })
            .collect()
    }

    fn step(
        &mut self,
        id: NodeId,
        values: &mut HashMap<NodeId, Tensor<F>>,
    ) -> Result<(), EvalError> {
        let op = self.graph.op(id);
        let constant = op.compile_time();
        if constant && self.constants.contains_key(&id) {
            return Ok(());
        }
        let ids = self.graph.operands(id);
        let operands: Vec<&Tensor<F>> = ids
            .iter()
            .map(|o| values.get(o).or_else(|| self.constants.get(o)))
            .collect::<Option<_>>()
            .ok_or_else(|| EvalError::new("an operand has no value"))?;
        let result = op.eval(&mut self.ctx, &operands).map_err(|e| {
            let name = &self.graph.node(id).name;
            EvalError::new(format!("%{name} = {}: {e}", op.name()))
        })?;
        match constant {
            true => self.constants.insert(id, result),
            false => values.insert(id, result),
        };
        Ok(())
    }
}

/// Evaluates a node that depends on weights alone, and only what it depends on.
pub fn eval_constant(
    graph: &Graph,
    id: NodeId,
    weights: &dyn WeightStore,
) -> Result<Tensor, EvalError> {
    let mut ctx = EvalContext::new(weights);
    constant(graph, id, &mut ctx)
}

fn constant(graph: &Graph, id: NodeId, ctx: &mut EvalContext<'_>) -> Result<Tensor, EvalError> {
    let node = graph.node(id);
    if !node.op.compile_time() {
        return Err(EvalError::new(format!(
            "%{} = {} does not depend on weights alone",
            node.name,
            node.op.name()
        )));
    }
    let operands: Vec<Tensor> = graph
        .operands(id)
        .into_iter()
        .map(|o| constant(graph, o, ctx))
        .collect::<Result<_, _>>()?;
    node.op.eval(ctx, &operands.iter().collect::<Vec<_>>())
}
