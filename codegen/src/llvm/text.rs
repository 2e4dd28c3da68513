//! How types, constants and shuffles are spelled in LLVM IR.

use crate::kir::{Elem, Ty};

/// The LLVM type of an element.
pub(super) fn elem_name(elem: Elem) -> &'static str {
    match elem {
        Elem::I8 => "i8",
        Elem::I16 => "i16",
        Elem::I32 => "i32",
        Elem::I64 => "i64",
        Elem::F32 => "float",
    }
}

/// `lanes` elements of an LLVM type; the type itself for one.
pub(super) fn lanes_of(lanes: usize, elem: &str) -> String {
    match lanes {
        1 => elem.to_owned(),
        _ => format!("<{lanes} x {elem}>"),
    }
}

/// The LLVM type of a KIR type.
pub(super) fn type_name(ty: Ty) -> String {
    lanes_of(ty.lanes.into(), elem_name(ty.elem))
}

/// The type in the name of an overloaded intrinsic: `v4i32`, `f32`.
pub(super) fn suffix(ty: Ty) -> String {
    let elem = match ty.elem {
        Elem::F32 => "f32",
        elem => elem_name(elem),
    };
    match ty.lanes {
        1 => elem.to_owned(),
        lanes => format!("v{lanes}{elem}"),
    }
}

/// The KIR type with integers of the same width.
pub(super) fn integers(ty: Ty) -> Ty {
    match ty.elem {
        Elem::F32 => ty.with_elem(Elem::I32),
        _ => ty,
    }
}

/// An integer in every lane. Bits beyond the lane are dropped.
pub(super) fn int(ty: Ty, x: i64) -> String {
    let unused = 64 - 8 * ty.elem.bytes() as u32;
    let x = x << unused >> unused;
    match ty.lanes {
        1 => x.to_string(),
        _ => format!("splat ({} {x})", elem_name(ty.elem)),
    }
}

/// A float in every lane, by its bits, which decimal forms would not keep for NaN.
pub(super) fn float(ty: Ty, x: f32) -> String {
    let bits = integers(ty);
    let constant = int(bits, x.to_bits().into());
    format!(
        "bitcast ({} {constant} to {})",
        type_name(bits),
        type_name(ty)
    )
}

/// A vector of these bytes, repeated if there are fewer than it has.
pub(super) fn bytes(ty: Ty, pattern: &[u8]) -> String {
    let size = ty.elem.bytes();
    let lane = |i: usize| {
        let mut lane = [0; 8];
        let at = i * size % pattern.len();
        lane[..size].copy_from_slice(&pattern[at..at + size]);
        i64::from_le_bytes(lane)
    };
    let ints = integers(ty);
    let elem = elem_name(ints.elem);
    let lanes =
        (0..ty.lanes as usize).map(|i| format!("{elem} {}", int(Ty::scalar(ints.elem), lane(i))));
    let vector = format!("<{}>", lanes.collect::<Vec<_>>().join(", "));
    match ty.elem {
        Elem::F32 => format!(
            "bitcast ({} {vector} to {})",
            type_name(ints),
            type_name(ty)
        ),
        _ => vector,
    }
}

/// The mask operand of a `shufflevector`, with its type.
pub(super) fn mask(lanes: impl IntoIterator<Item = usize>) -> String {
    let lanes: Vec<_> = lanes.into_iter().map(|i| format!("i32 {i}")).collect();
    format!("<{} x i32> <{}>", lanes.len(), lanes.join(", "))
}
