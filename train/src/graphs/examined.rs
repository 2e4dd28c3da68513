//! What the teacher is examined with: how important its channels are, and how the paths that its
//! layers are replaced by go together.

use rabitc_ir::ops::cross_entropy::CrossEntropy;
use rabitc_ir::ops::elementwise::Mul;
use rabitc_ir::ops::linear::Linear;
use rabitc_ir::ops::source::Weight;
use rabitc_ir::ops::sums::SumRows;
use rabitc_ir::{DType, Graph, GraphError, NodeId, Op, Type};
use rabitc_passes::autodiff::training::append;
use rabitc_passes::autodiff::{Differentiate, autodiff};

use super::{TEACHER, labels, logits, whole};
use crate::error::TrainError;
use crate::recipe::Recipe;

/// The teacher with its linear layers that are to be binarized: input and output of each.
struct Examined {
    graph: Graph,
    logits: NodeId,
    /// The layer's name in the student, its node and what that reads.
    layers: Vec<(String, NodeId, NodeId)>,
}

fn examined(
    name: &str,
    model: &Graph,
    recipe: &Recipe,
    seq: usize,
) -> Result<Examined, TrainError> {
    let mut graph = Graph::new(name);
    let outputs = append(&mut graph, &whole(model, seq)?, TEACHER)?;
    let layers = graph.order().into_iter().filter_map(|id| {
        let name = graph.node(id).name.strip_prefix(TEACHER)?;
        let chosen = matches!(graph.op(id), Op::Linear(_)) && recipe.binarizes(name);
        chosen.then(|| (name.to_string(), id, graph.operands(id)[0]))
    });
    let layers = layers.collect();
    Ok(Examined {
        logits: logits(&outputs)?,
        graph,
        layers,
    })
}

/// What importance is measured with: for every layer the outputs `in.LAYER`, the sum over tokens
/// of the squares of each input channel, and `out.LAYER`, that of the gradient of the text's
/// cross-entropy with respect to each output channel.
pub fn calibration(model: &Graph, recipe: &Recipe, seq_len: usize) -> Result<Graph, TrainError> {
    let mut teacher = examined("gradients", model, recipe, seq_len)?;
    let labels = labels(&mut teacher.graph)?;
    let operands = [teacher.logits, labels];
    let loss = teacher.graph.add("loss", CrossEntropy {}, &operands)?;
    teacher.graph.set_output("loss", loss);
    for (name, _, x) in &teacher.layers {
        teacher.graph.set_output(&format!("in.{name}"), *x);
    }
    let name = |id: &NodeId| teacher.graph.node(*id).name.clone();
    let request = Differentiate {
        loss: "loss".into(),
        values: teacher.layers.iter().map(|(_, id, _)| name(id)).collect(),
        ..Differentiate::default()
    };
    autodiff(&mut teacher.graph, &request)?;
    let mut graph = Graph::new("calibration");
    for (output, id) in append(&mut graph, &teacher.graph, "")? {
        let output = match output.strip_prefix("grad.") {
            Some(node) => format!("out.{}", node.strip_prefix(TEACHER).unwrap_or(node)),
            None if output == "loss" => continue,
            None => output,
        };
        let sum = product_sums(&mut graph, &output, id, id)?;
        graph.set_output(&output, sum);
    }
    graph.remove_dead();
    Ok(graph)
}

/// Σ over tokens of a ⊙ b, by channel.
fn product_sums(graph: &mut Graph, name: &str, a: NodeId, b: NodeId) -> Result<NodeId, GraphError> {
    let fresh = graph.fresh_name(&format!("{name}.products"));
    let products = graph.add(&fresh, Mul {}, &[a, b])?;
    let fresh = graph.fresh_name(name);
    graph.add(&fresh, SumRows {}, &[products])
}

/// The weight that holds path `path` of a layer as a dense matrix, in [`path_outputs`].
pub fn path_weight(layer: &str, path: usize) -> String {
    format!("path{path}.{layer}")
}

/// What paths are compared with on the teacher's own inputs: for every layer and i ≤ j ≤ k the
/// output `LAYER/i/j`, the sum over tokens of the product of y_i and y_j, by output channel. y_i is
/// what path i makes of the layer's input, y_k what the teacher's layer does.
pub fn path_outputs(
    model: &Graph,
    recipe: &Recipe,
    paths: usize,
    seq_len: usize,
) -> Result<Graph, TrainError> {
    let Examined {
        mut graph, layers, ..
    } = examined("paths", model, recipe, seq_len)?;
    for (name, id, x) in layers {
        let shape = graph.ty(graph.operands(id)[1]).fixed_shape();
        let ty = Type::fixed(DType::F32, &shape.unwrap_or_default());
        let mut outputs = Vec::with_capacity(paths + 1);
        for path in 0..paths {
            let (name, ty) = (path_weight(&name, path), ty.clone());
            let weight = graph.add(&name.clone(), Weight { name, ty }, &[])?;
            let fresh = graph.fresh_name("y");
            outputs.push(graph.add(&fresh, Linear {}, &[x, weight])?);
        }
        outputs.push(id);
        for i in 0..outputs.len() {
            for j in i..outputs.len() {
                let output = format!("{name}/{i}/{j}");
                let sum = product_sums(&mut graph, &output, outputs[i], outputs[j])?;
                graph.set_output(&output, sum);
            }
        }
    }
    graph.remove_dead();
    Ok(graph)
}
