use super::*;
use crate::kir::{BinOp, Builder, MemType, Param, UnOp};

/// What the verifier says to a kernel that is made by hand after `build`.
fn refusal(build: impl FnOnce(&mut Builder), change: impl FnOnce(&mut Kernel)) -> String {
    let mut b = Builder::new("k", 16);
    build(&mut b);
    let mut kernel = b.finish();
    change(&mut kernel);
    check(&kernel).unwrap_err()
}

/// What the verifier says to one instruction of type `ty` on constants of the given types.
fn refused(operands: &[Ty], ty: Ty, inst: impl FnOnce(&[Val]) -> Inst) -> String {
    refusal(
        |b| {
            let operands: Vec<Val> = operands.iter().map(|&ty| constant(b, ty)).collect();
            b.emit(ty, inst(&operands));
        },
        |_| {},
    )
}

fn ignore<T>(_value: T) {}

fn constant(b: &mut Builder, ty: Ty) -> Val {
    match ty.elem {
        Elem::F32 => b.float_of(ty, 1.0),
        _ => b.int_of(ty, 1),
    }
}

const I8X16: Ty = vector(Elem::I8, 16);
const I16X8: Ty = vector(Elem::I16, 8);
const I32X4: Ty = vector(Elem::I32, 4);
const I64X2: Ty = vector(Elem::I64, 2);
const F32X4: Ty = vector(Elem::F32, 4);

const fn vector(elem: Elem, lanes: u8) -> Ty {
    Ty { elem, lanes }
}

#[test]
fn names() {
    for name in ["", "a b", "1a", "ä", "a-b"] {
        let said = refusal(|_| {}, |k| k.name = name.into());
        assert_eq!(said, format!("{name:?} is not a name"));
        let said = refusal(|_| {}, |k| k.scalars.push(name.into()));
        assert_eq!(said, format!("{name:?} is not a name"));
    }
    let twice = |k: &mut Kernel| {
        k.scalars.push("x".into());
        k.params.push(Param {
            name: "x".into(),
            written: false,
        });
    };
    assert_eq!(refusal(|_| {}, twice), "two parameters are called x");
}

#[test]
fn vector_sizes() {
    let said = refusal(|b| ignore(b.int(0)), |k| k.vars.push(vector(Elem::I8, 3)));
    assert_eq!(said, "i8x3 is neither a scalar nor a vector");
    let said = refusal(
        |b| ignore(b.float(0.0)),
        |k| k.vars.push(vector(Elem::I8, 32)),
    );
    assert_eq!(
        said,
        "i8x32 is a vector of 32 bytes in a kernel with vectors of 16"
    );
    for width in [16, 32, 64] {
        let mut b = Builder::new("k", width);
        b.float(0.0);
        check(&b.finish()).unwrap();
    }
}

#[test]
fn scopes() {
    let said = refused(&[], Ty::I64, |_| Inst::Extend(Val(5)));
    assert_eq!(said, "v5 has no type, in `v0: i64 = extend v5`");
    let said = refusal(|b| ignore(b.int(0)), |k| k.body.push(k.body[0].clone()));
    assert_eq!(said, "v0 is defined twice, in `v0: i64 = int 0`");
    let said = refusal(
        |b| {
            let x = b.int(0);
            b.add(x, x);
        },
        |k| k.body.reverse(),
    );
    assert_eq!(
        said,
        "v0 is used before it is defined, in `v1: i64 = add v0, v0`"
    );
    let said = refusal(
        |b| {
            let n = b.int(3);
            let mut inner = n;
            b.for_range(n, n, 1, |b, i| inner = b.add_imm(i, 1));
            b.add(inner, n);
        },
        |_| {},
    );
    assert_eq!(
        said,
        "v3 is used outside the block that defines it, in `v4: i64 = add v3, v0`"
    );
}

#[test]
fn variables_are_set_on_every_way() {
    let one_way = refusal(
        |b| {
            let x = b.int(1);
            let var = b.var(x);
            b.get(var);
        },
        |k| {
            let set = k.body.remove(1);
            k.body.insert(
                1,
                Stmt::If {
                    cond: Val(0),
                    then: vec![set],
                    otherwise: vec![],
                },
            );
        },
    );
    assert_eq!(one_way, "$0 may not have been set, in `v1: i64 = get $0`");
    let in_a_loop = refusal(
        |b| {
            let x = b.int(1);
            let mut var = None;
            b.for_range(x, x, 1, |b, i| var = Some(b.var(i)));
            b.get(var.unwrap());
        },
        |_| {},
    );
    assert!(
        in_a_loop.starts_with("$0 may not have been set"),
        "{in_a_loop}"
    );
    let mut b = Builder::new("k", 16);
    let x = b.int(1);
    let var = b.var(x);
    let both = b.get(var);
    b.if_else(both, |b| b.set(var, x), |b| b.set(var, x));
    b.get(var);
    check(&b.finish()).unwrap();
}

