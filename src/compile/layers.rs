//! The manifest's list of layers.

use rabitc_ir::layout::{TILE_INPUTS, TILE_ROWS};
use rabitc_ir::ops::residual_binary::ResidualBinary;
use rabitc_ir::{Graph, NodeId, Op, WeightStore};
use rabitc_rbx::manifest::Layout;
use rabitc_rbx::{Layer, Manifest, Work};

/// Every layer with weights of its own, in order of execution.
pub fn layers(run: &Graph, full: &Graph, source: &dyn WeightStore) -> Vec<Layer> {
    let order = run.order();
    let layers = order.into_iter().filter_map(|id| layer(run, id));
    layers
        .map(|mut layer| {
            if let Some(id) = full.find(&layer.node) {
                layer.source_bytes = source_bytes(full, id, source);
            }
            layer
        })
        .collect()
}

/// Fills in the kernels of every layer from the plan.
pub fn name_kernels(manifest: &mut Manifest) {
    for layer in &mut manifest.layers {
        for step in manifest.programs.iter().flat_map(|p| &p.steps) {
            if let Work::Kernel { kernel, .. } = &step.work
                && step.node == layer.node
            {
                let name = &manifest.kernels[*kernel].name;
                if !layer.kernels.contains(name) {
                    layer.kernels.push(name.clone());
                }
            }
        }
        for gpu in &manifest.gpus {
            for step in gpu.programs.iter().flat_map(|p| &p.steps) {
                let name = &gpu.kernels[step.kernel].name;
                if step.node == layer.node && !layer.kernels.contains(name) {
                    layer.kernels.push(name.clone());
                }
            }
        }
    }
}

fn layer(graph: &Graph, id: NodeId) -> Option<Layer> {
    let node = graph.node(id);
    let operands = graph.operands(id);
    let width = |i: usize| graph.ty(operands[i]).last().unwrap_or(0);
    let d_out = node.ty.last().unwrap_or(0);
    let (form, segments, d_in, paths, layout) = match &node.op {
        Op::ResidualBinary(op) => {
            let layout = op.packed.then(|| describe(op));
            (
                "residual_binary",
                op.segments.clone(),
                width(0),
                op.paths,
                layout,
            )
        }
        Op::Linear(_) => ("dense", vec![d_out], width(1), 0, None),
        Op::LinearInt8(_) => ("int8", vec![d_out], width(1), 0, None),
        Op::Embed(_) => {
            let rows = graph.ty(operands[0]).shape[0].fixed().unwrap_or(0);
            ("embedding", vec![rows], d_out, 0, None)
        }
        _ => return None,
    };
    let stored = operands.iter().filter(|o| graph.op(**o).compile_time());
    Some(Layer {
        node: node.name.clone(),
        form: form.to_string(),
        segments,
        d_in,
        paths,
        layout,
        bytes: stored
            .filter_map(|o| graph.ty(*o).storage_bytes())
            .sum::<usize>() as u64,
        source_bytes: 0,
        kernels: Vec::new(),
    })
}

/// The layout descriptor of packed signs, in the words of `docs/formats.md`.
fn describe(op: &ResidualBinary) -> Layout {
    let words = |words: &[&str]| words.iter().map(|w| w.to_string()).collect();
    Layout {
        tile_rows: TILE_ROWS,
        tile_inputs: TILE_INPUTS,
        row_tiles: op.row_tiles,
        order: words(&["segment", "row_block", "path", "input_tile", "row_tile"]),
        tile_order: words(&["input_octet", "row"]),
        bit_order: "lsb_first".into(),
        one: "+1".into(),
        padding: "zero".into(),
    }
}

/// Bytes of the checkpoint's tensors that a node's weights come from.
fn source_bytes(graph: &Graph, id: NodeId, source: &dyn WeightStore) -> u64 {
    let mut pending = graph.operands(id);
    let mut seen = std::collections::BTreeSet::new();
    while let Some(id) = pending.pop() {
        if graph.op(id).compile_time() && seen.insert(id) {
            pending.extend(graph.operands(id));
        }
    }
    let weights = seen.iter().filter_map(|id| match graph.op(*id) {
        // Fitted scales are not in the source.
        Op::Weight(w) => source.info(&w.name).and(w.ty.storage_bytes()),
        _ => None,
    });
    weights.sum::<usize>() as u64
}
