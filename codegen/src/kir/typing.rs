//! The type rule of every instruction.

use super::types::{BinOp, Elem, Inst, Kernel, MemType, Ty, Val};

/// Checks the operands of `inst` against each other and against its result type `ty`. The
/// operands and the variable must exist; see [`super::check`].
///
/// # Errors
/// What does not fit, in words.
pub(super) fn check_types(kernel: &Kernel, inst: &Inst, ty: Ty) -> Result<(), String> {
    let of = |v: &Val| kernel.ty(*v);
    match inst {
        Inst::Param(i) => {
            want(*i < kernel.params.len(), || "no such parameter".into())?;
            result(ty, Ty::I64)
        }
        Inst::Scalar(i) => {
            want(*i < kernel.scalars.len(), || "no such scalar".into())?;
            result(ty, Ty::I64)
        }
        Inst::Begin | Inst::End | Inst::Worker | Inst::Stack { .. } => result(ty, Ty::I64),
        Inst::Int(x) => int_constant(*x, ty),
        Inst::Float(_) => floats(ty),
        Inst::Bytes(bytes) => {
            let fits = bytes.len() == 16 || bytes.len() == ty.bytes();
            want(fits, || format!("{} bytes for {ty}", bytes.len()))?;
            vector(ty)
        }
        Inst::Splat(a) => {
            same(of(a), Ty::scalar(ty.elem))?;
            vector(ty)
        }
        Inst::Get(var) => result(ty, kernel.vars[var.0 as usize]),
        Inst::Bin(op, a, b) => {
            same(of(a), of(b))?;
            bin(*op, of(a))?;
            result(ty, of(a))
        }
        Inst::Un(_, a) => {
            floats(of(a))?;
            result(ty, of(a))
        }
        Inst::Fma(a, b, c) => {
            same(of(a), of(b))?;
            same(of(a), of(c))?;
            floats(of(a))?;
            result(ty, of(a))
        }
        Inst::Shl(a, by) | Inst::Shr(a, by) | Inst::Sar(a, by) => {
            shift(of(a), *by)?;
            result(ty, of(a))
        }
        Inst::Cmp(_, a, b) => {
            same(of(a), of(b))?;
            result(ty, mask_of(of(a)))
        }
        Inst::Select(mask, a, b) => {
            same(of(a), of(b))?;
            integers(of(mask))?;
            let (mask, value) = (of(mask), of(a));
            let alike = mask.lanes == value.lanes && mask.bytes() == value.bytes();
            want(alike, || format!("{mask} is no mask for {value}"))?;
            result(ty, of(a))
        }
        _ => check_conversion(kernel, inst, ty),
    }
}

/// The instructions whose result is of another kind than their operands.
fn check_conversion(kernel: &Kernel, inst: &Inst, ty: Ty) -> Result<(), String> {
    let of = |v: &Val| kernel.ty(*v);
    match inst {
        Inst::ToInt(a) => {
            floats(of(a))?;
            result(ty, of(a).with_elem(Elem::I32))
        }
        Inst::ToFloat(a) => {
            let from = of(a);
            want(from.elem == Elem::I32 || from == Ty::I64, || {
                format!("{from} is not converted: i32 lanes or an i64 scalar are")
            })?;
            let lanes = from.lanes;
            let floats = Ty {
                elem: Elem::F32,
                lanes,
            };
            result(ty, floats)
        }
        Inst::Bitcast(a) => {
            let from = of(a);
            let alike = from.bytes() == ty.bytes() && (from.lanes == 1) == (ty.lanes == 1);
            want(alike, || {
                format!("{from} has other bytes than the result, {ty}")
            })
        }
        Inst::WidenU(a, _) | Inst::WidenS(a, _) => {
            vector(of(a))?;
            let wide = match of(a).elem {
                Elem::I8 => Elem::I16,
                Elem::I16 => Elem::I32,
                _ => return Err(format!("{} is not widened: i8 and i16 are", of(a))),
            };
            result(ty, of(a).with_elem(wide))
        }
        Inst::Narrow(a, b) => {
            same(of(a), of(b))?;
            vector(of(a))?;
            let narrow = match of(a).elem {
                Elem::I32 => Elem::I16,
                Elem::I16 => Elem::I8,
                _ => return Err(format!("{} is not narrowed: i32 and i16 are", of(a))),
            };
            result(ty, of(a).with_elem(narrow))
        }
        Inst::Extend(a) => {
            integers(of(a))?;
            want(of(a).lanes == 1, || format!("{} is not a scalar", of(a)))?;
            result(ty, Ty::I64)
        }
        Inst::Trunc(a) => {
            want(of(a) == Ty::I64, || {
                format!("{} is not an i64 scalar", of(a))
            })?;
            result(ty, Ty::I32)
        }
        _ => check_lanes(kernel, inst, ty),
    }
}

