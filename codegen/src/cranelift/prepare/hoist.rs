//! Hoisting: what does not change in a loop is computed before it.
//!
//! Instructions go as far out as their operands allow, but not out of a branch. Vector constants
//! go out of the innermost loop only: there they are worth a register, further out they would hold
//! one across loops that have no use for them, and one more load before a loop costs nothing.

use super::share::is_pure;
use crate::kir::{BinOp, Block, Inst, Kernel, Stmt};

/// The kernel with loop-invariant instructions moved out.
pub(super) fn hoist(kernel: &Kernel) -> Kernel {
    let mut kernel = kernel.clone();
    let body = std::mem::take(&mut kernel.body);
    let mut hoist = Hoist {
        depth: vec![0; kernel.values.len()],
        vector: kernel.values.iter().map(|ty| ty.lanes > 1).collect(),
    };
    kernel.body = hoist.block(body, 0, false).kept;
    kernel
}

struct Hoist {
    /// In how many blocks the definition of each value stands, of the values met so far.
    depth: Vec<usize>,
    /// Whether a value is a vector.
    vector: Vec<bool>,
}

/// A block taken apart.
#[derive(Default)]
struct Parts {
    kept: Block,
    /// What is to be computed before the block, in order.
    leaving: Block,
}

impl Hoist {
    /// Takes apart a block that stands in `depth` others. Nothing leaves unless it is the body of
    /// a loop.
    fn block(&mut self, block: Block, depth: usize, is_loop: bool) -> Parts {
        let mut parts = Parts::default();
        for stmt in block {
            let kept = match stmt {
                Stmt::For {
                    iv,
                    start,
                    end,
                    step,
                    body,
                } => {
                    self.depth[iv.0 as usize] = depth + 1;
                    let inner = self.block(body, depth + 1, true);
                    for stmt in inner.leaving {
                        let further = is_loop && !self.is_vector_constant(&stmt);
                        self.place(stmt, depth, further, &mut parts);
                    }
                    Stmt::For {
                        iv,
                        start,
                        end,
                        step,
                        body: inner.kept,
                    }
                }
                Stmt::If {
                    cond,
                    then,
                    otherwise,
                } => Stmt::If {
                    cond,
                    then: self.block(then, depth + 1, false).kept,
                    otherwise: self.block(otherwise, depth + 1, false).kept,
                },
                stmt => {
                    self.place(stmt, depth, is_loop, &mut parts);
                    continue;
                }
            };
            parts.kept.push(kept);
        }
        parts
    }

    /// Decides where a statement of a block at `depth` goes.
    fn place(&mut self, stmt: Stmt, depth: usize, may_leave: bool, parts: &mut Parts) {
        let Stmt::Let(v, inst) = &stmt else {
            parts.kept.push(stmt);
            return;
        };
        let outside = |v: &crate::kir::Val| self.depth[v.0 as usize] < depth;
        let leaves = may_leave && is_movable(inst) && inst.operands().iter().all(outside);
        self.depth[v.0 as usize] = if leaves { depth - 1 } else { depth };
        match leaves {
            true => parts.leaving.push(stmt),
            false => parts.kept.push(stmt),
        }
    }

    fn is_vector_constant(&self, stmt: &Stmt) -> bool {
        match stmt {
            Stmt::Let(v, Inst::Int(_) | Inst::Float(_) | Inst::Bytes(_)) => {
                self.vector[v.0 as usize]
            }
            _ => false,
        }
    }
}

/// Whether an instruction may run where it would not have run. A division may not: it can trap.
fn is_movable(inst: &Inst) -> bool {
    let divides = matches!(inst, Inst::Bin(BinOp::Div, ..));
    (is_pure(inst) || matches!(inst, Inst::Stack { .. })) && !divides
}
