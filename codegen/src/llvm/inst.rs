//! Kernel IR to LLVM IR: which text each instruction becomes.

use super::lower::Lower;
use super::text::{self, type_name};
use crate::kir::{Elem, Inst, Val};

impl Lower<'_> {
    /// Writes an instruction and gives its operand.
    pub fn inst(&mut self, result: Val, inst: &Inst) -> String {
        let ty = self.ty(result);
        match *inst {
            Inst::Param(i) => self.argument_entry("%ptrs", i),
            Inst::Scalar(i) => self.argument_entry("%scalars", i),
            Inst::Begin => "%begin".to_owned(),
            Inst::End => "%end".to_owned(),
            Inst::Worker => "%worker".to_owned(),
            Inst::Stack { bytes } => self.stack(bytes),
            Inst::Int(x) => text::int(ty, x),
            Inst::Float(x) => text::float(ty, x),
            Inst::Bytes(ref bytes) => text::bytes(ty, bytes),
            Inst::Splat(a) => self.splat(ty, a),
            Inst::Get(var) => self.emit(format_args!("load {}, ptr %x{}", type_name(ty), var.0)),
            Inst::Load { ptr, offset, mem } => self.load(ty, ptr, offset, mem),
            Inst::Bin(op, a, b) => self.bin(result, op, a, b),
            Inst::Un(op, a) => self.un(op, a),
            Inst::Fma(a, b, c) => self.fma(a, b, c),
            Inst::Shl(a, by) => self.shift("shl", a, by),
            Inst::Shr(a, by) => self.shift("lshr", a, by),
            Inst::Sar(a, by) => self.shift("ashr", a, by),
            Inst::Cmp(op, a, b) => self.compare(result, op, a, b),
            Inst::Select(mask, a, b) => self.select(mask, a, b),
            _ => self.conversion(result, inst),
        }
    }

    /// The instructions whose result is of another kind than their operands, and lane movements.
    fn conversion(&mut self, result: Val, inst: &Inst) -> String {
        let ty = self.ty(result);
        match *inst {
            Inst::ToInt(a) => self.round_to_int(a),
            Inst::ToFloat(a) => self.convert("sitofp", a, ty),
            Inst::Bitcast(a) => self.convert("bitcast", a, ty),
            Inst::WidenU(a, high) => self.widen("zext", a, high, ty),
            Inst::WidenS(a, high) => self.widen("sext", a, high, ty),
            Inst::Narrow(a, b) => self.narrow(a, b, ty),
            Inst::Extend(a) if self.ty(a).elem == Elem::I64 => self.value(a),
            Inst::Extend(a) => self.convert("sext", a, ty),
            Inst::Trunc(a) => self.convert("trunc", a, ty),
            Inst::Lookup16 { table, index } => self.lookup16(table, index),
            Inst::Permute { table, index } => self.permute(table, index),
            Inst::AddBytes(sums, bytes) => self.add_bytes(sums, bytes),
            Inst::Interleave(a, b, high) => self.interleave(a, b, high),
            Inst::Extract(a, lane) => {
                let (ty, a) = (self.ty_name(a), self.value(a));
                self.emit(format_args!("extractelement {ty} {a}, i64 {lane}"))
            }
            Inst::Sum(a) => self.reduce(a, |lower, ty, x, y| {
                lower.emit(format_args!("fadd {} {x}, {y}", type_name(ty)))
            }),
            Inst::MaxLane(a) => self.reduce(a, Lower::float_max),
            // What is left are the instructions that `inst` has dealt with.
            _ => "poison".to_owned(),
        }
    }
}
