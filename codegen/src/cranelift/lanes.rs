//! Kernel IR to CLIF: conversions and movements of lanes.

use super::lower::{Lower, clif_type};
use crate::kir::{Elem, Ty, Val};
use cranelift_codegen::ir::{ConstantData, Immediate, InstBuilder, Value, types};

impl Lower<'_> {
    /// Rounds, then truncates what is whole already. Of CLIF's conversions, the x86 ones that
    /// saturate take many instructions, and the other one is for vectors only.
    pub fn round_to_int(&mut self, a: Val) -> Value {
        let ty = clif_type(self.kernel.ty(a).with_elem(Elem::I32));
        let a = self.value(a);
        let whole = self.builder.ins().nearest(a);
        if !self.is_x86() {
            return self.builder.ins().fcvt_to_sint_sat(ty, whole);
        }
        if ty.is_vector() {
            return self.builder.ins().x86_cvtt2dq(ty, whole);
        }
        let vector = self.builder.ins().scalar_to_vector(types::F32X4, whole);
        let vector = self.builder.ins().x86_cvtt2dq(types::I32X4, vector);
        self.builder.ins().extractlane(vector, 0)
    }

    pub fn widen(&mut self, a: Val, signed: bool, high: bool) -> Value {
        let a = self.value(a);
        let ins = self.builder.ins();
        match (signed, high) {
            (false, false) => ins.uwiden_low(a),
            (false, true) => ins.uwiden_high(a),
            (true, false) => ins.swiden_low(a),
            (true, true) => ins.swiden_high(a),
        }
    }

    pub fn extend(&mut self, a: Val) -> Value {
        let narrow = self.kernel.ty(a) != Ty::I64;
        let a = self.value(a);
        match narrow {
            true => self.builder.ins().sextend(types::I64, a),
            false => a,
        }
    }

    /// `swizzle` is defined for all indices, which costs x86 an instruction.
    pub fn lookup16(&mut self, table: Val, index: Val) -> Value {
        let (table, index) = (self.value(table), self.value(index));
        match self.is_x86() {
            true => self.builder.ins().x86_pshufb(table, index),
            false => self.builder.ins().swizzle(table, index),
        }
    }

    pub fn add_bytes(&mut self, sums: Val, bytes: Val) -> Value {
        let (sums, mut parts) = (self.value(sums), self.value(bytes));
        // Neighbours are added twice: bytes to 16 bits, those to 32.
        for _ in 0..2 {
            let low = self.builder.ins().uwiden_low(parts);
            let high = self.builder.ins().uwiden_high(parts);
            parts = self.builder.ins().iadd_pairwise(low, high);
        }
        self.builder.ins().iadd(sums, parts)
    }

    pub fn interleave(&mut self, a: Val, b: Val, high: bool) -> Value {
        let ty = self.kernel.ty(a);
        let bytes = ty.elem.bytes();
        let start = if high { 8 } else { 0 };
        let mask = std::array::from_fn(|i| {
            let (lane, byte) = (i / bytes, i % bytes);
            let source = if lane % 2 == 0 { 0 } else { 16 };
            (source + start + lane / 2 * bytes + byte) as u8
        });
        let (a, b) = (self.value(a), self.value(b));
        self.shuffle(a, b, mask)
    }

    /// Folds the upper half of an f32 vector onto the lower until one lane is left.
    pub fn reduce(&mut self, a: Val, op: impl Fn(&mut Self, Value, Value) -> Value) -> Value {
        let mut folded = self.value(a);
        for distance in [8, 4] {
            let mask = std::array::from_fn(|i| ((i + distance) % 16) as u8);
            let moved = self.shuffle(folded, folded, mask);
            folded = op(self, folded, moved);
        }
        self.builder.ins().extractlane(folded, 0)
    }

    /// Bytes of `a` (numbers 0 to 15) and `b` (16 to 31) in the order of `mask`.
    fn shuffle(&mut self, a: Value, b: Value, mask: [u8; 16]) -> Value {
        let ty = self.type_of(a);
        let mask = self.immediate(&mask);
        let (a, b) = (self.cast(a, types::I8X16), self.cast(b, types::I8X16));
        let shuffled = self.builder.ins().shuffle(a, b, mask);
        self.cast(shuffled, ty)
    }

    fn immediate(&mut self, bytes: &[u8]) -> Immediate {
        let immediates = &mut self.builder.func.dfg.immediates;
        immediates.push(ConstantData::from(bytes))
    }
}
