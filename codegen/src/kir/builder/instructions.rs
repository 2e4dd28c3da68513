//! Instructions that compute: arithmetic, comparisons, conversions, lanes.

use super::Builder;
use crate::kir::types::{BinOp, CmpOp, Elem, Inst, Ty, UnOp, Val};

impl Builder {
    fn bin(&mut self, op: BinOp, a: Val, b: Val) -> Val {
        self.emit(self.ty(a), Inst::Bin(op, a, b))
    }

    /// a + b
    pub fn add(&mut self, a: Val, b: Val) -> Val {
        self.bin(BinOp::Add, a, b)
    }
    /// a − b
    pub fn sub(&mut self, a: Val, b: Val) -> Val {
        self.bin(BinOp::Sub, a, b)
    }
    /// a · b
    pub fn mul(&mut self, a: Val, b: Val) -> Val {
        self.bin(BinOp::Mul, a, b)
    }
    /// a / b
    pub fn div(&mut self, a: Val, b: Val) -> Val {
        self.bin(BinOp::Div, a, b)
    }
    /// The smaller.
    pub fn min(&mut self, a: Val, b: Val) -> Val {
        self.bin(BinOp::Min, a, b)
    }
    /// The larger.
    pub fn max(&mut self, a: Val, b: Val) -> Val {
        self.bin(BinOp::Max, a, b)
    }
    /// Bitwise and.
    pub fn and(&mut self, a: Val, b: Val) -> Val {
        self.bin(BinOp::And, a, b)
    }
    /// Bitwise or.
    pub fn or(&mut self, a: Val, b: Val) -> Val {
        self.bin(BinOp::Or, a, b)
    }
    /// Bitwise exclusive or.
    pub fn xor(&mut self, a: Val, b: Val) -> Val {
        self.bin(BinOp::Xor, a, b)
    }

    /// a + constant, for i64.
    pub fn add_imm(&mut self, a: Val, x: i64) -> Val {
        let x = self.int(x);
        self.add(a, x)
    }
    /// a · constant, for i64.
    pub fn mul_imm(&mut self, a: Val, x: i64) -> Val {
        let x = self.int(x);
        self.mul(a, x)
    }
    /// base + index · stride, for i64.
    pub fn at(&mut self, base: Val, index: Val, stride: i64) -> Val {
        let offset = self.mul_imm(index, stride);
        self.add(base, offset)
    }

    /// One-operand arithmetic.
    pub fn un(&mut self, op: UnOp, a: Val) -> Val {
        self.emit(self.ty(a), Inst::Un(op, a))
    }
    /// a·b + c
    pub fn fma(&mut self, a: Val, b: Val, c: Val) -> Val {
        self.emit(self.ty(a), Inst::Fma(a, b, c))
    }
    /// Left shift.
    pub fn shl(&mut self, a: Val, by: u8) -> Val {
        self.emit(self.ty(a), Inst::Shl(a, by))
    }
    /// Arithmetic right shift.
    pub fn sar(&mut self, a: Val, by: u8) -> Val {
        self.emit(self.ty(a), Inst::Sar(a, by))
    }
    /// Logical right shift.
    pub fn shr(&mut self, a: Val, by: u8) -> Val {
        self.emit(self.ty(a), Inst::Shr(a, by))
    }
    /// Comparison; a mask.
    pub fn cmp(&mut self, op: CmpOp, a: Val, b: Val) -> Val {
        let elem = match self.ty(a).elem {
            Elem::F32 => Elem::I32,
            e => e,
        };
        let ty = self.ty(a).with_elem(elem);
        self.emit(ty, Inst::Cmp(op, a, b))
    }
    /// Bits of `a` where the mask is one, of `b` elsewhere.
    pub fn select(&mut self, mask: Val, a: Val, b: Val) -> Val {
        self.emit(self.ty(a), Inst::Select(mask, a, b))
    }
    /// f32 to i32, to nearest.
    pub fn to_int(&mut self, a: Val) -> Val {
        let ty = self.ty(a).with_elem(Elem::I32);
        self.emit(ty, Inst::ToInt(a))
    }
    /// Integer to f32.
    pub fn to_float(&mut self, a: Val) -> Val {
        let ty = Ty {
            elem: Elem::F32,
            lanes: self.ty(a).lanes,
        };
        self.emit(ty, Inst::ToFloat(a))
    }
    /// The same bits as elements of another type.
    pub fn bitcast(&mut self, a: Val, elem: Elem) -> Val {
        let ty = self.ty(a).with_elem(elem);
        self.emit(ty, Inst::Bitcast(a))
    }

    fn wider(&self, a: Val) -> Ty {
        let ty = self.ty(a);
        match ty.elem {
            Elem::I8 => ty.with_elem(Elem::I16),
            Elem::I16 => ty.with_elem(Elem::I32),
            e => panic!("{e:?} lanes are not widened"),
        }
    }
    /// Zero-extends half of the lanes.
    pub fn widen_u(&mut self, a: Val, high: bool) -> Val {
        self.emit(self.wider(a), Inst::WidenU(a, high))
    }
    /// Sign-extends half of the lanes.
    pub fn widen_s(&mut self, a: Val, high: bool) -> Val {
        self.emit(self.wider(a), Inst::WidenS(a, high))
    }
    /// Narrows two vectors with signed saturation.
    pub fn narrow(&mut self, a: Val, b: Val) -> Val {
        let ty = self.ty(a);
        let elem = match ty.elem {
            Elem::I32 => Elem::I16,
            Elem::I16 => Elem::I8,
            e => panic!("{e:?} lanes are not narrowed"),
        };
        self.emit(ty.with_elem(elem), Inst::Narrow(a, b))
    }
    /// Sign-extends an integer scalar to i64.
    pub fn extend(&mut self, a: Val) -> Val {
        self.emit(Ty::I64, Inst::Extend(a))
    }
    /// The low 32 bits of an i64 scalar.
    pub fn trunc(&mut self, a: Val) -> Val {
        self.emit(Ty::I32, Inst::Trunc(a))
    }
    /// Byte table look-up within 16-byte groups.
    pub fn lookup16(&mut self, table: Val, index: Val) -> Val {
        self.emit(self.ty(index), Inst::Lookup16 { table, index })
    }
    /// Bytes of a table over the whole vector.
    pub fn permute(&mut self, table: Val, index: Val) -> Val {
        self.emit(self.ty(index), Inst::Permute { table, index })
    }
    /// Sums of four bytes without sign, added to i32 lanes.
    pub fn add_bytes(&mut self, sums: Val, bytes: Val) -> Val {
        self.emit(self.ty(sums), Inst::AddBytes(sums, bytes))
    }
    /// Interleaves halves within 16-byte groups.
    pub fn interleave(&mut self, a: Val, b: Val, high: bool) -> Val {
        self.emit(self.ty(a), Inst::Interleave(a, b, high))
    }
    /// One lane.
    pub fn extract(&mut self, a: Val, lane: u8) -> Val {
        let ty = Ty::scalar(self.ty(a).elem);
        self.emit(ty, Inst::Extract(a, lane))
    }
    /// Sum of all lanes.
    pub fn sum(&mut self, a: Val) -> Val {
        self.emit(Ty::F32, Inst::Sum(a))
    }
    /// Largest lane.
    pub fn max_lane(&mut self, a: Val) -> Val {
        self.emit(Ty::F32, Inst::MaxLane(a))
    }
}
