//! Loops, branches, variables and stack of the backends against the interpreter.

use crate::common::{Subject, WIDTH};
use rabitc_codegen::kir::{Builder, CmpOp, Elem, Kernel, Ty};

fn i64s(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// out[0] = number of turns, out[1] = sum of the counters.
fn count_turns(step: i64) -> Kernel {
    let mut b = Builder::new("turns", WIDTH);
    let out = b.output("out");
    let (begin, end) = b.range();
    let zero = b.int(0);
    let (turns, sum) = (b.var(zero), b.var(zero));
    b.for_range(begin, end, step, |b, i| {
        let n = b.get(turns);
        let n = b.add_imm(n, 1);
        b.set(turns, n);
        let s = b.get(sum);
        let s = b.add(s, i);
        b.set(sum, s);
    });
    let (n, s) = (b.get(turns), b.get(sum));
    b.store(out, 0, n);
    b.store(out, 8, s);
    b.finish()
}

#[test]
fn loops_step_as_ranges_do() {
    for step in [1, 3, 100] {
        let subject = Subject::new(count_turns(step));
        for (begin, end) in [(0, 0), (0, 1), (5, 4), (-7, 8), (0, 99), (2, 101)] {
            let out = subject.agree(&[vec![0; 16]], &[], begin..end);
            let turns = (begin..end).step_by(step as usize);
            assert_eq!(out[0], i64s(&[turns.clone().count() as i64, turns.sum()]));
        }
    }
}

#[test]
fn loops_with_constant_bounds() {
    for (start, end) in [(0, 5), (3, 3), (5, 0), (-2, 2)] {
        let mut b = Builder::new("constant_bounds", WIDTH);
        let out = b.output("out");
        let (first, last) = (b.int(start), b.int(end));
        let sum = b.var(last);
        b.for_range(first, last, 1, |b, i| {
            let s = b.get(sum);
            let s = b.mul_imm(s, 3);
            let s = b.add(s, i);
            b.set(sum, s);
        });
        let s = b.get(sum);
        b.store(out, 0, s);
        Subject::new(b.finish()).agree(&[vec![0; 8]], &[], 0..0);
    }
}

/// A matrix product of i32: nested loops, an accumulator, a store in the middle.
#[test]
fn nested_loops() {
    let mut b = Builder::new("product", WIDTH);
    let (x, y, out) = (b.input("x"), b.input("y"), b.output("out"));
    let n = b.scalar("n");
    let (begin, end) = b.range();
    b.for_range(begin, end, 1, |b, row| {
        let zero = b.int(0);
        b.for_range(zero, n, 1, |b, column| {
            let zero = b.int_of(Ty::I32, 0);
            let sum = b.var(zero);
            let from = b.int(0);
            b.for_range(from, n, 1, |b, k| {
                let (i, j) = (b.mul(row, n), b.mul(k, n));
                let (i, j) = (b.add(i, k), b.add(j, column));
                let (px, py) = (b.at(x, i, 4), b.at(y, j, 4));
                let (vx, vy) = (b.load(Ty::I32, px, 0), b.load(Ty::I32, py, 0));
                let product = b.mul(vx, vy);
                let s = b.get(sum);
                let s = b.add(s, product);
                b.set(sum, s);
            });
            let at = b.mul(row, n);
            let at = b.add(at, column);
            let to = b.at(out, at, 4);
            let s = b.get(sum);
            b.store(to, 0, s);
        });
    });
    let subject = Subject::new(b.finish());
    let matrix = |seed: u32| -> Vec<u8> {
        let entries = (0..25u32).map(|i| i.wrapping_mul(seed) % 17);
        entries.flat_map(u32::to_le_bytes).collect()
    };
    let out = subject.agree(&[matrix(7), matrix(11), vec![0; 100]], &[5], 0..5);
    assert!(out[2].iter().any(|&b| b != 0));
}

#[test]
fn branches_by_comparison_and_by_value() {
    let mut b = Builder::new("branches", WIDTH);
    let out = b.output("out");
    let (x, y) = (b.scalar("x"), b.scalar("y"));
    let zero = b.int(0);
    let result = b.var(zero);
    let less = b.cmp(CmpOp::Lt, x, y);
    b.if_else(
        less,
        |b| {
            let one = b.int(1);
            b.set(result, one);
            b.if_then(x, |b| {
                let r = b.get(result);
                let r = b.add_imm(r, 10);
                b.set(result, r);
            });
        },
        |b| {
            let two = b.int(2);
            b.set(result, two);
        },
    );
    let narrow = b.trunc(y);
    b.if_then(narrow, |b| {
        let r = b.get(result);
        let r = b.add_imm(r, 100);
        b.set(result, r);
    });
    let r = b.get(result);
    b.store(out, 0, r);
    // The mask itself, after it has served as a condition.
    b.store(out, 8, less);
    let subject = Subject::new(b.finish());
    for (x, y, expected) in [
        (0, 1, 101),
        (-1, 1, 111),
        (5, 5, 102),
        (6, 0, 2),
        (-9, 1 << 32, 11),
    ] {
        let out = subject.agree(&[vec![0; 16]], &[x, y], 0..0);
        assert_eq!(out[0], i64s(&[expected, -i64::from(x < y)]), "{x} {y}");
    }
}

/// More accumulators than there are registers, vectors and scalars, all carried around a loop.
#[test]
fn many_variables() {
    let mut b = Builder::new("many_variables", WIDTH);
    let (from, out) = (b.input("from"), b.output("out"));
    let (begin, end) = b.range();
    let ty = b.vec(Elem::I32);
    let vars: Vec<_> = (0..40)
        .map(|i| {
            let init = if i % 2 == 0 {
                b.int_of(ty, i)
            } else {
                b.int(i)
            };
            b.var(init)
        })
        .collect();
    b.for_range(begin, end, 1, |b, turn| {
        for pair in vars.chunks(2) {
            let (v, s) = (b.get(pair[0]), b.get(pair[1]));
            let at = b.at(from, turn, WIDTH as i64);
            let x = b.load(ty, at, 0);
            let v2 = b.add(v, x);
            b.set(pair[0], v2);
            let s2 = b.mul_imm(s, 3);
            let s2 = b.add(s2, turn);
            b.set(pair[1], s2);
        }
        // The variables move on by one pair.
        let first = b.get(vars[0]);
        for i in (0..38).step_by(2) {
            let next = b.get(vars[i + 2]);
            b.set(vars[i], next);
        }
        b.set(vars[38], first);
    });
    for (i, &var) in vars.iter().enumerate() {
        let v = b.get(var);
        b.store(out, (i * WIDTH) as i32, v);
    }
    let from = (0..10 * WIDTH).map(|i| i as u8).collect();
    Subject::new(b.finish()).agree(&[from, vec![0; 40 * WIDTH]], &[], 0..10);
}

#[test]
fn stack_areas_are_aligned_and_apart() {
    let mut b = Builder::new("stack", WIDTH);
    let out = b.output("out");
    let areas = [1, 100, 64, 4096].map(|bytes| (bytes, b.stack(bytes)));
    let align = b.int(63);
    for (i, &(bytes, at)) in areas.iter().enumerate() {
        let bits = b.and(at, align);
        b.store(out, 8 * i as i32, bits);
        let zero = b.int(0);
        let last = b.int(bytes as i64);
        b.for_range(zero, last, 1, |b, k| {
            let to = b.add(at, k);
            let byte = b.int_of(Ty::scalar(Elem::I8), i as i64 + 1);
            b.store(to, 0, byte);
        });
    }
    for (i, &(bytes, at)) in areas.iter().enumerate() {
        let (zero, last) = (b.int(0), b.int(bytes as i64));
        let sum = b.var(zero);
        b.for_range(zero, last, 1, |b, k| {
            let from = b.add(at, k);
            let byte = b.load(Ty::scalar(Elem::I8), from, 0);
            let byte = b.extend(byte);
            let s = b.get(sum);
            let s = b.add(s, byte);
            b.set(sum, s);
        });
        let s = b.get(sum);
        b.store(out, 32 + 8 * i as i32, s);
    }
    let out = Subject::new(b.finish()).agree(&[vec![0xff; 64]], &[], 0..0);
    let sums = areas
        .iter()
        .zip(1..)
        .map(|((bytes, _), i)| *bytes as i64 * i);
    let expected: Vec<i64> = [0; 4].into_iter().chain(sums).collect();
    assert_eq!(out[0], i64s(&expected));
}
