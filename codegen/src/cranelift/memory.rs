//! Kernel IR to CLIF: the function's arguments, stack, loads and stores.

use super::lower::{Lower, clif_type};
use crate::kir::{Elem, MemType, Ty, Val};
use crate::level::Level;
use cranelift_codegen::ir::{
    InstBuilder, MemFlagsData, StackSlotData, StackSlotKind, Type, Value, types,
};

/// Alignment of stack areas.
const STACK_ALIGN: i64 = 64;

/// What the ABI aligns stack slots to.
const SLOT_ALIGN_SHIFT: u8 = 4;

/// 2^112, the difference of the exponent biases of binary32 and binary16.
const F16_SCALE: f32 = f32::from_bits((127 + 112) << 23);

/// Where sign, exponent and mantissa of a binary16 are after a sign-extension and a shift by 13.
const F16_BITS: i64 = 0x8fff_e000;

/// Accesses that do not fault: the caller answers for the buffers. No alignment is known.
pub(super) fn plain() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}

impl Lower<'_> {
    /// Entry `index` of the array of 64-bit values that argument `argument` points to.
    pub fn argument_entry(&mut self, argument: usize, index: usize) -> Value {
        let array = self.arguments[argument];
        let offset = index as i32 * 8;
        self.builder.ins().load(types::I64, plain(), array, offset)
    }

    /// The address of a stack area: the ABI aligns to less, so there is room to move up.
    pub fn stack(&mut self, bytes: usize) -> Value {
        let room = bytes as u32 + STACK_ALIGN as u32 - (1 << SLOT_ALIGN_SHIFT);
        let slot = StackSlotData::new(StackSlotKind::ExplicitSlot, room, SLOT_ALIGN_SHIFT);
        let slot = self.builder.create_sized_stack_slot(slot);
        let last = (STACK_ALIGN - 1) as i32;
        let address = self.builder.ins().stack_addr(types::I64, slot, last);
        let mask = self.builder.ins().iconst(types::I64, -STACK_ALIGN);
        self.builder.ins().band(address, mask)
    }

    pub fn store(&mut self, ptr: Val, offset: i32, value: Val) {
        let (ptr, value) = (self.value(ptr), self.value(value));
        self.builder.ins().store(plain(), value, ptr, offset);
    }

    pub fn load(&mut self, ty: Ty, ptr: Val, offset: i32, mem: MemType) -> Value {
        let ptr = self.value(ptr);
        match mem {
            MemType::Same if ty == Ty::scalar(Elem::I8) => {
                // Not `load`: byte loads without a sign stand for prefetches.
                let byte = self.builder.ins().sload8(types::I32, plain(), ptr, offset);
                self.builder.ins().ireduce(types::I8, byte)
            }
            MemType::Same if ty.lanes == 1 => {
                self.builder.ins().load(clif_type(ty), plain(), ptr, offset)
            }
            MemType::Same => self.load_vector(ty, ptr, offset),
            MemType::F16 => self.load_f16(ty, ptr, offset),
            MemType::BF16 => self.load_bf16(ty, ptr, offset),
            MemType::I8 => self.load_i8(ty, ptr, offset),
        }
    }

    /// Without AVX, an instruction's memory operand must be aligned, which these are not known to
    /// be; Cranelift merges loads into some instructions all the same (`cmpps`). It does not look
    /// for a load behind a cast, and a cast costs nothing.
    fn load_vector(&mut self, ty: Ty, ptr: Value, offset: i32) -> Value {
        let clif = clif_type(ty);
        let disguise = match ty.elem {
            _ if self.level != Level::X86V2 => clif,
            Elem::I8 => types::I16X8,
            _ => types::I8X16,
        };
        let loaded = self.builder.ins().load(disguise, plain(), ptr, offset);
        self.cast(loaded, clif)
    }

    /// binary16 to binary32 in integer and float steps, for Cranelift has no conversion: with the
    /// bits moved to their places, the exponent is too small by the difference of the biases,
    /// which one exact multiplication puts right, subnormal numbers included.
    fn load_f16(&mut self, ty: Ty, ptr: Value, offset: i32) -> Value {
        let extended = match ty.lanes {
            1 => self.builder.ins().sload16(types::I32, plain(), ptr, offset),
            _ => self.builder.ins().sload16x4(plain(), ptr, offset),
        };
        let ints = ty.with_elem(Elem::I32);
        let by = self.builder.ins().iconst(types::I32, 13);
        let moved = self.builder.ins().ishl(extended, by);
        let mask = self.int(ints, F16_BITS);
        let bits = self.builder.ins().band(moved, mask);
        let small = self.cast(bits, clif_type(ty));
        let scale = self.float(ty, F16_SCALE);
        self.builder.ins().fmul(small, scale)
    }

    /// A bfloat16 is the upper half of a binary32.
    fn load_bf16(&mut self, ty: Ty, ptr: Value, offset: i32) -> Value {
        let extended = match ty.lanes {
            1 => self.builder.ins().uload16(types::I32, plain(), ptr, offset),
            _ => self.builder.ins().uload16x4(plain(), ptr, offset),
        };
        let by = self.builder.ins().iconst(types::I32, 16);
        let bits = self.builder.ins().ishl(extended, by);
        self.cast(bits, clif_type(ty))
    }

    fn load_i8(&mut self, ty: Ty, ptr: Value, offset: i32) -> Value {
        let clif: Type = clif_type(ty);
        if ty.lanes == 1 {
            let int = self.builder.ins().sload8(types::I32, plain(), ptr, offset);
            return self.builder.ins().fcvt_from_sint(clif, int);
        }
        // As a float, the four bytes go straight to a vector register.
        let four = self.builder.ins().load(types::F32, plain(), ptr, offset);
        let four = self.builder.ins().scalar_to_vector(types::F32X4, four);
        let bytes = self.cast(four, types::I8X16);
        let halves = self.builder.ins().swiden_low(bytes);
        let ints = self.builder.ins().swiden_low(halves);
        self.builder.ins().fcvt_from_sint(clif, ints)
    }
}
