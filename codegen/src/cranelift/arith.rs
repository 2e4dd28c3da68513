//! Kernel IR to CLIF: constants, arithmetic, comparisons.

use super::lower::{Lower, clif_type};
use crate::kir::{BinOp, CmpOp, Ty, UnOp, Val};
use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{
    ConstantData, Endianness, InstBuilder, MemFlagsData, Type, Value, types,
};
use cranelift_frontend::FuncInstBuilder;

impl Lower<'_> {
    /// An integer in every lane.
    pub fn int(&mut self, ty: Ty, x: i64) -> Value {
        let clif = clif_type(ty);
        if ty.lanes > 1 {
            return self.constant(clif, &x.to_le_bytes()[..ty.elem.bytes()]);
        }
        // The immediate of a narrow type must not have bits beyond it.
        let unused = 64 - clif.bits();
        let imm = ((x as u64) << unused >> unused) as i64;
        self.builder.ins().iconst(clif, imm)
    }

    /// A float in every lane.
    pub fn float(&mut self, ty: Ty, x: f32) -> Value {
        match ty.lanes {
            1 => self.builder.ins().f32const(x),
            _ => self.constant(clif_type(ty), &x.to_bits().to_le_bytes()),
        }
    }

    /// The vector that repeats some bytes, a divisor of its size.
    pub fn constant(&mut self, ty: Type, lane: &[u8]) -> Value {
        let bytes: Vec<u8> = lane.iter().copied().cycle().take(16).collect();
        let constants = &mut self.builder.func.dfg.constants;
        let handle = constants.insert(ConstantData::from(bytes));
        self.builder.ins().vconst(ty, handle)
    }

    pub fn bin(&mut self, op: BinOp, a: Val, b: Val) -> Value {
        let float = self.kernel.ty(a).elem == crate::kir::Elem::F32;
        let (a, b) = (self.value(a), self.value(b));
        match (op, float) {
            (BinOp::Add, false) => self.builder.ins().iadd(a, b),
            (BinOp::Sub, false) => self.builder.ins().isub(a, b),
            (BinOp::Mul, false) => self.builder.ins().imul(a, b),
            (BinOp::Div, false) => self.builder.ins().sdiv(a, b),
            (BinOp::Min, false) => self.builder.ins().smin(a, b),
            (BinOp::Max, false) => self.builder.ins().smax(a, b),
            (BinOp::Add, true) => self.builder.ins().fadd(a, b),
            (BinOp::Sub, true) => self.builder.ins().fsub(a, b),
            (BinOp::Mul, true) => self.builder.ins().fmul(a, b),
            (BinOp::Div, true) => self.builder.ins().fdiv(a, b),
            (BinOp::Min, true) => self.float_min(a, b),
            (BinOp::Max, true) => self.float_max(a, b),
            (BinOp::And, _) => self.builder.ins().band(a, b),
            (BinOp::Or, _) => self.builder.ins().bor(a, b),
            (BinOp::Xor, _) => self.builder.ins().bxor(a, b),
        }
    }

    /// The smaller. On x86 it is the form that becomes one `minps`, CLIF's own `fmin` being many
    /// instructions there.
    fn float_min(&mut self, a: Value, b: Value) -> Value {
        if !self.is_x86() {
            return self.builder.ins().fmin(a, b);
        }
        let less = self.builder.ins().fcmp(FloatCC::LessThan, a, b);
        self.pick(less, a, b)
    }

    /// The larger; as [`Lower::float_min`].
    pub fn float_max(&mut self, a: Value, b: Value) -> Value {
        if !self.is_x86() {
            return self.builder.ins().fmax(a, b);
        }
        let less = self.builder.ins().fcmp(FloatCC::LessThan, b, a);
        self.pick(less, a, b)
    }

    /// `a` where a float comparison held, else `b`.
    fn pick(&mut self, held: Value, a: Value, b: Value) -> Value {
        let ty = self.type_of(a);
        if !ty.is_vector() {
            return self.builder.ins().select(held, a, b);
        }
        let mask = self.cast(held, ty);
        self.builder.ins().bitselect(mask, a, b)
    }

    pub fn un(&mut self, op: UnOp, a: Val) -> Value {
        let a = self.value(a);
        match op {
            UnOp::Neg => self.builder.ins().fneg(a),
            UnOp::Abs => self.builder.ins().fabs(a),
            UnOp::Sqrt => self.builder.ins().sqrt(a),
            UnOp::Nearest => self.builder.ins().nearest(a),
        }
    }

    /// Levels without the instruction get two: CLIF's `fma` would call a library there. On x86 the
    /// result takes the register of the first factor, so that is the one that is not used again.
    pub fn fma(&mut self, a: Val, b: Val, c: Val) -> Value {
        let swap = self.is_x86() && self.use_count(a) > 1 && self.use_count(b) == 1;
        let (a, b) = if swap { (b, a) } else { (a, b) };
        let (a, b, c) = (self.value(a), self.value(b), self.value(c));
        if self.level.has_fma() {
            return self.builder.ins().fma(a, b, c);
        }
        let product = self.builder.ins().fmul(a, b);
        self.builder.ins().fadd(product, c)
    }

    pub fn shift(
        &mut self,
        a: Val,
        by: u8,
        op: impl FnOnce(FuncInstBuilder<'_, '_>, Value, Value) -> Value,
    ) -> Value {
        let a = self.value(a);
        let by = self.builder.ins().iconst(types::I32, i64::from(by));
        op(self.builder.ins(), a, by)
    }

    pub fn compare(&mut self, result: Val, op: CmpOp, a: Val, b: Val) -> Value {
        let float = self.kernel.ty(a).elem == crate::kir::Elem::F32;
        let (a, b) = (self.value(a), self.value(b));
        let ins = self.builder.ins();
        let held = match (op, float) {
            (CmpOp::Eq, false) => ins.icmp(IntCC::Equal, a, b),
            (CmpOp::Lt, false) => ins.icmp(IntCC::SignedLessThan, a, b),
            (CmpOp::Le, false) => ins.icmp(IntCC::SignedLessThanOrEqual, a, b),
            (CmpOp::Eq, true) => ins.fcmp(FloatCC::Equal, a, b),
            (CmpOp::Lt, true) => ins.fcmp(FloatCC::LessThan, a, b),
            (CmpOp::Le, true) => ins.fcmp(FloatCC::LessThanOrEqual, a, b),
        };
        let ty = self.kernel.ty(result);
        if ty.lanes > 1 {
            return held;
        }
        self.set_flag(result, held);
        self.builder.ins().bmask(clif_type(ty), held)
    }

    /// Vectors are selected as integers: the backend recognises masks of comparisons there.
    pub fn select(&mut self, mask: Val, a: Val, b: Val) -> Value {
        let (a, b) = (self.value(a), self.value(b));
        if let Some(flag) = self.flag(mask) {
            return self.builder.ins().select(flag, a, b);
        }
        let mask = self.value(mask);
        let (ty, bits) = (self.type_of(a), self.type_of(mask));
        let (a, b) = (self.cast(a, bits), self.cast(b, bits));
        let selected = self.builder.ins().bitselect(mask, a, b);
        self.cast(selected, ty)
    }

    /// The CLIF type of a CLIF value.
    pub fn type_of(&self, value: Value) -> Type {
        self.builder.func.dfg.value_type(value)
    }

    /// The same bits as another type.
    pub fn cast(&mut self, value: Value, ty: Type) -> Value {
        if self.type_of(value) == ty {
            return value;
        }
        let flags = MemFlagsData::new().with_endianness(Endianness::Little);
        self.builder.ins().bitcast(ty, flags, value)
    }
}
