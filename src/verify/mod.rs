//! Runs every kernel of an artifact against the reference interpreter.
//!
//! The artifact's own programs run on random tokens, one launch at a time. Whatever a launch
//! writes is copied out; the interpreter computes the same graph node from the copies of its
//! operands, and the two results are compared within a bound that follows from the arithmetic.
//! A node whose kernels were checked before, at the same number of tokens, is not computed again.

mod bounds;
pub mod sampling;
mod store;
mod tolerance;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result, anyhow};
use rabitc_ir::interp::EvalContext;
use rabitc_ir::{Dim, Graph, NodeId, Op, Tensor};
use rabitc_runtime::Session;
use rabitc_runtime::model::StepInfo;

pub use store::ArtifactStore;
use tolerance::Arithmetic;

/// The comparison of one kernel (or of the kernels that compute one node together).
#[derive(Clone, Debug, serde::Serialize)]
pub struct Check {
    /// The kernels' names.
    pub kernels: Vec<String>,
    /// The program.
    pub program: String,
    /// The graph node it was checked on.
    pub node: String,
    /// The op.
    pub op: String,
    /// Tokens of the run.
    pub tokens: usize,
    /// Largest absolute difference.
    pub max_error: f64,
    /// Largest difference divided by the bound for its element; at most 1 is a pass.
    pub worst: f64,
}

