//! Kernel IR to LLVM IR: movements of lanes, and the conversions that have instructions of their
//! own on each architecture.

use super::lower::Lower;
use super::text::{self, integers, lanes_of, mask, suffix, type_name};
use crate::kir::{Elem, Ty, Val};

/// Bytes of the groups that look-ups and interleavings stay within.
const GROUP: usize = 16;

impl Lower<'_> {
    pub fn splat(&mut self, ty: Ty, a: Val) -> String {
        let (elem, a) = (self.elem_name(a), self.value(a));
        let vector = type_name(ty);
        let one = self.emit(format_args!(
            "insertelement {vector} poison, {elem} {a}, i64 0"
        ));
        let lanes = mask(std::iter::repeat_n(0, ty.lanes.into()));
        self.shuffle(&vector, &one, "poison", &lanes)
    }

    fn shuffle(&mut self, ty: &str, a: &str, b: &str, mask: &str) -> String {
        self.emit(format_args!("shufflevector {ty} {a}, {ty} {b}, {mask}"))
    }

    pub fn widen(&mut self, name: &str, a: Val, high: bool, to: Ty) -> String {
        let (ty, a) = (self.ty(a), self.value(a));
        let half = to.lanes as usize;
        let start = if high { half } else { 0 };
        let lanes = mask(start..start + half);
        let part = self.shuffle(&type_name(ty), &a, "poison", &lanes);
        let part_ty = lanes_of(half, text::elem_name(ty.elem));
        self.emit(format_args!("{name} {part_ty} {part} to {}", type_name(to)))
    }

    /// Both vectors one after the other, limited, truncated: the form that the targets have
    /// saturating instructions for.
    pub fn narrow(&mut self, a: Val, b: Val, to: Ty) -> String {
        let from = self.ty(a);
        let (a, b) = (self.value(a), self.value(b));
        let both = self.shuffle(&type_name(from), &a, &b, &mask(0..to.lanes.into()));
        let wide = Ty {
            elem: from.elem,
            lanes: to.lanes,
        };
        let high = i64::MAX >> (64 - 8 * to.elem.bytes());
        let wide_name = type_name(wide);
        let mut limited = both;
        for (name, limit) in [("smin", high), ("smax", -high - 1)] {
            let limit = text::int(wide, limit);
            let args = [(&*wide_name, &*limited), (&*wide_name, &*limit)];
            limited = self.call(&wide_name, &format!("llvm.{name}.{}", suffix(wide)), &args);
        }
        self.emit(format_args!(
            "trunc {wide_name} {limited} to {}",
            type_name(to)
        ))
    }

    pub fn lookup16(&mut self, table: Val, index: Val) -> String {
        let ty = self.ty_name(index);
        let name = match (self.is_x86(), self.ty(index).bytes()) {
            (false, _) => "llvm.aarch64.neon.tbl1.v16i8",
            (true, 16) => "llvm.x86.ssse3.pshuf.b.128",
            (true, 32) => "llvm.x86.avx2.pshuf.b",
            (true, _) => "llvm.x86.avx512.pshuf.b.512",
        };
        let (table, index) = (self.value(table), self.value(index));
        self.call(&ty, name, &[(&ty, &table), (&ty, &index)])
    }

    /// The verifier and [`crate::backend::Backend::admit`] let only these widths pass.
    pub fn permute(&mut self, table: Val, index: Val) -> String {
        if self.ty(index).bytes() == GROUP {
            return self.lookup16(table, index);
        }
        let ty = self.ty_name(index);
        let (table, index) = (self.value(table), self.value(index));
        let args = [(&*ty, &*table), (&*ty, &*index)];
        self.call(&ty, "llvm.x86.avx512.permvar.qi.512", &args)
    }

    /// Dot products with ones, where the level has them; else two steps of adding neighbours.
    pub fn add_bytes(&mut self, sums: Val, bytes: Val) -> String {
        let (ints, ty) = (self.ty(sums), self.ty(bytes));
        let (sums, bytes) = (self.value(sums), self.value(bytes));
        let (ints_name, name) = (type_name(ints), type_name(ty));
        let ones = text::int(ty, 1);
        if self.level.has_byte_dot() && self.is_x86() {
            let ones = text::int(ints, 0x0101_0101);
            let bytes = self.emit(format_args!("bitcast {name} {bytes} to {ints_name}"));
            let dot = format!("llvm.x86.avx512.vpdpbusd.{}", 8 * ints.bytes());
            let args = [&*sums, &*bytes, &*ones].map(|v| (&*ints_name, v));
            return self.call(&ints_name, &dot, &args);
        }
        if self.level.has_byte_dot() {
            let args = [(&*ints_name, &*sums), (&*name, &*bytes), (&*name, &*ones)];
            return self.call(&ints_name, "llvm.aarch64.neon.udot.v4i32.v16i8", &args);
        }
        let quads = self.quads(ty, &bytes);
        self.emit(format_args!("add {ints_name} {sums}, {quads}"))
    }

    /// The sums of four neighbouring bytes, as i32.
    fn quads(&mut self, ty: Ty, bytes: &str) -> String {
        let (shorts, ints) = (ty.with_elem(Elem::I16), ty.with_elem(Elem::I32));
        let (name, shorts_name, ints_name) = (type_name(ty), type_name(shorts), type_name(ints));
        if !self.is_x86() {
            let add = "llvm.aarch64.neon.uaddlp";
            let first = format!("{add}.v8i16.v16i8");
            let pairs = self.call(&shorts_name, &first, &[(&name, bytes)]);
            let second = format!("{add}.v4i32.v8i16");
            return self.call(&ints_name, &second, &[(&shorts_name, &pairs)]);
        }
        let [first, second] = match ty.bytes() {
            16 => ["ssse3.pmadd.ub.sw.128", "sse2.pmadd.wd"],
            32 => ["avx2.pmadd.ub.sw", "avx2.pmadd.wd"],
            _ => ["avx512.pmaddubs.w.512", "avx512.pmaddw.d.512"],
        };
        // Two bytes without sign are at most 510: nothing saturates.
        let ones = text::int(ty, 1);
        let args = [(&*name, bytes), (&*name, &*ones)];
        let pairs = self.call(&shorts_name, &format!("llvm.x86.{first}"), &args);
        let ones = text::int(shorts, 1);
        let args = [(&*shorts_name, &*pairs), (&*shorts_name, &*ones)];
        self.call(&ints_name, &format!("llvm.x86.{second}"), &args)
    }

    pub fn interleave(&mut self, a: Val, b: Val, high: bool) -> String {
        let ty = self.ty(a);
        let group = GROUP / ty.elem.bytes();
        let lanes = ty.lanes as usize;
        let source = |i: usize| {
            let start = i / group * group + if high { group / 2 } else { 0 };
            let from = if i.is_multiple_of(2) { 0 } else { lanes };
            from + start + i % group / 2
        };
        let (a, b) = (self.value(a), self.value(b));
        self.shuffle(&type_name(ty), &a, &b, &mask((0..lanes).map(source)))
    }

    /// Folds the upper half of the lanes onto the lower until one is left.
    pub fn reduce(&mut self, a: Val, op: impl Fn(&mut Self, Ty, &str, &str) -> String) -> String {
        let (mut ty, mut folded) = (self.ty(a), self.value(a));
        while ty.lanes > 1 {
            let (from, half) = (type_name(ty), ty.lanes as usize / 2);
            let parts = [0, half].map(|start| match half {
                1 => self.emit(format_args!("extractelement {from} {folded}, i64 {start}")),
                _ => self.shuffle(&from, &folded, "poison", &mask(start..start + half)),
            });
            ty.lanes /= 2;
            folded = op(self, ty, &parts[0], &parts[1]);
        }
        folded
    }

    /// The instructions that round to nearest by themselves; x86 reads the rounding mode, which
    /// nothing here changes.
    pub fn round_to_int(&mut self, a: Val) -> String {
        let from = self.ty(a);
        let to = integers(from);
        let (from_name, to_name, a) = (type_name(from), type_name(to), self.value(a));
        if !self.is_x86() {
            let name = format!("llvm.aarch64.neon.fcvtns.{}.{}", suffix(to), suffix(from));
            return self.call(&to_name, &name, &[(&from_name, &a)]);
        }
        match from.bytes() {
            4 => {
                let vector = type_name(Ty::vector(Elem::F32, 16));
                let a = self.emit(format_args!(
                    "insertelement {vector} zeroinitializer, float {a}, i64 0"
                ));
                self.call("i32", "llvm.x86.sse.cvtss2si", &[(&vector, &a)])
            }
            16 => self.call(&to_name, "llvm.x86.sse2.cvtps2dq", &[(&from_name, &a)]),
            32 => self.call(&to_name, "llvm.x86.avx.cvt.ps2dq.256", &[(&from_name, &a)]),
            _ => {
                // All lanes, none of them kept from before, in the current rounding mode.
                let args = [
                    (&*from_name, &*a),
                    (&*to_name, "zeroinitializer"),
                    ("i16", "-1"),
                    ("i32", "4"),
                ];
                self.call(&to_name, "llvm.x86.avx512.mask.cvtps2dq.512", &args)
            }
        }
    }
}
