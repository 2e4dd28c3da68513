//! Kernel IR to LLVM IR: memory.

use super::lower::Lower;
use super::text::{self, lanes_of, type_name};
use crate::kir::{Cache, Elem, MemType, Ty, Val};

/// 2^112, the difference of the exponent biases of binary32 and binary16.
const F16_SCALE: f32 = f32::from_bits((127 + 112) << 23);

/// Where sign, exponent and mantissa of a binary16 are after a sign-extension and a shift by 13.
const F16_BITS: i64 = 0x8fff_e000;

impl Lower<'_> {
    /// Entry `index` of an array of 64-bit arguments, which does not change during a call.
    pub fn argument_entry(&mut self, array: &str, index: usize) -> String {
        let at = self.emit(format_args!("getelementptr i64, ptr {array}, i64 {index}"));
        self.emit(format_args!(
            "load i64, ptr {at}, align 8, !invariant.load !0"
        ))
    }

    /// The address of a stack area, which is the same wherever the instruction runs.
    pub fn stack(&mut self, bytes: usize) -> String {
        let area = self.label("%s");
        self.slot(format_args!("{area} = alloca [{bytes} x i8], align 64"));
        self.emit(format_args!("ptrtoint ptr {area} to i64"))
    }

    fn address(&mut self, ptr: Val, offset: i32) -> String {
        let ptr = self.value(ptr);
        let base = self.emit(format_args!("inttoptr i64 {ptr} to ptr"));
        match offset {
            0 => base,
            _ => self.emit(format_args!("getelementptr i8, ptr {base}, i64 {offset}")),
        }
    }

    pub fn store(&mut self, ptr: Val, offset: i32, value: Val) {
        let at = self.address(ptr, offset);
        let (ty, value) = (self.ty_name(value), self.value(value));
        self.line(format_args!("store {ty} {value}, ptr {at}, align 1"));
    }

    pub fn prefetch(&mut self, cache: Cache, ptr: Val, offset: i32) {
        let at = self.address(ptr, offset);
        let locality = match cache {
            Cache::L1 => "3",
            Cache::L2 => "2",
        };
        let args = [("ptr", &*at), ("i32", "0"), ("i32", locality), ("i32", "1")];
        let call = self.call_text("void", "llvm.prefetch.p0", &args);
        self.line(call);
    }

    pub fn load(&mut self, ty: Ty, ptr: Val, offset: i32, mem: MemType) -> String {
        let at = self.address(ptr, offset);
        let stored = |elem| lanes_of(ty.lanes.into(), elem);
        match mem {
            MemType::Same => self.load_plain(&type_name(ty), &at),
            MemType::F16 if self.has_f16() => self.load_then(&stored("half"), &at, "fpext", ty),
            MemType::F16 => self.load_f16(ty, &at),
            MemType::BF16 => {
                let ints = ty.with_elem(Elem::I32);
                let extended = self.load_then(&stored("i16"), &at, "zext", ints);
                let bits = self.shift_left(ints, &extended, 16);
                self.floats(ty, &bits)
            }
            MemType::I8 => self.load_then(&stored("i8"), &at, "sitofp", ty),
        }
    }

    fn load_plain(&mut self, ty: &str, at: &str) -> String {
        self.emit(format_args!("load {ty}, ptr {at}, align 1"))
    }

    fn load_then(&mut self, stored: &str, at: &str, convert: &str, to: Ty) -> String {
        let loaded = self.load_plain(stored, at);
        self.emit(format_args!(
            "{convert} {stored} {loaded} to {}",
            type_name(to)
        ))
    }

    /// Whether the level converts binary16 by itself.
    fn has_f16(&self) -> bool {
        !self.is_x86() || self.level.features().contains(&"f16c")
    }

    /// binary16 in integer and float steps: with the bits moved to their places, the exponent is
    /// too small by the difference of the biases, which one exact multiplication puts right,
    /// subnormal numbers included.
    fn load_f16(&mut self, ty: Ty, at: &str) -> String {
        let ints = ty.with_elem(Elem::I32);
        let stored = lanes_of(ty.lanes.into(), "i16");
        let extended = self.load_then(&stored, at, "sext", ints);
        let moved = self.shift_left(ints, &extended, 13);
        let mask = text::int(ints, F16_BITS);
        let bits = self.emit(format_args!("and {} {moved}, {mask}", type_name(ints)));
        let small = self.floats(ty, &bits);
        let scale = text::float(ty, F16_SCALE);
        self.emit(format_args!("fmul {} {small}, {scale}", type_name(ty)))
    }

    fn shift_left(&mut self, ty: Ty, a: &str, by: i64) -> String {
        let by = text::int(ty, by);
        self.emit(format_args!("shl {} {a}, {by}", type_name(ty)))
    }

    /// i32 lanes as the floats with the same bits.
    fn floats(&mut self, ty: Ty, ints: &str) -> String {
        let from = type_name(ty.with_elem(Elem::I32));
        self.emit(format_args!("bitcast {from} {ints} to {}", type_name(ty)))
    }
}
