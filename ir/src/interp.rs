//! The reference interpreter: plain, slow, the definition of what a graph computes.

use std::collections::{BTreeMap, HashMap};

use crate::graph::{Graph, NodeId};
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
pub struct Cache {
    /// Keys.
    pub k: Vec<f32>,
    /// Values.
    pub v: Vec<f32>,
}

/// What ops may read beside their operands: the inputs of the step, the weights, the caches.
pub struct EvalContext<'a> {
    inputs: BTreeMap<String, Tensor>,
    weights: &'a dyn WeightStore,
    caches: BTreeMap<usize, Cache>,
    /// What `T` and `R` stand for in this step, once an input has told.
    sizes: HashMap<Dim, usize>,
}

impl<'a> EvalContext<'a> {
    /// A context with no inputs and empty caches.
    pub fn new(weights: &'a dyn WeightStore) -> Self {
        EvalContext {
            inputs: BTreeMap::new(),
            weights,
            caches: BTreeMap::new(),
            sizes: HashMap::new(),
        }
    }

    /// The input of that name, which must be of type `ty`; all inputs of a step must agree on
    /// what `T` and `R` are.
    pub fn input(&mut self, name: &str, ty: &Type) -> Result<Tensor, EvalError> {
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

    /// The weight of that name.
    pub fn weight(&self, name: &str) -> Result<Tensor, EvalError> {
        Ok(self.weights.load(name)?)
    }

    /// The cache of attention layer `layer`.
    pub fn cache(&mut self, layer: usize) -> &mut Cache {
        self.caches.entry(layer).or_default()
    }
}

/// Evaluates a graph step by step, keeping attention caches between steps.
pub struct Interpreter<'a> {
    graph: &'a Graph,
    ctx: EvalContext<'a>,
    constants: HashMap<NodeId, Tensor>,
}

impl<'a> Interpreter<'a> {
    /// An interpreter with empty caches.
    pub fn new(graph: &'a Graph, weights: &'a dyn WeightStore) -> Self {
        Interpreter {
            graph,
            ctx: EvalContext::new(weights),
            constants: HashMap::new(),
        }
    }

    /// Runs one step and gives the outputs by name.
    pub fn run(
        &mut self,
        inputs: impl IntoIterator<Item = (String, Tensor)>,
    ) -> Result<BTreeMap<String, Tensor>, EvalError> {
        self.ctx.inputs = inputs.into_iter().collect();
        self.ctx.sizes.clear();
        let mut values: HashMap<NodeId, Tensor> = HashMap::new();
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

    fn step(&mut self, id: NodeId, values: &mut HashMap<NodeId, Tensor>) -> Result<(), EvalError> {
        let op = self.graph.op(id);
        let constant = op.compile_time();
        if constant && self.constants.contains_key(&id) {
            return Ok(());
        }
        let ids = self.graph.operands(id);
        let operands: Vec<&Tensor> = ids
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
