//! Conversions, lane movements and memory of the backends against the interpreter.

use crate::common::{Subject, WIDTH, apply, check};
use half::{bf16, f16};
use rabitc_codegen::kir::{Builder, Elem, Inst, MemType, Ty};

const ALL: [Elem; 5] = [Elem::I8, Elem::I16, Elem::I32, Elem::I64, Elem::F32];

fn vector(elem: Elem) -> Ty {
    Ty::vector(elem, WIDTH)
}

#[test]
fn to_int_rounds_ties_to_even() {
    for ty in [Ty::F32, vector(Elem::F32)] {
        // Beyond i32 the result is unspecified: bring the values into range first.
        let subject = apply("to_int", &[ty], |b, v| {
            let (low, high) = (b.float_of(ty, -2.0e9), b.float_of(ty, 2.0e9));
            let a = b.max(v[0], low);
            let a = b.min(a, high);
            b.to_int(a)
        });
        check(&subject, &[ty], 400);
    }
}

#[test]
fn to_float() {
    for ty in [Ty::I32, Ty::I64, vector(Elem::I32)] {
        let subject = apply("to_float", &[ty], |b, v| b.to_float(v[0]));
        check(&subject, &[ty], 200);
    }
}

#[test]
fn bitcasts() {
    for from in ALL {
        for to in ALL {
            let subject = apply("bitcast", &[vector(from)], |b, v| b.bitcast(v[0], to));
            check(&subject, &[vector(from)], 10);
            if from.bytes() == to.bytes() {
                let subject = apply("bitcast", &[Ty::scalar(from)], |b, v| b.bitcast(v[0], to));
                check(&subject, &[Ty::scalar(from)], 10);
            }
        }
    }
}

#[test]
fn widening_and_narrowing() {
    for high in [false, true] {
        for elem in [Elem::I8, Elem::I16] {
            let ty = vector(elem);
            let subject = apply("widen_u", &[ty], |b, v| b.widen_u(v[0], high));
            check(&subject, &[ty], 50);
            let subject = apply("widen_s", &[ty], |b, v| b.widen_s(v[0], high));
            check(&subject, &[ty], 50);
        }
    }
    for elem in [Elem::I16, Elem::I32] {
        let ty = vector(elem);
        let subject = apply("narrow", &[ty, ty], |b, v| b.narrow(v[0], v[1]));
        check(&subject, &[ty, ty], 200);
    }
}

#[test]
fn scalars_of_other_widths() {
    for elem in [Elem::I8, Elem::I16, Elem::I32, Elem::I64] {
        let ty = Ty::scalar(elem);
        let subject = apply("extend", &[ty], |b, v| b.extend(v[0]));
        check(&subject, &[ty], 50);
    }
    let subject = apply("trunc", &[Ty::I64], |b, v| b.trunc(v[0]));
    check(&subject, &[Ty::I64], 50);
}

#[test]
fn lookups() {
    let ty = vector(Elem::I8);
    let subject = apply("lookup16", &[ty, ty], |b, v| {
        let low = b.int_of(ty, 15);
        let index = b.and(v[1], low);
        b.lookup16(v[0], index)
    });
    check(&subject, &[ty, ty], 200);
}

#[test]
fn permutations() {
    // Vectors of 32 bytes have none.
    if WIDTH == 32 {
        return;
    }
    let ty = vector(Elem::I8);
    let subject = apply("permute", &[ty, ty], |b, v| {
        let low = b.int_of(ty, WIDTH as i64 - 1);
        let index = b.and(v[1], low);
        b.permute(v[0], index)
    });
    check(&subject, &[ty, ty], 200);
}

#[test]
fn sums_of_four_bytes() {
    let (ints, bytes) = (vector(Elem::I32), vector(Elem::I8));
    let subject = apply("add_bytes", &[ints, bytes], |b, v| b.add_bytes(v[0], v[1]));
    check(&subject, &[ints, bytes], 200);
}

#[test]
fn interleaving() {
    for elem in ALL {
        for high in [false, true] {
            let ty = vector(elem);
            let subject = apply("interleave", &[ty, ty], |b, v| {
                b.interleave(v[0], v[1], high)
            });
            check(&subject, &[ty, ty], 30);
        }
    }
}

#[test]
fn lanes_to_scalars_and_back() {
    for elem in ALL {
        let ty = vector(elem);
        for lane in 0..ty.lanes {
            let subject = apply("extract", &[ty], |b, v| b.extract(v[0], lane));
            check(&subject, &[ty], 10);
        }
        let scalar = Ty::scalar(elem);
        let subject = apply("splat", &[scalar], |b, v| b.splat(v[0]));
        check(&subject, &[scalar], 20);
    }
}

#[test]
fn reductions() {
    let ty = vector(Elem::F32);
    let subject = apply("sum", &[ty], |b, v| b.sum(v[0]));
    check(&subject, &[ty], 300);
    let subject = apply("max_lane", &[ty], |b, v| b.max_lane(v[0]));
    check(&subject, &[ty], 300);
}

