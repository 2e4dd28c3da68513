//! Kernel IR to LLVM IR: arithmetic, comparisons, selections.

use super::lower::Lower;
use super::text::{self, integers, lanes_of, suffix, type_name};
use crate::kir::{BinOp, CmpOp, Elem, Ty, UnOp, Val};

impl Lower<'_> {
    pub fn bin(&mut self, result: Val, op: BinOp, a: Val, b: Val) -> String {
        let ty = self.ty(a);
        let float = ty.elem == Elem::F32;
        let flags = self.flag(a).zip(self.flag(b));
        let (a, b) = (self.value(a), self.value(b));
        let name = match (op, float) {
            (BinOp::Min, false) => return self.intrinsic("smin", ty, &[&a, &b]),
            (BinOp::Max, false) => return self.intrinsic("smax", ty, &[&a, &b]),
            (BinOp::Min, true) => return self.float_min(ty, &a, &b),
            (BinOp::Max, true) => return self.float_max(ty, &a, &b),
            (BinOp::Add, false) => "add",
            (BinOp::Sub, false) => "sub",
            (BinOp::Mul, false) => "mul",
            (BinOp::Div, false) => "sdiv",
            (BinOp::Add, true) => "fadd",
            (BinOp::Sub, true) => "fsub",
            (BinOp::Mul, true) => "fmul",
            (BinOp::Div, true) => "fdiv",
            (BinOp::And, _) => "and",
            (BinOp::Or, _) => "or",
            (BinOp::Xor, _) => "xor",
        };
        if let (BinOp::And | BinOp::Or | BinOp::Xor, Some((a, b))) = (op, flags) {
            let bits = lanes_of(ty.lanes.into(), "i1");
            let flag = self.emit(format_args!("{name} {bits} {a}, {b}"));
            self.set_flag(result, flag);
        }
        self.emit(format_args!("{name} {} {a}, {b}", type_name(ty)))
    }

    /// Calls `llvm.NAME` on operands of one type, which is the result's too.
    fn intrinsic(&mut self, name: &str, ty: Ty, operands: &[&str]) -> String {
        let llvm = type_name(ty);
        let operands: Vec<_> = operands.iter().map(|x| (&*llvm, *x)).collect();
        self.call(&llvm, &format!("llvm.{name}.{}", suffix(ty)), &operands)
    }

    /// The smaller, in the form that is one instruction.
    fn float_min(&mut self, ty: Ty, a: &str, b: &str) -> String {
        match self.is_x86() {
            true => self.pick("olt", ty, a, b),
            false => self.intrinsic("minimum", ty, &[a, b]),
        }
    }

    /// The larger; as [`Lower::float_min`].
    pub fn float_max(&mut self, ty: Ty, a: &str, b: &str) -> String {
        match self.is_x86() {
            true => self.pick("ogt", ty, a, b),
            false => self.intrinsic("maximum", ty, &[a, b]),
        }
    }

    /// `a` where the comparison holds, else `b`.
    fn pick(&mut self, condition: &str, ty: Ty, a: &str, b: &str) -> String {
        let (bits, ty) = (lanes_of(ty.lanes.into(), "i1"), type_name(ty));
        let holds = self.emit(format_args!("fcmp {condition} {ty} {a}, {b}"));
        self.emit(format_args!("select {bits} {holds}, {ty} {a}, {ty} {b}"))
    }

    pub fn un(&mut self, op: UnOp, a: Val) -> String {
        let (ty, a) = (self.ty(a), self.value(a));
        match op {
            UnOp::Neg => self.emit(format_args!("fneg {} {a}", type_name(ty))),
            UnOp::Abs => self.intrinsic("fabs", ty, &[&a]),
            UnOp::Sqrt => self.intrinsic("sqrt", ty, &[&a]),
            UnOp::Nearest => self.intrinsic("roundeven", ty, &[&a]),
        }
    }

    /// Levels without the instruction get two: `llvm.fma` would call a library there.
    pub fn fma(&mut self, a: Val, b: Val, c: Val) -> String {
        let ty = self.ty(a);
        let [a, b, c] = [a, b, c].map(|v| self.value(v));
        if self.level.has_fma() {
            return self.intrinsic("fma", ty, &[&a, &b, &c]);
        }
        let ty = type_name(ty);
        let product = self.emit(format_args!("fmul {ty} {a}, {b}"));
        self.emit(format_args!("fadd {ty} {product}, {c}"))
    }

    pub fn shift(&mut self, name: &str, a: Val, by: u8) -> String {
        let (ty, a) = (self.ty(a), self.value(a));
        let by = text::int(ty, by.into());
        self.emit(format_args!("{name} {} {a}, {by}", type_name(ty)))
    }

    pub fn compare(&mut self, result: Val, op: CmpOp, a: Val, b: Val) -> String {
        let name = match (op, self.ty(a).elem == Elem::F32) {
            (CmpOp::Eq, false) => "icmp eq",
            (CmpOp::Lt, false) => "icmp slt",
            (CmpOp::Le, false) => "icmp sle",
            (CmpOp::Eq, true) => "fcmp oeq",
            (CmpOp::Lt, true) => "fcmp olt",
            (CmpOp::Le, true) => "fcmp ole",
        };
        let (ty, a, b) = (self.ty_name(a), self.value(a), self.value(b));
        let flag = self.emit(format_args!("{name} {ty} {a}, {b}"));
        self.set_flag(result, flag.clone());
        let mask = self.ty(result);
        let bits = lanes_of(mask.lanes.into(), "i1");
        self.emit(format_args!("sext {bits} {flag} to {}", type_name(mask)))
    }

    /// Masks that come from comparisons select lanes; others, bits.
    pub fn select(&mut self, mask: Val, a: Val, b: Val) -> String {
        let ty = self.ty(a);
        let [x, y] = [a, b].map(|v| self.value(v));
        if let Some(flag) = self.flag(mask) {
            let (bits, ty) = (lanes_of(ty.lanes.into(), "i1"), type_name(ty));
            return self.emit(format_args!("select {bits} {flag}, {ty} {x}, {ty} {y}"));
        }
        let mask = self.value(mask);
        let (int, own) = (type_name(integers(ty)), type_name(ty));
        let x = self.emit(format_args!("bitcast {own} {x} to {int}"));
        let y = self.emit(format_args!("bitcast {own} {y} to {int}"));
        // y ^ ((x ^ y) & mask) has the mask once, in no complemented form.
        let differ = self.emit(format_args!("xor {int} {x}, {y}"));
        let taken = self.emit(format_args!("and {int} {differ}, {mask}"));
        let chosen = self.emit(format_args!("xor {int} {y}, {taken}"));
        self.emit(format_args!("bitcast {int} {chosen} to {own}"))
    }

    /// A conversion instruction.
    pub fn convert(&mut self, name: &str, a: Val, to: Ty) -> String {
        let (from, a) = (self.ty_name(a), self.value(a));
        self.emit(format_args!("{name} {from} {a} to {}", type_name(to)))
    }
}
