//! The operands of instructions, for passes that treat all instructions alike.

use super::types::{Block, Inst, Kernel, Stmt, Val};

impl Inst {
    /// The values that the instruction uses, in order.
    pub fn operands(&self) -> Vec<Val> {
        let mut operands = Vec::new();
        // Only the visiting matters: the copy that comes out is dropped.
        let _ = self.map_operands(|v| {
            operands.push(v);
            v
        });
        operands
    }

    /// The same instruction on other operands: `f` is applied to each, in order.
    pub fn map_operands(&self, mut f: impl FnMut(Val) -> Val) -> Inst {
        match *self {
            Inst::Param(_)
            | Inst::Scalar(_)
            | Inst::Begin
            | Inst::End
            | Inst::Worker
            | Inst::Stack { .. }
            | Inst::Int(_)
            | Inst::Float(_)
            | Inst::Bytes(_)
            | Inst::Get(_) => self.clone(),
            Inst::Splat(a) => Inst::Splat(f(a)),
            Inst::Bin(op, a, b) => Inst::Bin(op, f(a), f(b)),
            Inst::Un(op, a) => Inst::Un(op, f(a)),
            Inst::Fma(a, b, c) => Inst::Fma(f(a), f(b), f(c)),
            Inst::Shl(a, by) => Inst::Shl(f(a), by),
            Inst::Shr(a, by) => Inst::Shr(f(a), by),
            Inst::Sar(a, by) => Inst::Sar(f(a), by),
            Inst::Cmp(op, a, b) => Inst::Cmp(op, f(a), f(b)),
            Inst::Select(mask, a, b) => Inst::Select(f(mask), f(a), f(b)),
            Inst::ToInt(a) => Inst::ToInt(f(a)),
            Inst::ToFloat(a) => Inst::ToFloat(f(a)),
            Inst::Bitcast(a) => Inst::Bitcast(f(a)),
            Inst::WidenU(a, high) => Inst::WidenU(f(a), high),
            Inst::WidenS(a, high) => Inst::WidenS(f(a), high),
            Inst::Narrow(a, b) => Inst::Narrow(f(a), f(b)),
            Inst::Extend(a) => Inst::Extend(f(a)),
            Inst::Trunc(a) => Inst::Trunc(f(a)),
            Inst::Lookup16 { table, index } => Inst::Lookup16 {
                table: f(table),
                index: f(index),
            },
            Inst::Permute { table, index } => Inst::Permute {
                table: f(table),
                index: f(index),
            },
            Inst::AddBytes(a, b) => Inst::AddBytes(f(a), f(b)),
            Inst::Interleave(a, b, high) => Inst::Interleave(f(a), f(b), high),
            Inst::Extract(a, lane) => Inst::Extract(f(a), lane),
            Inst::Sum(a) => Inst::Sum(f(a)),
            Inst::MaxLane(a) => Inst::MaxLane(f(a)),
            Inst::Load { ptr, offset, mem } => Inst::Load {
                ptr: f(ptr),
                offset,
                mem,
            },
        }
    }
}

impl Stmt {
    /// The values that the statement itself uses, without the blocks inside it.
    pub fn operands(&self) -> Vec<Val> {
        match self {
            Stmt::Let(_, inst) => inst.operands(),
            Stmt::Set(_, v) | Stmt::If { cond: v, .. } => vec![*v],
            Stmt::Store { ptr, value, .. } => vec![*ptr, *value],
            Stmt::Prefetch { ptr, .. } => vec![*ptr],
            Stmt::For { start, end, .. } => vec![*start, *end],
        }
    }
}

/// How often each value of a kernel is used, by number.
pub fn use_counts(kernel: &Kernel) -> Vec<u32> {
    let mut counts = vec![0; kernel.values.len()];
    each_statement(&kernel.body, &mut |stmt| {
        for v in stmt.operands() {
            counts[v.0 as usize] += 1;
        }
    });
    counts
}

/// Calls `f` on every statement of a block and of the blocks inside it, outer ones first.
pub fn each_statement<'a>(block: &'a Block, f: &mut impl FnMut(&'a Stmt)) {
    for stmt in block {
        f(stmt);
        match stmt {
            Stmt::For { body, .. } => each_statement(body, f),
            Stmt::If {
                then, otherwise, ..
            } => {
                each_statement(then, f);
                each_statement(otherwise, f);
            }
            Stmt::Let(..) | Stmt::Set(..) | Stmt::Store { .. } | Stmt::Prefetch { .. } => {}
        }
    }
}
