//! The term of the loss that keeps paths from doing the same work twice.

use rabitc_ir::ops::elementwise::Mul;
use rabitc_ir::ops::linear::Linear;
use rabitc_ir::ops::source::Const;
use rabitc_ir::ops::squared_error::{Normalize, SquaredError};
use rabitc_ir::ops::sums::WeightedSum;
use rabitc_ir::{Graph, GraphError, NodeId, Op, Type};
use rabitc_passes::autodiff::training::BinaryLayer;

use super::TEACHER;
use crate::error::TrainError;

/// Adds the mean over layers of 2 Σ_{i<j} Σ ŷ_i ŷ_j / Σ t²: how much the outputs ŷ_i of a layer's
/// paths overlap, as a share of the energy of the teacher's output t of the same layer. It is
/// positive where paths are correlated positively, and then what the loss makes smaller.
///
/// With the outputs z_i of the first i paths together, ŷ_i = z_i − z_{i−1}, and the sum is
/// ‖z_k‖² − Σ ‖ŷ_i‖². A layer's first paths have the layer's effective weight with the scales of
/// the others set to zero, which changes no core before them.
pub(super) fn diversity(graph: &mut Graph, layers: &[BinaryLayer]) -> Result<NodeId, TrainError> {
    let mut terms = Vec::with_capacity(layers.len());
    for layer in layers {
        let found = [layer.node.clone(), format!("{TEACHER}{}", layer.node)];
        let [Some(whole), Some(target)] = found.map(|name| graph.find(&name)) else {
            let what = format!("the graph has no layer {}", layer.node);
            return Err(TrainError::Setting(what));
        };
        terms.push(overlap(graph, &layer.node, whole, target)?);
    }
    let factors = vec![1.0 / terms.len().max(1) as f32; terms.len()];
    Ok(graph.add("loss.diversity", WeightedSum { factors }, &terms)?)
}

/// The overlap of one layer's paths. `whole` is its output, `target` the teacher's.
fn overlap(
    graph: &mut Graph,
    name: &str,
    whole: NodeId,
    target: NodeId,
) -> Result<NodeId, TrainError> {
    let [x, effective] = graph.operands(whole)[..] else {
        let what = format!("%{name} is no linear layer");
        return Err(TrainError::Setting(what));
    };
    let operands = graph.operands(effective);
    let paths = graph.ty(operands[0]).fixed_shape().map_or(1, |s| s[0]);
    let mut energies = vec![energy(graph, name, whole, target)?];
    let mut before: Option<NodeId> = None;
    for path in 0..paths {
        let so_far = match path + 1 == paths {
            true => whole,
            false => first_paths(graph, name, [x, effective], path + 1)?,
        };
        let own = match before {
            None => so_far,
            Some(before) => {
                let factors = vec![1.0, -1.0];
                let fresh = graph.fresh_name(&format!("{name}.path{path}"));
                graph.add(&fresh, WeightedSum { factors }, &[so_far, before])?
            }
        };
        energies.push(energy(graph, name, own, target)?);
        before = Some(so_far);
    }
    let mut factors = vec![-1.0; energies.len()];
    factors[0] = 1.0;
    let fresh = graph.fresh_name(&format!("{name}.overlap"));
    Ok(graph.add(&fresh, WeightedSum { factors }, &energies)?)
}

/// The output of the first `count` paths of the layer that multiplies x by the node `effective`.
fn first_paths(
    graph: &mut Graph,
    name: &str,
    [x, effective]: [NodeId; 2],
    count: usize,
) -> Result<NodeId, GraphError> {
    let mut operands = graph.operands(effective);
    let op: Op = graph.op(effective).clone();
    let shape = graph.ty(operands[0]).fixed_shape().unwrap_or_default();
    let elements = shape.iter().product::<usize>();
    let kept = count * shape.last().copied().unwrap_or(0);
    let data = (0..elements).map(|i| if i < kept { 1.0 } else { 0.0 });
    let mask = Const {
        ty: Type::fixed(rabitc_ir::DType::F32, &shape),
        data: data.collect(),
    };
    let mut add = |part: &str, op: Op, operands: &[NodeId]| {
        let fresh = graph.fresh_name(&format!("{name}.first{count}.{part}"));
        graph.add(&fresh, op, operands)
    };
    let mask = add("mask", mask.into(), &[])?;
    operands[0] = add("g", Mul {}.into(), &[operands[0], mask])?;
    let weight = add("weight", op, &operands)?;
    add("y", Linear {}.into(), &[x, weight])
}

/// ‖x‖² / ‖target‖², as the squared distance of x + target from the target.
fn energy(graph: &mut Graph, name: &str, x: NodeId, target: NodeId) -> Result<NodeId, GraphError> {
    let factors = vec![1.0, 1.0];
    let fresh = graph.fresh_name(&format!("{name}.shifted"));
    let shifted = graph.add(&fresh, WeightedSum { factors }, &[x, target])?;
    let normalize = Normalize::Target;
    let fresh = graph.fresh_name(&format!("{name}.energy"));
    graph.add(&fresh, SquaredError { normalize }, &[shifted, target])
}