#[test]
fn constants() {
    for elem in [Elem::I8, Elem::I16, Elem::I32, Elem::I64] {
        for ty in [Ty::scalar(elem), vector(elem)] {
            let bits = 8 * elem.bytes();
            let least = i64::MIN >> (64 - bits);
            let most = if bits == 64 {
                i64::MAX
            } else {
                (1 << bits) - 1
            };
            for x in [0, 1, -1, 15, least, !least, most] {
                let subject = apply("int", &[], |b, _| b.int_of(ty, x));
                check(&subject, &[], 1);
            }
        }
    }
    for ty in [Ty::F32, vector(Elem::F32)] {
        for x in [
            0.0,
            -0.0,
            1.5,
            f32::MIN_POSITIVE / 4.0,
            f32::INFINITY,
            f32::NAN,
            -f32::NAN,
        ] {
            let subject = apply("float", &[], |b, _| b.float_of(ty, x));
            check(&subject, &[], 1);
        }
    }
    for elem in ALL {
        let bytes: [u8; 16] = std::array::from_fn(|i| 200 - 13 * i as u8);
        let subject = apply("bytes", &[], |b, _| b.bytes(elem, &bytes));
        check(&subject, &[], 1);
    }
}

/// Copies `count` elements of form `mem` to f32, a vector and then a scalar at a time.
fn converter(mem: MemType, bytes: i64) -> Subject {
    let mut b = Builder::new("convert", WIDTH);
    let (input, vectors, scalars) = (b.input("from"), b.output("vectors"), b.output("scalars"));
    let (begin, end) = b.range();
    b.for_range(begin, end, WIDTH as i64 / 4, |b, i| {
        let from = b.at(input, i, bytes);
        let ty = b.vec(Elem::F32);
        let several = b.load_as(ty, mem, from, 0);
        let to = b.at(vectors, i, 4);
        b.store(to, 0, several);
    });
    b.for_range(begin, end, 1, |b, i| {
        let from = b.at(input, i, bytes);
        let one = b.load_as(Ty::F32, mem, from, 0);
        let to = b.at(scalars, i, 4);
        b.store(to, 0, one);
    });
    Subject::new(b.finish())
}

fn convert(mem: MemType, from: Vec<u8>, expected: Vec<f32>) {
    let count = expected.len();
    let subject = converter(mem, (from.len() / count) as i64);
    let to = vec![0; 4 * count];
    let result = subject.agree(&[from, to.clone(), to], &[], 0..count as i64);
    let expected: Vec<u8> = expected.into_iter().flat_map(f32::to_le_bytes).collect();
    assert!(result[1] == expected && result[2] == expected);
}

#[test]
fn every_finite_binary16() {
    let all = (0..=u16::MAX).map(f16::from_bits);
    let finite: Vec<f16> = all.filter(|x| x.is_finite()).collect();
    let bytes = finite.iter().flat_map(|x| x.to_le_bytes()).collect();
    convert(
        MemType::F16,
        bytes,
        finite.iter().map(|x| x.to_f32()).collect(),
    );
}

#[test]
fn every_bfloat16_that_is_a_number() {
    let all = (0..=u16::MAX).map(bf16::from_bits);
    let numbers: Vec<bf16> = all.filter(|x| !x.is_nan()).chain([bf16::ONE; 14]).collect();
    let bytes = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    convert(
        MemType::BF16,
        bytes,
        numbers.iter().map(|x| x.to_f32()).collect(),
    );
}

#[test]
fn every_int8() {
    let bytes: Vec<u8> = (0..=u8::MAX).collect();
    let floats = bytes.iter().map(|&b| f32::from(b as i8)).collect();
    convert(MemType::I8, bytes, floats);
}

#[test]
fn offsets_in_both_directions() {
    for elem in ALL {
        for ty in [Ty::scalar(elem), vector(elem)] {
            let mut b = Builder::new("offsets", WIDTH);
            let (from, to) = (b.input("from"), b.output("to"));
            for offset in [0, 5, 4000] {
                let x = b.load(ty, from, offset);
                b.store(to, offset, x);
            }
            let middle = b.add_imm(from, 3000);
            let x = b.load(ty, middle, -1000);
            let (end, back) = (b.add_imm(to, 4090), b.int(-900));
            let end = b.add(end, back);
            b.store(end, 7, x);
            let from = (0..4096u32).map(|i| ((i * 37) >> 3) as u8).collect();
            Subject::new(b.finish()).agree(&[from, vec![0; 4096]], &[], 0..1);
        }
    }
}

#[test]
fn arguments() {
    let mut b = Builder::new("arguments", WIDTH);
    let out = b.output("out");
    let scalars = [b.scalar("first"), b.scalar("second")];
    let (begin, end) = b.range();
    let worker = b.worker();
    for (i, v) in [begin, end, worker].into_iter().chain(scalars).enumerate() {
        b.store(out, 8 * i as i32, v);
    }
    let subject = Subject::new(b.finish());
    let result = subject.agree(&[vec![0; 40]], &[-5, 1 << 50], 3..99);
    let expected = [3, 99, 7, -5, 1i64 << 50].map(i64::to_le_bytes).concat();
    assert_eq!(result[0], expected);
}

#[test]
fn loads_into_arithmetic_need_no_alignment() {
    let ty = vector(Elem::I32);
    let mut b = Builder::new("unaligned", WIDTH);
    let (from, to) = (b.input("from"), b.output("to"));
    let x = b.load(ty, from, 3);
    let y = b.load(ty, from, 20);
    let sum = b.emit(ty, Inst::Bin(rabitc_codegen::kir::BinOp::Add, x, y));
    b.store(to, 1, sum);
    let from = (0..24 + WIDTH as u8).collect();
    Subject::new(b.finish()).agree(&[from, vec![0; 4 + WIDTH]], &[], 0..1);
}
