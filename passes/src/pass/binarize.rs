//! Turns dense linear layers into residual-binary paths.
//!
//! A layer `linear(x, W)` becomes the same paths that a checkpoint written by training gives: the
//! signs derived from W, and scales named after W that [`crate::fitted::FittedStore`] fits when
//! they are read.

use rabitc_ir::ops::elementwise::Add;
use rabitc_ir::ops::paths::{BinaryMatmul, Scale};
use rabitc_ir::ops::residual_sign::ResidualSign;
use rabitc_ir::ops::source::Weight;
use rabitc_ir::{DType, Graph, GraphError, NodeId, Op, Type};

use super::head::HEAD;
use crate::PassError;
use crate::options::{HeadForm, Options, Pattern};

/// Suffix of the output scales' name.
pub const G_SUFFIX: &str = ".rb_g";
/// Suffix of the input scales' name.
pub const H_SUFFIX: &str = ".rb_h";

/// Rewrites every dense layer that the options do not keep.
///
/// # Errors
/// A pattern of layers to be kept dense that no dense layer's name matches.
pub fn run(graph: &mut Graph, options: &Options) -> Result<(), PassError> {
    if let Some(pattern) = unmatched(graph, &options.keep_dense_layers) {
        let pattern = pattern.text();
        let reason = format!("no dense linear layer has a name that matches `{pattern}`");
        return Err(PassError::Other(reason));
    }
    for id in graph.order() {
        let Some(paths) = paths_of(graph, id, options) else {
            continue;
        };
        let operands = graph.operands(id);
        if let Op::Weight(weight) = graph.op(operands[1]).clone() {
            rewrite(graph, id, operands[0], operands[1], &weight.name, paths)?;
        }
    }
    Ok(())
}

/// The first pattern that the name of no dense linear layer matches: most likely a mistake.
pub fn unmatched<'a>(graph: &Graph, patterns: &'a [Pattern]) -> Option<&'a Pattern> {
    let layers = graph.order().into_iter();
    let layers: Vec<&str> = layers
        .filter(|id| matches!(graph.op(*id), Op::Linear(_)))
        .map(|id| graph.node(id).name.as_str())
        .collect();
    patterns
        .iter()
        .find(|p| !layers.iter().any(|name| p.matches(name)))
}

/// How many paths the layer `id` gets, if it is a dense layer to be binarized.
fn paths_of(graph: &Graph, id: NodeId, options: &Options) -> Option<usize> {
    let node = graph.node(id);
    if !matches!(node.op, Op::Linear(_)) {
        return None;
    }
    if node.name == HEAD {
        return match options.head {
            HeadForm::Paths(paths) => Some(paths),
            _ => None,
        };
    }
    let kept = options.keep_dense
        || options
            .keep_dense_layers
            .iter()
            .any(|p| p.matches(&node.name));
    (!kept).then_some(options.paths)
}

fn rewrite(
    graph: &mut Graph,
    id: NodeId,
    x: NodeId,
    weight: NodeId,
    weight_name: &str,
    paths: usize,
) -> Result<(), GraphError> {
    let name = graph.node(id).name.clone();
    let base = weight_name.strip_suffix(".weight").unwrap_or(weight_name);
    let shape = graph.ty(weight).fixed_shape().unwrap_or_default();
    let scales = |graph: &mut Graph, suffix: &str, channels: usize| {
        let tensor = Weight {
            name: format!("{base}{suffix}"),
            ty: Type::fixed(DType::F16, &[paths, channels]),
        };
        let fresh = graph.fresh_name(&tensor.name.clone());
        graph.add(&fresh, tensor, &[])
    };
    let g = scales(graph, G_SUFFIX, shape[0])?;
    let h = scales(graph, H_SUFFIX, shape[1])?;
    let fresh = graph.fresh_name(&format!("{name}.signs"));
    let signs = graph.add(&fresh, ResidualSign {}, &[weight, g, h])?;
    let mut sum = None;
    for path in 0..paths {
        let mut add = |part: &str, op: Op, operands: &[NodeId]| {
            let fresh = graph.fresh_name(&format!("{name}.{part}{path}"));
            graph.add(&fresh, op, operands)
        };
        let u = add("u", Scale { row: path }.into(), &[x, h])?;
        let p = add("p", BinaryMatmul { path }.into(), &[u, signs])?;
        let y = add("y", Scale { row: path }.into(), &[p, g])?;
        sum = Some(match sum {
            None => y,
            Some(sum) => add("sum", Add {}.into(), &[sum, y])?,
        });
    }
    if let Some(sum) = sum {
        graph.replace(id, sum);
        graph.take_name(sum, &name);
    }
    Ok(())
}
