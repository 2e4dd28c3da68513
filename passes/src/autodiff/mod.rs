//! Autodiff: a graph that computes a loss becomes one that computes its gradients too.
//!
//! [`autodiff`] walks the graph from the loss back to what gradients are asked for, and lets the
//! gradient rule of each op on the way add its nodes ([`rabitc_ir::gradient`]). It knows no op by
//! name. Nodes that nothing asked for depends on are not differentiated, so an op without a rule
//! is an error only where a gradient would have to pass it.

mod error;
mod recompute;
pub mod training;

use std::collections::{HashMap, HashSet};

use rabitc_ir::ops::source::Const;
use rabitc_ir::ops::sums::WeightedSum;
use rabitc_ir::{Backward, DType, Graph, NodeId, Op, Type};

pub use error::AutodiffError;
use recompute::Recompute;

/// What is to be differentiated.
#[derive(Clone, Debug, Default)]
pub struct Differentiate {
    /// The output that is the loss, `f32[1]`.
    pub loss: String,
    /// Weights, by their names in the weight store, whose gradients are asked for.
    pub weights: Vec<String>,
    /// Nodes whose values' gradients are asked for.
    pub values: Vec<String>,
    /// Whether the backward pass reads copies of cheap activations (norms, gates, rotations,
    /// effective weights) that are computed again from what expensive ops left, instead of the
    /// activations themselves, which then need not be kept.
    pub checkpoint_activations: bool,
}

/// Adds to `graph` the outputs `grad.NAME`, f32 of the shape of what they are the gradients of,
/// for every weight and value asked for.
///
/// A gradient that reaches a node in several ways is the sum over them; so is that of a weight
/// which several nodes read. The new outputs stand in the order in which the backward pass
/// finishes them, from the loss down, so that evaluating outputs in order keeps little. Nodes that
/// no output depends on are removed.
pub fn autodiff(graph: &mut Graph, request: &Differentiate) -> Result<(), AutodiffError> {
    let loss = loss(graph, &request.loss)?;
    let targets = targets(graph, request)?;
    let mut pass = Pass::new(graph, &targets, request.checkpoint_activations);
    let finished = pass.run(loss)?;
    outputs(graph, &targets, &finished)?;
    graph.remove_dead();
    Ok(())
}

fn loss(graph: &Graph, name: &str) -> Result<NodeId, AutodiffError> {
    let found = graph.outputs().iter().find(|(output, _)| output == name);
    let (_, id) = found.ok_or_else(|| AutodiffError::NoLoss(name.to_string()))?;
    match *graph.ty(*id) == Type::fixed(DType::F32, &[1]) {
        true => Ok(*id),
        false => Err(AutodiffError::NotScalar {
            name: name.to_string(),
            ty: graph.ty(*id).clone(),
        }),
    }
}

/// A name that a gradient was asked for by, and the nodes that it stands for.
struct Target {
    name: String,
    nodes: Vec<NodeId>,
}

fn targets(graph: &Graph, request: &Differentiate) -> Result<Vec<Target>, AutodiffError> {
    let mut nodes: HashMap<&str, Vec<NodeId>> = HashMap::new();
    for id in graph.order() {
        if let Op::Weight(weight) = graph.op(id) {
            nodes.entry(&weight.name).or_default().push(id);
        }
    }
    let weights = request.weights.iter().map(|name| {
        let nodes = nodes.remove(name.as_str());
        nodes.ok_or_else(|| AutodiffError::NoWeight(name.clone()))
    });
    let values = request.values.iter().map(|name| {
        let node = graph.find(name).map(|id| vec![id]);
        node.ok_or_else(|| AutodiffError::NoValue(name.clone()))
    });
    let names = request.weights.iter().chain(&request.values);
    names
        .zip(weights.chain(values))
        .map(|(name, nodes)| {
            let (name, nodes) = (name.clone(), nodes?);
            let ty = graph.ty(nodes[0]);
            match ty.dtype.is_float() {
                true => Ok(Target { name, nodes }),
                false => Err(AutodiffError::NotFloat {
                    name,
                    ty: ty.clone(),
                }),
            }
        })
        .collect()
}

/// One walk from the loss to the targets.
struct Pass<'a> {
    graph: &'a mut Graph,
    /// The forward nodes, operands first.
    order: Vec<NodeId>,
    targets: HashSet<NodeId>,
    /// What depends on a target, the targets themselves included.
    active: HashSet<NodeId>,
    /// Gradients that have reached a node so far.
    parts: HashMap<NodeId, Vec<NodeId>>,
    recompute: Recompute,
}

