//! Joins an activation function and the product that it gates: act(a) ⊙ b.

use rabitc_ir::ops::gate::{Activation, Gate};
use rabitc_ir::{Graph, Op};

use super::substitute;
use crate::PassError;
use crate::options::Options;

/// Rewrites `mul(silu(a), b)` and `mul(gelu_tanh(a), b)`, in either order of operands.
pub fn run(graph: &mut Graph, _: &Options) -> Result<(), PassError> {
    for id in graph.order() {
        let Op::Mul(_) = graph.op(id) else { continue };
        let [a, b] = graph.operands(id)[..] else {
            continue;
        };
        for (gate, up) in [(a, b), (b, a)] {
            let act = match graph.op(gate) {
                Op::Silu(_) => Activation::Silu,
                Op::GeluTanh(_) => Activation::GeluTanh,
                _ => continue,
            };
            if gate != up && graph.only_user(gate).is_some() {
                let input = graph.operands(gate)[0];
                substitute(graph, id, Gate { act }, &[input, up])?;
                break;
            }
        }
    }
    Ok(())
}
