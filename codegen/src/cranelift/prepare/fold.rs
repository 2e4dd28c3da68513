//! Folding: what is known of i64 scalars, the numbers that addresses are made of.

use crate::kir::{BinOp, Inst, Ty, Val};

/// What is known of the values of a kernel.
pub(super) struct Known {
    /// Type of every value, by number.
    pub types: Vec<Ty>,
    facts: Vec<Fact>,
}

#[derive(Clone, Copy)]
enum Fact {
    Nothing,
    /// The value is a constant.
    Int(i64),
    /// The value is another one plus a constant.
    Sum(Val, i64),
}

/// What an instruction turns out to be.
#[derive(Debug, PartialEq)]
pub(super) enum Folded {
    /// A value that exists.
    Same(Val),
    /// An instruction on existing values.
    Inst(Inst),
    /// The sum of a value and a constant.
    AddInt(Val, i64),
}

impl Known {
    pub fn new(types: Vec<Ty>) -> Known {
        let facts = vec![Fact::Nothing; types.len()];
        Known { types, facts }
    }

    pub fn ty(&self, v: Val) -> Ty {
        self.types[v.0 as usize]
    }

    /// A new value.
    pub fn fresh(&mut self, ty: Ty) -> Val {
        self.types.push(ty);
        self.facts.push(Fact::Nothing);
        Val(self.types.len() as u32 - 1)
    }

    /// Learns what there is to know from the definition of a value.
    pub fn define(&mut self, v: Val, inst: &Inst) {
        if self.ty(v) != Ty::I64 {
            return;
        }
        self.facts[v.0 as usize] = match *inst {
            Inst::Int(x) => Fact::Int(x),
            Inst::Bin(BinOp::Add, a, b) => match self.int(b) {
                Some(x) => Fact::Sum(a, x),
                None => Fact::Nothing,
            },
            _ => Fact::Nothing,
        };
    }

    fn int(&self, v: Val) -> Option<i64> {
        match self.facts[v.0 as usize] {
            Fact::Int(x) => Some(x),
            Fact::Nothing | Fact::Sum(..) => None,
        }
    }

    /// The value without the constant that it adds, and that constant.
    fn split(&self, v: Val) -> (Val, i64) {
        match self.facts[v.0 as usize] {
            Fact::Sum(a, x) => (a, x),
            Fact::Nothing | Fact::Int(_) => (v, 0),
        }
    }

    /// The same address with as much as possible in the offset.
    pub fn address(&self, ptr: Val, offset: i32) -> (Val, i32) {
        let (base, added) = self.split(ptr);
        let sum = added.checked_add(offset.into());
        match sum.and_then(|sum| i32::try_from(sum).ok()) {
            Some(sum) => (base, sum),
            None => (ptr, offset),
        }
    }

    /// What the instruction that defines `v` turns out to be.
    pub fn fold(&self, v: Val, inst: Inst) -> Folded {
        match inst {
            Inst::Load { ptr, offset, mem } => {
                let (ptr, offset) = self.address(ptr, offset);
                Folded::Inst(Inst::Load { ptr, offset, mem })
            }
            Inst::Extend(a) if self.ty(a) == Ty::I64 => Folded::Same(a),
            Inst::Bitcast(a) if self.ty(a) == self.ty(v) => Folded::Same(a),
            Inst::Bin(op, a, b) if self.ty(v) == Ty::I64 => self.fold_bin(op, a, b),
            Inst::Shl(a, by) if self.ty(v) == Ty::I64 => match self.int(a) {
                Some(x) => Folded::Inst(Inst::Int(x << by)),
                None => Folded::Inst(inst),
            },
            _ => Folded::Inst(inst),
        }
    }

    fn fold_bin(&self, op: BinOp, a: Val, b: Val) -> Folded {
        let both = self.int(a).zip(self.int(b));
        if let Some(result) = both.and_then(|(x, y)| constant(op, x, y)) {
            return Folded::Inst(Inst::Int(result));
        }
        let commutes = !matches!(op, BinOp::Sub | BinOp::Div);
        if commutes && self.int(a).is_some() {
            return self.with_int(op, b, a);
        }
        self.with_int(op, a, b)
    }

    /// `a op b`, where `b` may be a constant.
    fn with_int(&self, op: BinOp, a: Val, b: Val) -> Folded {
        let whole = Folded::Inst(Inst::Bin(op, a, b));
        let Some(y) = self.int(b) else {
            return whole;
        };
        match (op, y) {
            (BinOp::Add, _) => self.add(a, y),
            (BinOp::Sub, _) => self.add(a, y.wrapping_neg()),
            (BinOp::Mul, 0) => Folded::Inst(Inst::Int(0)),
            (BinOp::Mul | BinOp::Div, 1) => Folded::Same(a),
            (BinOp::Mul, 2..) if y.count_ones() == 1 => {
                Folded::Inst(Inst::Shl(a, y.trailing_zeros() as u8))
            }
            _ => whole,
        }
    }

    fn add(&self, a: Val, y: i64) -> Folded {
        let (base, added) = self.split(a);
        match added.wrapping_add(y) {
            0 => Folded::Same(base),
            sum => Folded::AddInt(base, sum),
        }
    }
}

/// The result for two constants; none where it is not defined.
fn constant(op: BinOp, x: i64, y: i64) -> Option<i64> {
    match op {
        BinOp::Add => Some(x.wrapping_add(y)),
        BinOp::Sub => Some(x.wrapping_sub(y)),
        BinOp::Mul => Some(x.wrapping_mul(y)),
        BinOp::Div => x.checked_div(y),
        BinOp::Min => Some(x.min(y)),
        BinOp::Max => Some(x.max(y)),
        BinOp::And => Some(x & y),
        BinOp::Or => Some(x | y),
        BinOp::Xor => Some(x ^ y),
    }
}
