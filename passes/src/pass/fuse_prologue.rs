//! Moves norms and gates into the `residual_binary` ops that read them, where all their readers
//! are such ops: the kernel that prepares a product's input computes them on the way.

use rabitc_ir::ops::residual_binary::{Prologue, ResidualBinary};
use rabitc_ir::{Graph, NodeId, Op};

use super::substitute;
use crate::PassError;
use crate::options::Options;

/// Moves every norm over whole rows, and every gate, that only such ops read.
pub fn run(graph: &mut Graph, _: &Options) -> Result<(), PassError> {
    for id in graph.order() {
        let Some(change) = prologue(graph, id) else {
            continue;
        };
        let users = graph.users(id);
        if !users.iter().all(|u| accepts(graph, *u, id)) || is_output(graph, id) {
            continue;
        }
        let before = graph.operands(id);
        for user in users {
            if let Op::ResidualBinary(op) = graph.op(user).clone() {
                let mut operands = before.clone();
                operands.extend(graph.operands(user).into_iter().skip(1));
                substitute(graph, user, change(op), &operands)?;
            }
        }
    }
    Ok(())
}

type Change = Box<dyn Fn(ResidualBinary) -> ResidualBinary>;

/// How a reader's attributes change if it takes node `id` in.
fn prologue(graph: &Graph, id: NodeId) -> Option<Change> {
    match graph.op(id) {
        Op::RmsNorm(norm) => {
            let whole_rows = graph.ty(graph.operands(id)[1]).last() == graph.ty(id).last();
            let (eps, unit_offset) = (norm.eps, norm.unit_offset);
            whole_rows.then(|| -> Change {
                Box::new(move |op| ResidualBinary {
                    prologue: Prologue::RmsNorm,
                    eps,
                    unit_offset,
                    ..op
                })
            })
        }
        Op::Gate(gate) => {
            let act = gate.act;
            Some(Box::new(move |op| ResidualBinary {
                prologue: Prologue::Gate,
                act,
                ..op
            }))
        }
        _ => None,
    }
}

/// Whether `user` is a `residual_binary` op without a prologue that reads `id` as its input only.
fn accepts(graph: &Graph, user: NodeId, id: NodeId) -> bool {
    let operands = graph.operands(user);
    let Op::ResidualBinary(op) = graph.op(user) else {
        return false;
    };
    op.prologue == Prologue::None && operands[0] == id && !operands[1..].contains(&id)
}

fn is_output(graph: &Graph, id: NodeId) -> bool {
    graph.outputs().iter().any(|(_, output)| *output == id)
}
