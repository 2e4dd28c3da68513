//! From the graph of a model to the graphs that it is trained with.
//!
//! A model's graph reads one sequence step by step through caches. To train it, [`form`] turns it
//! into one that reads whole sequences, [`binarize`] gives its linear layers latent weights, and
//! [`append`] puts a second model, the teacher, beside it.

use std::collections::HashMap;

use rabitc_ir::ops::attention_train::AttentionTrain;
use rabitc_ir::ops::effective_weight::{Derive, EffectiveWeight};
use rabitc_ir::ops::round::Round;
use rabitc_ir::ops::source::Weight;
use rabitc_ir::{DType, Graph, GraphError, NodeId, Op, Type};

use crate::pass::binarize::{G_SUFFIX, H_SUFFIX};

/// The form of a model's graph that reads whole sequences.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    /// Tokens of a sequence; the tokens of a step are sequences one after the other.
    pub seq_len: usize,
    /// The type that every float weight is held in, if not the checkpoint's.
    pub weights: Option<DType>,
}

/// `model` with attention over whole sequences in place of attention over caches, and without the
/// choice of rows: its logits are `f32[T, vocab]`. Node and output names stay.
pub fn form(model: &Graph, form: &Form) -> Result<Graph, GraphError> {
    let mut out = Graph::new(&model.name);
    let mut map: HashMap<NodeId, NodeId> = HashMap::new();
    for id in model.order() {
        let node = model.node(id);
        let mut operands: Vec<_> = model.operands(id).iter().map(|o| map[o]).collect();
        let op = match &node.op {
            Op::SelectRows(_) => {
                map.insert(id, operands[0]);
                continue;
            }
            Op::Attention(op) => {
                operands.truncate(3);
                AttentionTrain {
                    n_heads: op.n_heads,
                    n_kv_heads: op.n_kv_heads,
                    head_dim: op.head_dim,
                    scale: op.scale,
                    window: op.window,
                    softcap: op.softcap,
                    seq_len: form.seq_len,
                }
                .into()
            }
            Op::Weight(weight) => held(weight, form.weights).into(),
            op => op.clone(),
        };
        map.insert(id, out.add(&node.name, op, &operands)?);
    }
    for (name, id) in model.outputs() {
        out.set_output(name, map[id]);
    }
    out.remove_dead();
    Ok(out)
}

/// A weight held in another type, if it is a float one.
fn held(weight: &Weight, dtype: Option<DType>) -> Weight {
    let mut weight = weight.clone();
    if let (Some(dtype), true) = (dtype, weight.ty.dtype.is_float()) {
        weight.ty.dtype = dtype;
    }
    weight
}

/// Adds the nodes of `other` to `graph`, the names of nodes and weights with `prefix` before them.
/// Inputs of one name are one input. Gives the outputs of `other`, which are none of the result's.
pub fn append(
    graph: &mut Graph,
    other: &Graph,
    prefix: &str,
) -> Result<Vec<(String, NodeId)>, GraphError> {
    let inputs = graph.order().into_iter();
    let inputs: HashMap<String, NodeId> = inputs
        .filter_map(|id| match graph.op(id) {
            Op::Input(input) => Some((input.name.clone(), id)),
            _ => None,
        })
        .collect();
    let mut map: HashMap<NodeId, NodeId> = HashMap::new();
    for id in other.order() {
        let node = other.node(id);
        let mut op = node.op.clone();
        match &mut op {
            Op::Input(input) => {
                if let Some(same) = inputs.get(&input.name) {
                    map.insert(id, *same);
                    continue;
                }
            }
            Op::Weight(weight) => weight.name = format!("{prefix}{}", weight.name),
            _ => {}
        }
        let operands: Vec<_> = other.operands(id).iter().map(|o| map[o]).collect();
        let name = graph.fresh_name(&format!("{prefix}{}", node.name));
        map.insert(id, graph.add(&name, op, &operands)?);
    }
    let outputs = other.outputs().iter();
    Ok(outputs.map(|(name, id)| (name.clone(), map[id])).collect())
}

