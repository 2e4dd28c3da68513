use super::*;
use crate::kir::{Builder, Elem, Ty};

/// Runs a kernel with the buffers `from` (read) and `to` (written), and gives what is in `to`.
fn run_on(
    from: &[u8],
    len: usize,
    width: usize,
    build: impl Fn(&mut Builder, Val, Val),
) -> Vec<u8> {
    try_on(from, len, width, build).unwrap()
}

fn try_on(
    from: &[u8],
    len: usize,
    width: usize,
    build: impl Fn(&mut Builder, Val, Val),
) -> Result<Vec<u8>, String> {
    let mut b = Builder::new("k", width);
    let (input, output) = (b.input("from"), b.output("to"));
    build(&mut b, input, output);
    let (mut from, mut to) = (from.to_vec(), vec![0; len]);
    let call = Call {
        buffers: vec![&mut from, &mut to],
        scalars: &[],
        range: 0..1,
        worker: 0,
        fused: false,
    };
    run(&b.finish(), call)?;
    Ok(to)
}

fn i16s(values: impl IntoIterator<Item = i16>) -> Vec<u8> {
    values.into_iter().flat_map(i16::to_le_bytes).collect()
}

fn f32s(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

#[test]
fn lanes_are_widened_over_the_whole_vector() {
    let from: Vec<u8> = (0..32).map(|i| i * 8).collect();
    let to = run_on(&from, 128, 32, |b, from, to| {
        let x = b.load(b.vec(Elem::I8), from, 0);
        let parts = [
            b.widen_u(x, false),
            b.widen_u(x, true),
            b.widen_s(x, false),
            b.widen_s(x, true),
        ];
        for (i, part) in parts.into_iter().enumerate() {
            b.store(to, 32 * i as i32, part);
        }
    });
    let unsigned = (0..32).map(|i| i * 8);
    let signed = (0..32).map(|i| if i < 16 { i * 8 } else { i * 8 - 256 });
    assert_eq!(to, i16s(unsigned.chain(signed)));
}

#[test]
fn narrowing_saturates_and_keeps_the_order() {
    let values = [
        0,
        1,
        -1,
        127,
        128,
        -128,
        -129,
        300,
        i16::MAX,
        i16::MIN,
        5,
        6,
        7,
        8,
        9,
        10,
    ];
    let reversed = values.iter().rev().copied();
    let from = i16s(values.into_iter().chain(reversed));
    let to = run_on(&from, 32, 32, |b, from, to| {
        let ty = b.vec(Elem::I16);
        let (x, y) = (b.load(ty, from, 0), b.load(ty, from, 32));
        let narrow = b.narrow(x, y);
        b.store(to, 0, narrow);
    });
    let saturated = values.map(|x| x.clamp(-128, 127) as i8 as u8);
    let back = saturated.iter().rev().copied();
    assert_eq!(to, saturated.into_iter().chain(back).collect::<Vec<_>>());
}

#[test]
fn look_up_and_interleave_stay_in_their_groups() {
    // Two groups of 16 bytes: a table, indices that run backwards, and numbers.
    let table = (0..32u8).map(|i| 100 + i);
    let index = (0..32u8).map(|i| 15 - i % 16);
    let from: Vec<u8> = table.chain(index).collect();
    let to = run_on(&from, 96, 32, |b, from, to| {
        let ty = b.vec(Elem::I8);
        let (table, index) = (b.load(ty, from, 0), b.load(ty, from, 32));
        let found = b.lookup16(table, index);
        b.store(to, 0, found);
        let (x, y) = (b.bitcast(table, Elem::I32), b.bitcast(index, Elem::I32));
        for (i, high) in [false, true].into_iter().enumerate() {
            let mixed = b.interleave(x, y, high);
            b.store(to, 32 + 32 * i as i32, mixed);
        }
    });
    let found: Vec<u8> = (0..32u8).map(|i| 100 + i / 16 * 16 + 15 - i % 16).collect();
    assert_eq!(to[..32], found);
    let word = |i: usize| &from[4 * i..4 * i + 4];
    let low = [0, 8, 1, 9, 4, 12, 5, 13].map(word).concat();
    let high = [2, 10, 3, 11, 6, 14, 7, 15].map(word).concat();
    assert_eq!(to[32..], [low, high].concat());
}

#[test]
fn sums_fold_the_upper_half_onto_the_lower() {
    // Added from the left, the ones would be lost.
    let values = [1e8, 1.0, -1e8, 1.0, 1e8, 1.0, -1e8, 1.0];
    let fold = |b: &mut Builder, from, to| {
        let x = b.load(b.vec(Elem::F32), from, 0);
        let sum = b.sum(x);
        b.store(to, 0, sum);
        let max = b.max_lane(x);
        b.store(to, 4, max);
    };
    assert_eq!(run_on(&f32s(values), 8, 32, fold), f32s([4.0, 1e8]));
    assert_eq!(run_on(&f32s(values), 8, 16, fold), f32s([2.0, 1e8]));
}

#[test]
fn rounding_and_masks() {
    let values = [0.5, 1.5, -2.5, 2.500_000_2];
    let to = run_on(&f32s(values), 48, 16, |b, from, to| {
        let x = b.load(b.vec(Elem::F32), from, 0);
        let int = b.to_int(x);
        b.store(to, 0, int);
        let one = b.float(1.5);
        let mask = b.cmp(crate::kir::CmpOp::Le, one, x);
        b.store(to, 16, mask);
        let chosen = b.select(mask, x, one);
        b.store(to, 32, chosen);
    });
    let ints = [0, 2, -2, 3, 0, -1, 0, -1].map(i32::to_le_bytes).concat();
    assert_eq!(to, [ints, f32s([1.5, 1.5, 1.5, 2.500_000_2])].concat());
}

#[test]
fn accesses_outside_the_buffers_are_errors() {
    let load = |offset: i32| {
        move |b: &mut Builder, from, _| {
            b.load(Ty::I32, from, offset);
        }
    };
    let error = |result: Result<Vec<u8>, String>| result.unwrap_err();
    let of_8 = |build: &dyn Fn(&mut Builder, Val, Val)| try_on(&[0; 8], 8, 16, build);
    assert!(of_8(&load(4)).is_ok());
    assert_eq!(
        error(of_8(&load(5))),
        "an access to 4 bytes at offset 5 of from, which has 8 bytes, in `v2: i32 = load [v0 + 5]`"
    );
    assert!(error(of_8(&load(-1))).contains("at offset -1 of from"));
    let nowhere = |b: &mut Builder, _, to| {
        let at = b.int(16);
        b.store(at, 0, to);
    };
    assert!(error(of_8(&nowhere)).contains("address 0x10, where nothing is"));
    let input = |b: &mut Builder, from, to| b.store(from, 0, to);
    assert!(error(of_8(&input)).starts_with("a store to from, which is an input"));
    let stack = |b: &mut Builder, _, to| {
        let area = b.stack(4);
        b.store(area, 0, to);
    };
    assert!(error(of_8(&stack)).contains("of the stack, which has 4 bytes"));
}

#[test]
fn arguments_are_counted() {
    let call = Call {
        buffers: vec![],
        scalars: &[1],
        range: 0..1,
        worker: 0,
        fused: false,
    };
    let error = run(&Builder::new("k", 16).finish(), call).unwrap_err();
    assert_eq!(error, "0 buffers and 0 scalars are wanted");
}
