//! Sharing: an instruction with the same operands as one whose result is in scope is replaced by
//! that result, after folding.

use super::fold::{Folded, Known};
use crate::kir::{BinOp, Block, Inst, Kernel, Stmt, Ty, Val};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};

/// The kernel with every pure instruction folded, and computed once in a scope.
pub(super) fn share(kernel: &Kernel) -> Kernel {
    let mut kernel = kernel.clone();
    let body = std::mem::take(&mut kernel.body);
    let mut share = Share {
        renamed: (0..kernel.values.len() as u32).map(Val).collect(),
        known: Known::new(kernel.values.clone()),
        scopes: Vec::new(),
    };
    kernel.body = share.block(body);
    kernel.values = share.known.types;
    kernel
}

struct Share {
    /// What each original value has become.
    renamed: Vec<Val>,
    known: Known,
    /// Instructions seen, by block, outer blocks first.
    scopes: Vec<HashMap<Key, Val>>,
}

impl Share {
    fn block(&mut self, block: Block) -> Block {
        self.scopes.push(HashMap::new());
        let mut out = Vec::new();
        for stmt in block {
            self.stmt(stmt, &mut out);
        }
        self.scopes.pop();
        out
    }

    fn value(&self, v: Val) -> Val {
        self.renamed[v.0 as usize]
    }

    fn stmt(&mut self, stmt: Stmt, out: &mut Block) {
        let renamed = match stmt {
            Stmt::Let(v, inst) => return self.define(v, &inst, out),
            Stmt::Set(var, v) => Stmt::Set(var, self.value(v)),
            Stmt::Store { ptr, offset, value } => {
                let (ptr, offset) = self.known.address(self.value(ptr), offset);
                Stmt::Store {
                    ptr,
                    offset,
                    value: self.value(value),
                }
            }
            Stmt::Prefetch { cache, ptr, offset } => {
                let (ptr, offset) = self.known.address(self.value(ptr), offset);
                Stmt::Prefetch { cache, ptr, offset }
            }
            Stmt::For {
                iv,
                start,
                end,
                step,
                body,
            } => Stmt::For {
                iv,
                start: self.value(start),
                end: self.value(end),
                step,
                body: self.block(body),
            },
            Stmt::If {
                cond,
                then,
                otherwise,
            } => Stmt::If {
                cond: self.value(cond),
                then: self.block(then),
                otherwise: self.block(otherwise),
            },
        };
        out.push(renamed);
    }

    fn define(&mut self, v: Val, inst: &Inst, out: &mut Block) {
        let inst = inst.map_operands(|operand| self.value(operand));
        self.renamed[v.0 as usize] = match self.known.fold(v, inst) {
            Folded::Same(same) => same,
            Folded::Inst(inst) => self.place(v, inst, out),
            Folded::AddInt(a, x) => {
                let constant = self.known.fresh(Ty::I64);
                let constant = self.place(constant, Inst::Int(x), out);
                self.place(v, Inst::Bin(BinOp::Add, a, constant), out)
            }
        };
    }

    /// The value of a pure instruction that is in scope already, or else `v`, defined here.
    fn place(&mut self, v: Val, inst: Inst, out: &mut Block) -> Val {
        let key = Key {
            ty: self.known.ty(v),
            inst,
        };
        if is_pure(&key.inst) {
            let seen = self.scopes.iter().rev().find_map(|scope| scope.get(&key));
            if let Some(&seen) = seen {
                return seen;
            }
        }
        self.known.define(v, &key.inst);
        out.push(Stmt::Let(v, key.inst.clone()));
        if is_pure(&key.inst)
            && let Some(scope) = self.scopes.last_mut()
        {
            scope.insert(key, v);
        }
        v
    }
}

/// Whether the instruction computes the same from the same operands wherever it stands.
pub(super) fn is_pure(inst: &Inst) -> bool {
    !matches!(inst, Inst::Get(_) | Inst::Load { .. } | Inst::Stack { .. })
}

/// An instruction as the key of a table: equal if it computes the same bits.
struct Key {
    ty: Ty,
    inst: Inst,
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        let same = match (&self.inst, &other.inst) {
            (Inst::Float(a), Inst::Float(b)) => a.to_bits() == b.to_bits(),
            (a, b) => a == b,
        };
        same && self.ty == other.ty
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(&self.inst).hash(state);
        self.ty.hash(state);
        self.inst.operands().hash(state);
        if let Inst::Int(x) = self.inst {
            x.hash(state);
        }
    }
}
