//! The walk over the graph that computes every node again, run after run.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, Result, anyhow};
use rabitc_ir::interp::{EvalContext, eval_constant};
use rabitc_ir::{Graph, NodeId, Op, Tensor};

use super::run::Run;
use super::tolerance::{self, Arithmetic};
use super::{ArtifactStore, Check, bounds};

/// What the walk keeps from run to run.
pub(super) struct Walk<'a> {
    graph: &'a Graph,
    store: &'a ArtifactStore<'a>,
    /// Bit planes of activations if the kernels are a GPU's.
    planes: Option<usize>,
    progress: &'a mut dyn FnMut(&str),
    /// The interpreter, with its cache of keys and values.
    ctx: EvalContext<'a>,
    /// Small weights that were read.
    weights: HashMap<NodeId, Tensor>,
    /// Program, tokens and kernels of what was checked.
    seen: BTreeSet<(usize, usize, Vec<String>)>,
    /// The comparisons so far.
    pub checks: Vec<Check>,
}

impl<'a> Walk<'a> {
    pub fn new(
        graph: &'a Graph,
        store: &'a ArtifactStore<'a>,
        planes: Option<usize>,
        progress: &'a mut dyn FnMut(&str),
    ) -> Self {
        Walk {
            graph,
            store,
            planes,
            progress,
            ctx: EvalContext::new(store),
            weights: HashMap::new(),
            seen: BTreeSet::new(),
            checks: Vec::new(),
        }
    }

    /// Checks what was not checked before.
    pub fn run(&mut self, mut run: Run) -> Result<()> {
        for id in self.graph.order() {
            if !self.graph.op(id).compile_time() && !run.values.contains_key(&id) {
                self.node(&mut run, id)?;
            }
        }
        Ok(())
    }

    /// Gives the node its value: what launches found, or else what the interpreter computes.
    fn node(&mut self, run: &mut Run, id: NodeId) -> Result<()> {
        let node = self.graph.node(id);
        let kernels = run.kernels(&node.name);
        let key = (run.program, run.tokens, kernels.clone());
        let fresh = self.seen.insert(key) && !kernels.is_empty();
        // Attention is computed every time: the interpreter's cache has to follow.
        let stateful = matches!(node.op, Op::Attention(_));
        let value = match run.found(self.graph, id) {
            Some(found) if !fresh && !stateful => found,
            found => self.interpret(run, id, kernels, found, fresh)?,
        };
        run.values.insert(id, value);
        drop_constants(&mut self.weights);
        Ok(())
    }

    /// Computes the node, and compares what `kernels` found with it if they are `fresh`.
    fn interpret(
        &mut self,
        run: &mut Run,
        id: NodeId,
        kernels: Vec<String>,
        found: Option<Tensor>,
        fresh: bool,
    ) -> Result<Tensor> {
        let node = self.graph.node(id);
        let operands = self.operands(run, id)?;
        let operands: Vec<&Tensor> = operands.iter().collect();
        let expected = node.op.eval(&mut self.ctx, &operands);
        let expected = expected.map_err(|e| anyhow!("{e}"))?;
        let arithmetic = self.planes.map(|planes| arithmetic(&kernels, planes));
        let sources = self.graph.operands(id);
        let before: Vec<_> = sources.iter().map(|o| run.spreads.get(o)).collect();
        let Some(found) = found else {
            let spread =
                arithmetic.and_then(|a| tolerance::spread(&node.op, &operands, &before, a));
            run.spreads.extend(spread.map(|s| (id, s)));
            return Ok(expected);
        };
        if fresh {
            (self.progress)(&node.name);
            let bound = match arithmetic {
                None => bounds::bounds(&node.op, &operands, &expected),
                Some(a) => tolerance::tolerance(&node.op, &operands, &before, &expected, a),
            };
            let (max_error, worst) = compare(&found, &expected, &bound);
            self.checks.push(Check {
                kernels,
                program: run.name.clone(),
                node: node.name.clone(),
                op: node.op.name().to_string(),
                tokens: run.tokens,
                max_error,
                worst,
            });
        }
        Ok(found)
    }

    /// The node's operands: values of this run, or weights.
    fn operands(&mut self, run: &Run, id: NodeId) -> Result<Vec<Tensor>> {
        let operands = self.graph.operands(id).into_iter();
        operands
            .map(|o| match run.values.get(&o) {
                Some(value) => Ok(value.clone()),
                None => self.weight(o),
            })
            .collect()
    }

    fn weight(&mut self, id: NodeId) -> Result<Tensor> {
        if let Some(weight) = self.weights.get(&id) {
            return Ok(weight.clone());
        }
        let weight = eval_constant(self.graph, id, self.store)
            .with_context(|| format!("reading %{}", self.graph.node(id).name))?;
        self.weights.insert(id, weight.clone());
        Ok(weight)
    }
}

/// What kernels of these names multiply with.
fn arithmetic(kernels: &[String], planes: usize) -> Arithmetic {
    match kernels.iter().any(|name| name.starts_with("rb_prefill")) {
        true => Arithmetic::Halves,
        false => Arithmetic::Planes(planes),
    }
}

/// Keeps small weights only: a model's worth of them would not fit into memory as f32.
fn drop_constants(weights: &mut HashMap<NodeId, Tensor>) {
    weights.retain(|_, t| t.shape.iter().product::<usize>() < 1 << 16);
}

/// The largest difference, and the largest as a share of its bound.
fn compare(found: &Tensor, expected: &Tensor, bounds: &[f64]) -> (f64, f64) {
    let (mut max_error, mut worst) = (0.0f64, 0.0f64);
    let pairs = found.floats().iter().zip(expected.floats());
    for ((found, expected), bound) in pairs.zip(bounds) {
        let error = (f64::from(*found) - f64::from(*expected)).abs();
        // A NaN must not slip through a comparison.
        let error = if error.is_nan() { f64::INFINITY } else { error };
        max_error = max_error.max(error);
        if error > 0.0 {
            worst = worst.max(error / bound);
        }
    }
    (max_error, worst)
}