/// Reads the blocks of `runs` through the session and checks every kernel on the way.
pub fn verify(
    session: &mut Session,
    graph: &Graph,
    runs: &[Vec<u32>],
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<Check>> {
    let model = session.model().clone();
    let store = ArtifactStore::new(model.artifact());
    let mut ctx = EvalContext::new(&store);
    let mut checks = Vec::new();
    let mut seen = BTreeSet::new();
    let mut weights = HashMap::new();
    let mut spreads: HashMap<NodeId, Vec<f64>> = HashMap::new();
    let mut start = session.position();
    let planes = model.gpu_planes();
    for ids in runs {
        let rows: Vec<u32> = (0..session.max_rows(ids.len()) as u32).collect();
        let trace = record(session, graph, ids, &rows)?;
        let program = model.program_name(trace.program);
        let names = kernel_names(model.steps(trace.program));
        let mut values = inputs(graph, ids, &rows, start);
        for id in graph.order() {
            let node = graph.node(id);
            if node.op.compile_time() || values.contains_key(&id) {
                continue;
            }
            let kernels = names.get(&node.name).cloned().unwrap_or_default();
            let found = trace
                .values
                .get(&node.name)
                .map(|v| shaped(graph, id, (ids.len(), rows.len()), v));
            let key = (trace.program, ids.len(), kernels.clone());
            // Attention is computed every time: the interpreter's cache has to follow.
            let stateful = matches!(node.op, Op::Attention(_));
            let fresh = seen.insert(key) && !kernels.is_empty();
            spreads.remove(&id);
            if found.is_none() || fresh || stateful {
                let operands = operands(graph, id, &values, &mut weights, &store)?;
                let arithmetic = planes.map(|p| arithmetic(&kernels, p));
                let sources = graph.operands(id);
                let before: Vec<_> = sources.iter().map(|o| spreads.get(o)).collect();
                let operands: Vec<&Tensor> = operands.iter().collect();
                let expected = node
                    .op
                    .eval(&mut ctx, &operands)
                    .map_err(|e| anyhow!("{e}"))?;
                if let (Some(found), true) = (&found, fresh) {
                    progress(&node.name);
                    let bound = match arithmetic {
                        None => bounds::bounds(&node.op, &operands, &expected),
                        Some(a) => tolerance::tolerance(&node.op, &operands, &before, &expected, a),
                    };
                    checks.push(compare(
                        node,
                        kernels,
                        program,
                        ids.len(),
                        found,
                        &expected,
                        &bound,
                    ));
                }
                let spread = match (&found, arithmetic) {
                    (None, Some(a)) => tolerance::spread(&node.op, &operands, &before, a),
                    _ => None,
                };
                spreads.extend(spread.map(|s| (id, s)));
                values.insert(id, found.unwrap_or(expected));
            } else if let Some(found) = found {
                values.insert(id, found);
            }
            drop_constants(&mut weights);
        }
        start += ids.len();
    }
    Ok(checks)
}

/// What one run computed: the result of every node that a launch computes.
struct Trace {
    program: usize,
    values: HashMap<String, Vec<f32>>,
}

fn record(session: &mut Session, graph: &Graph, ids: &[u32], rows: &[u32]) -> Result<Trace> {
    let model = session.model().clone();
    let mut trace = Trace {
        program: 0,
        values: HashMap::new(),
    };
    let mut programs: BTreeMap<usize, Vec<StepInfo<'_>>> = BTreeMap::new();
    session.trace(ids, rows, &mut |program, index, arena| {
        trace.program = program;
        let step = &programs
            .entry(program)
            .or_insert_with(|| model.steps(program))[index];
        if let (Some(offset), Some(id)) = (step.result, graph.find(step.node)) {
            let run = (ids.len(), rows.len());
            let n: usize = graph.ty(id).shape.iter().map(|d| count(d, run)).product();
            let floats = arena
                .get(offset..)
                .unwrap_or_default()
                .chunks_exact(4)
                .take(n);
            let values = floats.map(|c| f32::from_le_bytes(c.try_into().expect("4 bytes")));
            trace.values.insert(step.node.to_string(), values.collect());
        }
    })?;
    Ok(trace)
}

/// What kernels of these names multiply with.
fn arithmetic(kernels: &[String], planes: usize) -> Arithmetic {
    match kernels.iter().any(|name| name.starts_with("rb_prefill")) {
        true => Arithmetic::Halves,
        false => Arithmetic::Planes(planes),
    }
}

fn kernel_names(steps: Vec<StepInfo<'_>>) -> BTreeMap<String, Vec<String>> {
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for step in steps {
        names
            .entry(step.node.to_string())
            .or_default()
            .push(step.kernel);
    }
    names
}

fn inputs(graph: &Graph, ids: &[u32], rows: &[u32], start: usize) -> HashMap<NodeId, Tensor> {
    let mut values = HashMap::new();
    for id in graph.order() {
        if let Op::Input(input) = graph.op(id) {
            let data: Vec<i32> = match input.name.as_str() {
                "ids" => ids.iter().map(|i| *i as i32).collect(),
                "rows" => rows.iter().map(|r| *r as i32).collect(),
                _ => (start..start + ids.len()).map(|p| p as i32).collect(),
            };
            values.insert(id, Tensor::i32(&[data.len()], data));
        }
    }
    values
}

/// A dimension in a run of so many tokens and rows.
fn count(dim: &Dim, (tokens, rows): (usize, usize)) -> usize {
    match dim {
        Dim::Fixed(n) => *n,
        Dim::Tokens => tokens,
        Dim::Rows => rows,
    }
}

/// The first elements of `values` in the shape of node `id` for a run of so many tokens and rows.
fn shaped(graph: &Graph, id: NodeId, run: (usize, usize), values: &[f32]) -> Tensor {
    let dims = graph.ty(id).shape.iter();
    let shape: Vec<usize> = dims.map(|d| count(d, run)).collect();
    let n = shape.iter().product();
    let mut values = values.to_vec();
    // A plan whose result lies past the end of the arena: what is missing compares as NaN.
    values.resize(n, f32::NAN);
    Tensor::f32(&shape, values)
}

fn operands(
    graph: &Graph,
    id: NodeId,
    values: &HashMap<NodeId, Tensor>,
    weights: &mut HashMap<NodeId, Tensor>,
    store: &ArtifactStore<'_>,
) -> Result<Vec<Tensor>> {
    let load = |id: &NodeId| {
        rabitc_ir::interp::eval_constant(graph, *id, store)
            .with_context(|| format!("reading %{}", graph.node(*id).name))
    };
    let operands = graph.operands(id);
    operands
        .iter()
        .map(|o| match values.get(o) {
            Some(value) => Ok(value.clone()),
            None if !weights.contains_key(o) => {
                let tensor = load(o)?;
                weights.insert(*o, tensor.clone());
                Ok(tensor)
            }
            None => Ok(weights[o].clone()),
        })
        .collect()
}

/// Keeps small weights only: a model's worth of them would not fit into memory as f32.
fn drop_constants(weights: &mut HashMap<NodeId, Tensor>) {
    weights.retain(|_, t| t.shape.iter().product::<usize>() < 1 << 16);
}

fn compare(
    node: &rabitc_ir::Node,
    kernels: Vec<String>,
    program: &str,
    tokens: usize,
    found: &Tensor,
    expected: &Tensor,
    bounds: &[f64],
) -> Check {
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
    Check {
        kernels,
        program: program.to_string(),
        node: node.name.clone(),
        op: node.op.name().to_string(),
        tokens,
        max_error,
        worst,
    }
}