/// The instructions that move lanes, and loads.
fn check_lanes(kernel: &Kernel, inst: &Inst, ty: Ty) -> Result<(), String> {
    let of = |v: &Val| kernel.ty(*v);
    match inst {
        Inst::Lookup16 { table, index } => {
            same(of(table), of(index))?;
            vector(of(index))?;
            want(of(index).elem == Elem::I8, || {
                format!("{} is not a vector of bytes", of(index))
            })?;
            result(ty, of(index))
        }
        Inst::Permute { table, index } => {
            same(of(table), of(index))?;
            vector(of(index))?;
            let bytes = of(index).elem == Elem::I8 && of(index).bytes() != 32;
            want(bytes, || format!("no permutation of {}", of(index)))?;
            result(ty, of(index))
        }
        Inst::AddBytes(sums, bytes) => {
            vector(of(sums))?;
            same(of(sums), of(bytes).with_elem(Elem::I32))?;
            want(of(bytes).elem == Elem::I8, || {
                format!("{} is not a vector of bytes", of(bytes))
            })?;
            result(ty, of(sums))
        }
        Inst::Interleave(a, b, _) => {
            same(of(a), of(b))?;
            vector(of(a))?;
            result(ty, of(a))
        }
        Inst::Extract(a, lane) => {
            vector(of(a))?;
            want(*lane < of(a).lanes, || {
                format!("{} has no lane {lane}", of(a))
            })?;
            result(ty, Ty::scalar(of(a).elem))
        }
        Inst::Sum(a) | Inst::MaxLane(a) => {
            vector(of(a))?;
            floats(of(a))?;
            result(ty, Ty::F32)
        }
        Inst::Load { ptr, mem, .. } => {
            want(of(ptr) == Ty::I64, || {
                format!("the address is {}, not i64", of(ptr))
            })?;
            match mem {
                MemType::Same => Ok(()),
                MemType::F16 | MemType::BF16 | MemType::I8 => floats(ty),
            }
        }
        _ => Ok(()),
    }
}

fn bin(op: BinOp, ty: Ty) -> Result<(), String> {
    let float = ty.elem == Elem::F32;
    let fits = match op {
        BinOp::Add | BinOp::Sub => true,
        BinOp::Mul => ty.lanes == 1 || !matches!(ty.elem, Elem::I8 | Elem::I64),
        BinOp::Div => float || ty == Ty::I64,
        BinOp::Min | BinOp::Max => ty.lanes == 1 || ty.elem != Elem::I64,
        BinOp::And | BinOp::Or | BinOp::Xor => !float,
    };
    want(fits, || format!("{op:?} has no form for {ty}"))
}

fn shift(ty: Ty, by: u8) -> Result<(), String> {
    want(!matches!(ty.elem, Elem::I8 | Elem::F32), || {
        format!("{ty} is not shifted: i16, i32 and i64 are")
    })?;
    let width = 8 * ty.elem.bytes();
    want((by as usize) < width, || {
        format!("a shift by {by} of lanes of {width} bits")
    })
}

fn int_constant(x: i64, ty: Ty) -> Result<(), String> {
    integers(ty)?;
    let bits = 8 * ty.elem.bytes() as u32;
    let fits = bits == 64 || (-(1i64 << (bits - 1))..1i64 << bits).contains(&x);
    want(fits, || format!("{x} does not fit into {}", ty.elem))
}

/// The mask type of a comparison of `ty`.
fn mask_of(ty: Ty) -> Ty {
    match ty.elem {
        Elem::F32 => ty.with_elem(Elem::I32),
        _ => ty,
    }
}

fn want(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

fn result(declared: Ty, computed: Ty) -> Result<(), String> {
    want(declared == computed, || {
        format!("the result is declared {declared} and is {computed}")
    })
}

fn same(a: Ty, b: Ty) -> Result<(), String> {
    want(a == b, || format!("{a} where {b} is wanted"))
}

fn floats(ty: Ty) -> Result<(), String> {
    want(ty.elem == Elem::F32, || format!("{ty} is not f32"))
}

fn integers(ty: Ty) -> Result<(), String> {
    want(ty.elem != Elem::F32, || {
        format!("{ty} where integers are wanted")
    })
}

fn vector(ty: Ty) -> Result<(), String> {
    want(ty.lanes > 1, || format!("{ty} is not a vector"))
}
