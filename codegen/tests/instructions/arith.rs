//! Arithmetic of the backends against the interpreter.

use crate::common::{WIDTH, apply, check};
use rabitc_codegen::kir::{BinOp, CmpOp, Elem, Inst, Ty, UnOp};

const INTS: [Elem; 4] = [Elem::I8, Elem::I16, Elem::I32, Elem::I64];
const ALL: [Elem; 5] = [Elem::I8, Elem::I16, Elem::I32, Elem::I64, Elem::F32];

/// The scalar and the vector of an element.
fn shapes(elem: Elem) -> [Ty; 2] {
    [Ty::scalar(elem), Ty::vector(elem, WIDTH)]
}

fn integer(ty: Ty) -> Ty {
    match ty.elem {
        Elem::F32 => ty.with_elem(Elem::I32),
        _ => ty,
    }
}

fn check_bin(op: BinOp, ty: Ty) {
    let name = format!("{op:?}_{ty}").to_lowercase();
    let subject = apply(&name, &[ty, ty], |b, v| {
        b.emit(ty, Inst::Bin(op, v[0], v[1]))
    });
    check(&subject, &[ty, ty], 60);
}

#[test]
fn add_and_sub() {
    for ty in ALL.into_iter().flat_map(shapes) {
        check_bin(BinOp::Add, ty);
        check_bin(BinOp::Sub, ty);
    }
}

#[test]
fn mul() {
    for ty in ALL.into_iter().flat_map(shapes) {
        if ty.lanes == 1 || !matches!(ty.elem, Elem::I8 | Elem::I64) {
            check_bin(BinOp::Mul, ty);
        }
    }
}

#[test]
fn div() {
    for ty in shapes(Elem::F32) {
        check_bin(BinOp::Div, ty);
    }
    let ty = Ty::I64;
    let subject = apply("div_i64", &[ty, ty], |b, v| {
        // Neither by zero nor out of range.
        let (one, limit) = (b.int(1), b.int(i64::MAX / 2));
        let (dividend, divisor) = (
            b.and(v[0], limit),
            b.emit(ty, Inst::Bin(BinOp::Or, v[1], one)),
        );
        b.div(dividend, divisor)
    });
    check(&subject, &[ty, ty], 200);
}

#[test]
fn div_by_constants() {
    for divisor in [1, 2, -1, 3, 7, -5, 64, 1000, i64::MAX] {
        let subject = apply("div_constant", &[Ty::I64], |b, v| {
            let limit = b.int(i64::MAX / 2);
            let (dividend, divisor) = (b.min(v[0], limit), b.int(divisor));
            let least = b.int(-i64::MAX);
            let dividend = b.max(dividend, least);
            b.div(dividend, divisor)
        });
        check(&subject, &[Ty::I64], 60);
    }
}

#[test]
fn min_and_max() {
    for ty in ALL.into_iter().flat_map(shapes) {
        if ty.lanes == 1 || ty.elem != Elem::I64 {
            check_bin(BinOp::Min, ty);
            check_bin(BinOp::Max, ty);
        }
    }
}

#[test]
fn bitwise() {
    for ty in INTS.into_iter().flat_map(shapes) {
        check_bin(BinOp::And, ty);
        check_bin(BinOp::Or, ty);
        check_bin(BinOp::Xor, ty);
    }
}

#[test]
fn operations_with_constants_on_either_side() {
    for op in [BinOp::Add, BinOp::Sub, BinOp::Mul, BinOp::And, BinOp::Min] {
        for constant in [0, 1, -1, 2, 64, 12345, i64::MIN, i64::MAX, 1 << 40] {
            let subject = apply("constant", &[Ty::I64], |b, v| {
                let constant = b.int(constant);
                let left = b.emit(Ty::I64, Inst::Bin(op, constant, v[0]));
                let right = b.emit(Ty::I64, Inst::Bin(op, v[0], constant));
                let right = b.mul_imm(right, 3);
                b.emit(Ty::I64, Inst::Bin(BinOp::Xor, left, right))
            });
            check(&subject, &[Ty::I64], 20);
        }
    }
}

#[test]
fn one_operand() {
    for ty in shapes(Elem::F32) {
        for op in [UnOp::Neg, UnOp::Abs, UnOp::Nearest] {
            let name = format!("{op:?}_{ty}");
            let subject = apply(&name, &[ty], |b, v| b.un(op, v[0]));
            check(&subject, &[ty], 100);
        }
        let subject = apply("sqrt", &[ty], |b, v| {
            let a = b.un(UnOp::Abs, v[0]);
            b.un(UnOp::Sqrt, a)
        });
        check(&subject, &[ty], 100);
    }
}

#[test]
fn fma_rounds_as_the_level_does() {
    for ty in shapes(Elem::F32) {
        let subject = apply("fma", &[ty; 3], |b, v| b.fma(v[0], v[1], v[2]));
        check(&subject, &[ty; 3], 300);
    }
}

#[test]
fn shifts() {
    for ty in INTS.into_iter().skip(1).flat_map(shapes) {
        let width = 8 * ty.elem.bytes() as u8;
        for by in [0, 1, 4, width / 2, width - 1] {
            for make in [Inst::Shl, Inst::Shr, Inst::Sar] {
                let name = format!("shift_{ty}_{by}");
                let subject = apply(&name, &[ty], |b, v| b.emit(ty, make(v[0], by)));
                check(&subject, &[ty], 30);
            }
        }
    }
}

#[test]
fn comparisons_give_masks() {
    for ty in ALL.into_iter().flat_map(shapes) {
        for op in [CmpOp::Eq, CmpOp::Lt, CmpOp::Le] {
            let name = format!("cmp_{op:?}_{ty}");
            let subject = apply(&name, &[ty, ty], |b, v| b.cmp(op, v[0], v[1]));
            check(&subject, &[ty, ty], 60);
            let same = apply(&name, &[ty], |b, v| b.cmp(op, v[0], v[0]));
            check(&same, &[ty], 10);
        }
    }
}

#[test]
fn select_by_any_mask() {
    for ty in ALL.into_iter().flat_map(shapes) {
        let types = [integer(ty), ty, ty];
        let subject = apply("select", &types, |b, v| b.select(v[0], v[1], v[2]));
        check(&subject, &types, 60);
    }
}

#[test]
fn select_by_comparison() {
    for ty in ALL.into_iter().flat_map(shapes) {
        for op in [CmpOp::Eq, CmpOp::Lt, CmpOp::Le] {
            let subject = apply("select_cmp", &[ty; 4], |b, v| {
                let mask = b.cmp(op, v[0], v[1]);
                b.select(mask, v[2], v[3])
            });
            check(&subject, &[ty; 4], 60);
        }
    }
}

#[test]
fn select_by_combined_comparisons() {
    for ty in ALL.into_iter().flat_map(shapes) {
        let subject = apply("select_both", &[ty; 3], |b, v| {
            let low = b.cmp(CmpOp::Lt, v[0], v[1]);
            let high = b.cmp(CmpOp::Le, v[1], v[2]);
            let both = b.and(low, high);
            b.select(both, v[0], v[2])
        });
        check(&subject, &[ty; 3], 60);
    }
}
