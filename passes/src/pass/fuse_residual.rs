//! Moves residual additions into the `residual_binary` ops before them.

use rabitc_ir::ops::residual_binary::ResidualBinary;
use rabitc_ir::{Graph, NodeId, Op};

use super::substitute;
use crate::PassError;
use crate::options::Options;

/// Rewrites `add(r, residual_binary(…))`, in either order of operands, where nothing else reads
/// the product.
pub fn run(graph: &mut Graph, _: &Options) -> Result<(), PassError> {
    for id in graph.order() {
        let Op::Add(_) = graph.op(id) else { continue };
        let [a, b] = graph.operands(id)[..] else {
            continue;
        };
        for (residual, product) in [(a, b), (b, a)] {
            let Some(op) = product_op(graph, product, residual) else {
                continue;
            };
            let mut operands = graph.operands(product);
            operands.push(residual);
            let name = graph.node(product).name.clone();
            let fused = substitute(
                graph,
                id,
                ResidualBinary {
                    residual: true,
                    ..op
                },
                &operands,
            )?;
            graph.take_name(fused, &name);
            break;
        }
    }
    Ok(())
}

/// The op of `product`, if a residual can be moved into it.
fn product_op(graph: &Graph, product: NodeId, residual: NodeId) -> Option<ResidualBinary> {
    match graph.op(product) {
        Op::ResidualBinary(op) if !op.residual && product != residual => {
            graph.only_user(product)?;
            Some(op.clone())
        }
        _ => None,
    }
}
