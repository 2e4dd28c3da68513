//! One run of an artifact's program: what it read, and what its launches computed.

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use rabitc_ir::{Dim, Graph, NodeId, Op, Tensor};
use rabitc_runtime::Session;
use rabitc_runtime::model::StepInfo;

/// A run, and what is known of the graph's nodes in it.
pub(super) struct Run {
    /// The program.
    pub program: usize,
    /// Its name.
    pub name: String,
    /// Tokens of the run.
    pub tokens: usize,
    /// Rows whose logits were asked for.
    rows: usize,
    /// The kernels that compute each node.
    kernels: BTreeMap<String, Vec<String>>,
    /// The results of nodes that launches computed.
    found: HashMap<String, Vec<f32>>,
    /// The values of the nodes that the walk has come by, inputs first.
    pub values: HashMap<NodeId, Tensor>,
    /// How far the values of nodes without a launch of their own may be off in the kernel that
    /// computes them.
    pub spreads: HashMap<NodeId, Vec<f64>>,
}

impl Run {
    /// Reads `ids` through the session, which goes on from where it is, and asks for as many rows of
    /// logits as it can give.
    pub fn record(session: &mut Session, graph: &Graph, ids: &[u32]) -> Result<Run> {
        let model = session.model().clone();
        let start = session.position();
        let rows: Vec<u32> = (0..session.max_rows(ids.len()) as u32).collect();
        let size = (ids.len(), rows.len());
        let (mut ran, mut found) = (0, HashMap::new());
        let mut programs: BTreeMap<usize, Vec<StepInfo<'_>>> = BTreeMap::new();
        session.trace(ids, &rows, &mut |program, index, arena| {
            ran = program;
            let steps = programs.entry(program);
            let step = &steps.or_insert_with(|| model.steps(program))[index];
            if let (Some(offset), Some(id)) = (step.result, graph.find(step.node)) {
                let values = floats(arena, offset, elements(graph, id, size));
                found.insert(step.node.to_string(), values);
            }
        })?;
        Ok(Run {
            program: ran,
            name: model.program_name(ran).to_string(),
            tokens: ids.len(),
            rows: rows.len(),
            kernels: kernels(model.steps(ran)),
            found,
            values: inputs(graph, ids, &rows, start),
            spreads: HashMap::new(),
        })
    }

    /// The kernels that compute the node of this name; none if it has no launch.
    pub fn kernels(&self, node: &str) -> Vec<String> {
        self.kernels.get(node).cloned().unwrap_or_default()
    }

    /// What launches computed for node `id`.
    pub fn found(&self, graph: &Graph, id: NodeId) -> Option<Tensor> {
        let found = self.found.get(&graph.node(id).name)?;
        let size = (self.tokens, self.rows);
        let dims = graph.ty(id).shape.iter();
        let shape: Vec<usize> = dims.map(|d| count(d, size)).collect();
        let mut values = found.clone();
        // A plan whose result lies past the end of the arena: what is missing compares as NaN.
        values.resize(elements(graph, id, size), f32::NAN);
        Some(Tensor::f32(&shape, values))
    }
}

/// At most `n` floats of `arena` from the byte `offset` on: as many as are there.
fn floats(arena: &[u8], offset: usize, n: usize) -> Vec<f32> {
    let bytes = arena.get(offset..).unwrap_or_default();
    let floats = bytes.as_chunks().0.iter().take(n);
    floats.map(|c| f32::from_le_bytes(*c)).collect()
}

/// Elements of the result of node `id` in a run of so many tokens and rows.
fn elements(graph: &Graph, id: NodeId, size: (usize, usize)) -> usize {
    let dims = graph.ty(id).shape.iter();
    dims.map(|d| count(d, size)).product()
}

/// A dimension in a run of so many tokens and rows.
fn count(dim: &Dim, (tokens, rows): (usize, usize)) -> usize {
    match dim {
        Dim::Fixed(n) => *n,
        Dim::Tokens => tokens,
        Dim::Rows => rows,
    }
}

/// The kernels of each node, in order.
fn kernels(steps: Vec<StepInfo<'_>>) -> BTreeMap<String, Vec<String>> {
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for step in steps {
        names
            .entry(step.node.to_string())
            .or_default()
            .push(step.kernel);
    }
    names
}

/// The values of the graph's inputs.
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