/// How linear layers are trained as residual-binary ones.
#[derive(Clone, Copy, Debug)]
pub struct Binary {
    /// Binary paths of a layer.
    pub paths: usize,
    /// Where the cores come from.
    pub derive: Derive,
    /// Leading paths that are not trained.
    pub frozen: usize,
    /// The type that scales are stored in: the forward pass rounds them to it.
    pub scales: DType,
}

/// A layer that [`binarize`] rewrote, by the names of its weights.
#[derive(Clone, Debug)]
pub struct BinaryLayer {
    /// The layer's node.
    pub node: String,
    /// The latent weights `[d_out, d_in]`: the dense weight's own name where there is one for all
    /// paths, else NAME.rb_latent0, NAME.rb_latent1 and so on.
    pub latents: Vec<String>,
    /// The output scales, `f32[k, d_out]`.
    pub g: String,
    /// The input scales, `f32[k, d_in]`.
    pub h: String,
}

/// Gives every layer `linear(x, W)` whose name `chosen` accepts the effective weight of a
/// residual-binary layer in place of W.
pub fn binarize(
    graph: &mut Graph,
    binary: &Binary,
    chosen: impl Fn(&str) -> bool,
) -> Result<Vec<BinaryLayer>, GraphError> {
    let mut layers = Vec::new();
    for id in graph.order() {
        let Op::Linear(op) = graph.op(id).clone() else {
            continue;
        };
        let [x, weight] = graph.operands(id)[..] else {
            continue;
        };
        let node = graph.node(id).name.clone();
        if let (Op::Weight(dense), true) = (graph.op(weight).clone(), chosen(&node)) {
            let (layer, effective) = latent(graph, binary, &node, weight, &dense)?;
            let fresh = graph.fresh_name(&node);
            let new = graph.add(&fresh, op, &[x, effective])?;
            graph.replace(id, new);
            graph.take_name(new, &node);
            layers.push(layer);
        }
    }
    graph.remove_dead();
    Ok(layers)
}

/// The effective weight of a layer from the latent weights and scales that it adds.
fn latent(
    graph: &mut Graph,
    binary: &Binary,
    node: &str,
    weight: NodeId,
    dense: &Weight,
) -> Result<(BinaryLayer, NodeId), GraphError> {
    let base = dense.name.strip_suffix(".weight").unwrap_or(&dense.name);
    let shape = dense.ty.fixed_shape().unwrap_or_default();
    let source = |graph: &mut Graph, name: &str, ty: Type| {
        let fresh = graph.fresh_name(name);
        let name = name.to_string();
        graph.add(&fresh, Weight { name, ty }, &[])
    };
    let mut scales = |suffix: &str, channels: usize| {
        let name = format!("{base}{suffix}");
        let ty = Type::fixed(DType::F32, &[binary.paths, channels]);
        let master = source(graph, &name, ty)?;
        let fresh = graph.fresh_name(&format!("{node}{suffix}"));
        let to = binary.scales;
        Ok::<_, GraphError>((name, graph.add(&fresh, Round { to }, &[master])?))
    };
    let (g, g_node) = scales(G_SUFFIX, shape[0])?;
    let (h, h_node) = scales(H_SUFFIX, shape[1])?;
    let mut latents = vec![dense.name.clone()];
    let mut operands = vec![g_node, h_node];
    match binary.derive {
        Derive::Residual => operands.push(weight),
        Derive::Independent => {
            let names = (0..binary.paths).map(|i| format!("{base}.rb_latent{i}"));
            latents = names.collect();
            for name in &latents {
                operands.push(source(graph, name, dense.ty.clone())?);
            }
        }
    }
    let (derive, frozen) = (binary.derive, binary.frozen);
    let fresh = graph.fresh_name(&format!("{node}.effective"));
    let effective = graph.add(&fresh, EffectiveWeight { derive, frozen }, &operands)?;
    let node = node.to_string();
    let layer = BinaryLayer {
        node,
        latents,
        g,
        h,
    };
    Ok((layer, effective))
}