impl<'a> Pass<'a> {
    fn new(graph: &'a mut Graph, targets: &[Target], recompute: bool) -> Self {
        let order = graph.order();
        let targets: HashSet<_> = targets.iter().flat_map(|t| t.nodes.clone()).collect();
        let mut active = targets.clone();
        for id in &order {
            if graph.operands(*id).iter().any(|o| active.contains(o)) {
                active.insert(*id);
            }
        }
        Pass {
            graph,
            order,
            targets,
            active,
            parts: HashMap::new(),
            recompute: Recompute::new(recompute),
        }
    }

    /// The targets' gradients, in the order in which they are finished.
    fn run(&mut self, loss: NodeId) -> Result<Vec<(NodeId, NodeId)>, AutodiffError> {
        let seed = Const {
            ty: Type::fixed(DType::F32, &[1]),
            data: vec![1.0],
        };
        let hint = format!("{}.seed", self.graph.node(loss).name);
        let seed = self.graph.add(&self.graph.fresh_name(&hint), seed, &[])?;
        self.parts.insert(loss, vec![seed]);
        let mut finished = Vec::new();
        for id in self.order.clone().into_iter().rev() {
            if !self.active.contains(&id) {
                continue;
            }
            let Some(parts) = self.parts.remove(&id) else {
                continue;
            };
            let dy = sum(self.graph, id, parts)?;
            if self.targets.contains(&id) {
                finished.push((id, dy));
            }
            self.node(id, dy)?;
        }
        Ok(finished)
    }

    /// Passes the gradient of one node's result on to its operands.
    fn node(&mut self, id: NodeId, dy: NodeId) -> Result<(), AutodiffError> {
        let operands = self.graph.operands(id);
        let wanted: Vec<_> = operands.iter().map(|o| self.active.contains(o)).collect();
        if !wanted.contains(&true) {
            return Ok(());
        }
        let values = operands
            .iter()
            .map(|o| self.recompute.value(self.graph, *o));
        let values = values.collect::<Result<Vec<_>, _>>()?;
        let result = self.recompute.value(self.graph, id)?;
        let op = self.graph.op(id).clone();
        let mut backward = Backward::new(self.graph, id, values, result, dy, wanted);
        op.gradient(&mut backward)?;
        let given = backward.finish()?;
        for (operand, part) in operands.into_iter().zip(given) {
            let Some(part) = part else { continue };
            let expected = Type::new(DType::F32, self.graph.ty(operand).shape.clone());
            if *self.graph.ty(part) != expected {
                return Err(AutodiffError::Shape {
                    op: op.name(),
                    found: self.graph.ty(part).clone(),
                    expected,
                });
            }
            self.parts.entry(operand).or_default().push(part);
        }
        Ok(())
    }
}

/// The sum of what has reached node `id`.
fn sum(graph: &mut Graph, id: NodeId, parts: Vec<NodeId>) -> Result<NodeId, AutodiffError> {
    if let [part] = parts[..] {
        return Ok(part);
    }
    let name = graph.fresh_name(&format!("{}.dsum", graph.node(id).name));
    let factors = vec![1.0; parts.len()];
    Ok(graph.add(&name, WeightedSum { factors }, &parts)?)
}

/// Declares the gradients as outputs, in the order in which the last part of each is finished.
fn outputs(
    graph: &mut Graph,
    targets: &[Target],
    finished: &[(NodeId, NodeId)],
) -> Result<(), AutodiffError> {
    let mut ready = Vec::new();
    for target in targets {
        let all = finished.iter().enumerate();
        let parts = all.filter(|(_, (node, _))| target.nodes.contains(node));
        let (places, parts): (Vec<_>, Vec<_>) = parts.map(|(i, (_, dy))| (i, *dy)).unzip();
        let Some(last) = places.last() else {
            return Err(AutodiffError::Unreached(target.name.clone()));
        };
        ready.push((*last, target, parts));
    }
    ready.sort_by_key(|(last, _, _)| *last);
    for (_, target, parts) in ready {
        let gradient = sum(graph, target.nodes[0], parts)?;
        let name = format!("grad.{}", target.name);
        if graph.outputs().iter().any(|(output, _)| *output == name) {
            return Err(AutodiffError::Taken(name));
        }
        graph.set_output(&name, gradient);
    }
    Ok(())
}