#[test]
fn other_statements() {
    let said = refusal(|b| ignore(b.stack(0)), |_| {});
    assert!(said.starts_with("a stack area of no bytes"), "{said}");
    let two = |b: &mut Builder| ignore([b.stack(MAX_STACK_BYTES), b.stack(1)]);
    assert!(refusal(two, |_| {}).starts_with("stack areas of 65537 bytes together"));
    let huge = |b: &mut Builder| ignore([b.stack(usize::MAX); 2]);
    assert!(refusal(huge, |_| {}).starts_with("stack areas of"));
    let said = refusal(
        |b| {
            let n = b.int(0);
            b.for_range(n, n, 0, |_, _| {})
        },
        |_| {},
    );
    assert_eq!(said, "a step of 0, in `for v1 in v0..v0 step 0`");
    let said = refusal(
        |b| {
            let x = b.float_of(Ty::F32, 1.0);
            b.if_then(x, |_| {})
        },
        |_| {},
    );
    assert_eq!(said, "a condition of type f32, in `if v0`");
    let said = refusal(
        |b| {
            let x = b.float(1.0);
            b.prefetch(crate::kir::Cache::L1, x, 0)
        },
        |_| {},
    );
    assert_eq!(said, "v0 is f32x4, not i64, in `prefetch l1 [v0]`");
    let said = refusal(
        |b| {
            let x = b.int_of(Ty::I32, 1);
            b.store(x, 4, x)
        },
        |_| {},
    );
    assert_eq!(said, "v0 is i32, not i64, in `store [v0 + 4], v0`");
    let said = refusal(|b| ignore(b.emit(Ty::I64, Inst::Param(0))), |_| {});
    assert_eq!(said, "no such parameter, in `v0: i64 = param #0`");
}

#[test]
fn arithmetic_types() {
    let bin = |op| move |v: &[Val]| Inst::Bin(op, v[0], v[1]);
    let said = refused(&[Ty::I64, Ty::I32], Ty::I64, bin(BinOp::Add));
    assert!(said.starts_with("i64 where i32 is wanted"), "{said}");
    let said = refused(&[F32X4; 2], I32X4, bin(BinOp::Add));
    assert!(
        said.starts_with("the result is declared i32x4 and is f32x4"),
        "{said}"
    );
    for (op, ty) in [
        (BinOp::Mul, I8X16),
        (BinOp::Mul, I64X2),
        (BinOp::Div, Ty::I32),
        (BinOp::Div, I32X4),
        (BinOp::Max, I64X2),
        (BinOp::And, F32X4),
        (BinOp::Xor, Ty::F32),
    ] {
        let said = refused(&[ty; 2], ty, bin(op));
        assert!(
            said.starts_with(&format!("{op:?} has no form for {ty}")),
            "{said}"
        );
    }
    let said = refused(&[I32X4], I32X4, |v| Inst::Un(UnOp::Abs, v[0]));
    assert!(said.starts_with("i32x4 is not f32"), "{said}");
    let said = refused(&[I16X8], I16X8, |v| Inst::Shr(v[0], 16));
    assert!(
        said.starts_with("a shift by 16 of lanes of 16 bits"),
        "{said}"
    );
    let said = refused(&[I8X16], I8X16, |v| Inst::Shl(v[0], 1));
    assert!(said.starts_with("i8x16 is not shifted"), "{said}");
    let said = refused(&[], Ty::scalar(Elem::I8), |_| Inst::Int(256));
    assert!(said.starts_with("256 does not fit into i8"), "{said}");
    let said = refused(&[], I16X8, |_| Inst::Int(-32769));
    assert!(said.starts_with("-32769 does not fit into i16"), "{said}");
}

#[test]
fn conversion_types() {
    let select = |v: &[Val]| Inst::Select(v[0], v[1], v[2]);
    let said = refused(&[I16X8, F32X4, F32X4], F32X4, select);
    assert!(said.starts_with("i16x8 is no mask for f32x4"), "{said}");
    let said = refused(&[F32X4, F32X4, F32X4], F32X4, select);
    assert!(
        said.starts_with("f32x4 where integers are wanted"),
        "{said}"
    );
    let said = refused(&[I64X2], F32X4, |v| Inst::ToFloat(v[0]));
    assert!(said.starts_with("i64x2 is not converted"), "{said}");
    let said = refused(&[Ty::I64], Ty::F32, |v| Inst::Bitcast(v[0]));
    assert!(said.starts_with("i64 has other bytes"), "{said}");
    let said = refused(&[I32X4], I64X2, |v| Inst::WidenS(v[0], false));
    assert!(said.starts_with("i32x4 is not widened"), "{said}");
    let said = refused(&[I16X8, I32X4], I8X16, |v| Inst::Narrow(v[0], v[1]));
    assert!(said.starts_with("i16x8 where i32x4 is wanted"), "{said}");
    let said = refused(&[I64X2], Ty::I64, |v| Inst::Extend(v[0]));
    assert!(said.starts_with("i64x2 is not a scalar"), "{said}");
    let said = refused(&[Ty::I32], Ty::I32, |v| Inst::Trunc(v[0]));
    assert!(said.starts_with("i32 is not an i64 scalar"), "{said}");
}

#[test]
fn lane_types() {
    let lookup = |v: &[Val]| Inst::Lookup16 {
        table: v[0],
        index: v[1],
    };
    let said = refused(&[I16X8, I16X8], I16X8, lookup);
    assert!(said.starts_with("i16x8 is not a vector of bytes"), "{said}");
    let said = refused(&[I32X4], Ty::I32, |v| Inst::Extract(v[0], 4));
    assert!(said.starts_with("i32x4 has no lane 4"), "{said}");
    let said = refused(&[Ty::F32], Ty::F32, |v| Inst::Sum(v[0]));
    assert!(said.starts_with("f32 is not a vector"), "{said}");
    let said = refused(&[], Ty::I64, |_| Inst::Bytes(vec![0; 16]));
    assert!(said.starts_with("i64 is not a vector"), "{said}");
    let said = refused(&[F32X4], F32X4, |v| Inst::Splat(v[0]));
    assert!(said.starts_with("f32x4 where f32 is wanted"), "{said}");
    let load = |v: &[Val]| Inst::Load {
        ptr: v[0],
        offset: 0,
        mem: MemType::F16,
    };
    let said = refused(&[Ty::I64], I32X4, load);
    assert!(said.starts_with("i32x4 is not f32"), "{said}");
    let said = refused(&[Ty::I32], F32X4, load);
    assert!(said.starts_with("the address is i32, not i64"), "{said}");
}
