//! Every op on operands small enough to calculate the result by hand.

use std::collections::{BTreeMap, BTreeSet};

use rabitc_ir::ops::attention::Attention;
use rabitc_ir::ops::cast::Cast;
use rabitc_ir::ops::elementwise::{Add, AddBias, GeluTanh, Mul, Silu, Softcap};
use rabitc_ir::ops::embed::Embed;
use rabitc_ir::ops::gate::{Activation, Gate};
use rabitc_ir::ops::int8::{Int8Data, Int8Scale};
use rabitc_ir::ops::linear::Linear;
use rabitc_ir::ops::linear_int8::LinearInt8;
use rabitc_ir::ops::pack::{Concat, PackScales, PackSigns};
use rabitc_ir::ops::paths::{BinaryMatmul, Scale};
use rabitc_ir::ops::residual_binary::{Prologue, ResidualBinary};
use rabitc_ir::ops::residual_sign::ResidualSign;
use rabitc_ir::ops::rms_norm::RmsNorm;
use rabitc_ir::ops::rope::{Rope, RopeTable};
use rabitc_ir::ops::select_rows::SelectRows;
use rabitc_ir::ops::slice::Slice;
use rabitc_ir::ops::source::{Const, Input, Weight};
use rabitc_ir::{DType, Graph, Interpreter, Op, Tensor, Type};

use crate::hand_train;
use crate::support::{assert_close, compute, ints, rows, run_op, vector};

/// A few units in the last place of an f32.
const EXACT: f64 = 2e-7;

const CASES: &[(&str, fn())] = &[
    ("input", sources),
    ("weight", sources),
    ("const", sources),
    ("embed", embed),
    ("rms_norm", rms_norm),
    ("linear", linear),
    ("linear_int8", linear_int8),
    ("add_bias", arithmetic),
    ("add", arithmetic),
    ("mul", arithmetic),
    ("silu", activations),
    ("gelu_tanh", activations),
    ("softcap", activations),
    ("gate", activations),
    ("slice", views),
    ("select_rows", views),
    ("rope_table", rope),
    ("rope", rope),
    ("attention", attention),
    ("scale", paths),
    ("binary_matmul", paths),
    ("residual_binary", residual_binary),
    ("residual_sign", residual_sign),
    ("pack_signs", packing),
    ("pack_scales", packing),
    ("concat", stored_forms),
    ("cast", stored_forms),
    ("int8_data", int8),
    ("int8_scale", int8),
];

#[test]
fn every_op_gives_what_is_calculated_by_hand() {
    let all = || CASES.iter().chain(hand_train::CASES);
    let cases: BTreeSet<_> = all().map(|(op, _)| *op).collect();
    let table: BTreeSet<_> = Op::table().iter().map(|op| op.name).collect();
    assert_eq!(cases, table);
    all().for_each(|(_, case)| case());
}

fn sources() {
    let mut graph = Graph::new("g");
    let ty = Type::fixed(DType::F32, &[2, 1]);
    let name = "x".to_string();
    let x = Input {
        name,
        ty: ty.clone(),
    };
    let x = graph.add("x", x, &[]).unwrap();
    let name = "w".to_string();
    let w = Weight {
        name,
        ty: ty.clone(),
    };
    let w = graph.add("w", w, &[]).unwrap();
    let data = vec![10.0, -0.5];
    let c = graph.add("c", Const { ty, data }, &[]).unwrap();
    let sum = graph.add("sum", Add {}, &[x, w]).unwrap();
    let sum = graph.add("sum2", Add {}, &[sum, c]).unwrap();
    graph.set_output("sum", sum);
    let weights = BTreeMap::from([("w".to_string(), rows(&[[5.0], [7.0]]))]);
    let inputs = [("x".to_string(), rows(&[[1.0], [2.0]]))];
    let out = Interpreter::new(&graph, &weights).run(inputs).unwrap();
    assert_eq!(out["sum"], rows(&[[16.0], [8.5]]));
}

fn embed() {
    let table = rows(&[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]);
    let op = Embed { scale: 0.5 };
    let out = compute(op.clone(), &[table.clone(), ints(&[2, 0, 2])]);
    assert_eq!(out, rows(&[[2.5, 3.0], [0.5, 1.0], [2.5, 3.0]]));
    for bad in [3, -1] {
        let error = run_op(op.clone(), &[table.clone(), ints(&[0, bad])]).unwrap_err();
        let expected = format!("%result = embed: token id {bad} is outside 0..3");
        assert_eq!(error.to_string(), expected);
    }
}

fn rms_norm() {
    let op = |eps, unit_offset| RmsNorm { eps, unit_offset };
    let x = rows(&[[3.0, 4.0, 0.0, 2.0]]);
    // Groups of two: mean squares 12.5 and 2.
    let (a, b) = (12.5f64.sqrt(), 2f64.sqrt());
    let expected = [3.0 / a, 8.0 / a, 0.0, 4.0 / b];
    let out = compute(op(0.0, false), &[x.clone(), vector(&[1.0, 2.0])]);
    assert_close(&out, &expected, EXACT);
    let out = compute(op(0.0, true), &[x.clone(), vector(&[0.0, 1.0])]);
    assert_close(&out, &expected, EXACT);
    // One group: mean square 7.25, and 1.75 more make 3².
    let out = compute(op(1.75, false), &[x, vector(&[1.0; 4])]);
    assert_close(&out, &[1.0, 4.0 / 3.0, 0.0, 2.0 / 3.0], EXACT);
    let zeros = compute(op(1e-6, false), &[rows(&[[0.0; 2]]), vector(&[1.0; 2])]);
    assert_eq!(zeros, rows(&[[0.0, 0.0]]));
}

fn linear() {
    let x = rows(&[[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]]);
    let w = rows(&[[1.0, 0.0, -1.0], [2.0, 1.0, 0.5]]);
    assert_eq!(
        compute(Linear {}, &[x, w]),
        rows(&[[-2.0, 5.5], [0.0, 1.0]])
    );
}

fn linear_int8() {
    let q = Tensor::bytes(DType::I8, &[2, 2], vec![127, 128, 3, 0]);
    let out = compute(
        LinearInt8 {},
        &[rows(&[[1.0, 2.0]]), q, vector(&[0.5, 2.0])],
    );
    assert_eq!(out, rows(&[[0.5 * (127.0 - 256.0), 6.0]]));
}

fn arithmetic() {
    let (a, b) = (
        rows(&[[1.0, 2.0], [3.0, 4.0]]),
        rows(&[[5.0, -6.0], [0.5, 0.0]]),
    );
    let pair = [a.clone(), b];
    assert_eq!(compute(Add {}, &pair), rows(&[[6.0, -4.0], [3.5, 4.0]]));
    assert_eq!(compute(Mul {}, &pair), rows(&[[5.0, -12.0], [1.5, 0.0]]));
    let biased = compute(AddBias {}, &[a, vector(&[10.0, 20.0])]);
    assert_eq!(biased, rows(&[[11.0, 22.0], [13.0, 24.0]]));
}

fn activations() {
    let x = rows(&[[0.0, 1.0, -1.0, 100.0, -200.0]]);
    let silu = [0.0, 0.731_058_578_63, -0.268_941_421_37, 100.0, 0.0];
    assert_close(&compute(Silu {}, std::slice::from_ref(&x)), &silu, EXACT);
    let gelu = [0.0, 0.841_191_990_61, -0.158_808_009_39, 100.0, 0.0];
    assert_close(
        &compute(GeluTanh {}, std::slice::from_ref(&x)),
        &gelu,
        EXACT,
    );
    let cap = compute(Softcap { cap: 2.0 }, &[rows(&[[0.0, 2.0, -2.0, 1e9]])]);
    assert_close(
        &cap,
        &[0.0, 1.523_188_311_91, -1.523_188_311_91, 2.0],
        EXACT,
    );
    let up = rows(&[[7.0, 2.0, -3.0, 1.0, 5.0]]);
    let gated = |act| compute(Gate { act }, &[x.clone(), up.clone()]);
    let expected = [0.0, 1.462_117_157_26, 0.806_824_264_11, 100.0, 0.0];
    assert_close(&gated(Activation::Silu), &expected, EXACT);
    let expected = [0.0, 1.682_383_981_22, 0.476_424_028_17, 100.0, 0.0];
    assert_close(&gated(Activation::GeluTanh), &expected, EXACT);
}

fn views() {
    let x = rows(&[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]]);
    let slice = compute(Slice { start: 1, len: 2 }, std::slice::from_ref(&x));
    assert_eq!(slice, rows(&[[2.0, 3.0], [5.0, 6.0], [8.0, 9.0]]));
    let picked = compute(SelectRows {}, &[x.clone(), ints(&[2, 0])]);
    assert_eq!(picked, rows(&[[7.0, 8.0, 9.0], [1.0, 2.0, 3.0]]));
    for bad in [3, -1] {
        let error = run_op(SelectRows {}, &[x.clone(), ints(&[bad])]).unwrap_err();
        let expected = format!("%result = select_rows: row {bad} is outside 0..3");
        assert_eq!(error.to_string(), expected);
    }
}

fn rope() {
    let attention_factor = 2.0;
    let op = RopeTable { attention_factor };
    let table = compute(op, &[ints(&[0, 2]), vector(&[1.0, 0.5])]);
    let (c, s) = (2.0 * 2f64.cos(), 2.0 * 2f64.sin());
    let expected = [2.0, 2.0, 0.0, 0.0, c, 2.0 * 1f64.cos(), s, 2.0 * 1f64.sin()];
    assert_close(&table, &expected, EXACT);
    // Two heads of four: the pairs are (0, 2), turned by a right angle, and (1, 3), not turned.
    let table = rows(&[[0.0, 1.0, 1.0, 0.0]]);
    let x = rows(&[[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]]);
    let turned = rows(&[[-3.0, 2.0, 1.0, 4.0, -7.0, 6.0, 5.0, 8.0]]);
    assert_eq!(compute(Rope {}, &[x, table]), turned);
}

fn attention() {
    let op = |window, softcap| Attention {
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: 1,
        scale: 0.5,
        window,
        softcap,
        layer: 0,
    };
    // The scores of the last token are 0, ln 2 and ln 5, weighing its values 1 : 2 : 5.
    let (q, v) = (rows(&[[9.0], [0.0], [2.0]]), rows(&[[8.0], [16.0], [24.0]]));
    let k = rows(&[[0.0], [2f32.ln()], [5f32.ln()]]);
    let operands = [q, k, v, ints(&[0, 1, 2])];
    let full = compute(op(0, 0.0), &operands);
    let last = (8.0 + 2.0 * 16.0 + 5.0 * 24.0) / 8.0;
    assert_close(&full, &[8.0, 12.0, last], EXACT);
    let windowed = compute(op(2, 0.0), &operands);
    assert_close(
        &windowed,
        &[8.0, 12.0, (2.0 * 16.0 + 5.0 * 24.0) / 7.0],
        EXACT,
    );
    // So small a cap leaves nothing of the differences between scores.
    let capped = compute(op(0, 1e-9), &operands);
    assert_close(&capped, &[8.0, 12.0, 16.0], EXACT);
}

fn paths() {
    let x = rows(&[[1.0, 2.0, 4.0]]);
    let scaled = compute(
        Scale { row: 1 },
        &[x.clone(), rows(&[[0.0; 3], [2.0, -1.0, 0.5]])],
    );
    assert_eq!(scaled, rows(&[[2.0, -2.0, 2.0]]));
    let signs = Tensor::bytes(DType::Bit, &[2, 2, 3], vec![7, 0, 0b101, 0b010]);
    let product = |path| compute(BinaryMatmul { path }, &[x.clone(), signs.clone()]);
    assert_eq!(product(0), rows(&[[7.0, -7.0]]));
    assert_eq!(product(1), rows(&[[3.0, -3.0]]));
}

fn residual_binary() {
    let x = rows(&[[1.0, 2.0, 4.0]]);
    let signs = Tensor::bytes(DType::Bit, &[2, 2, 3], vec![7, 0, 0b101, 0b010]);
    let (g, h) = (
        rows(&[[1.0, 2.0], [10.0, 20.0]]),
        rows(&[[1.0; 3], [1.0, 0.5, -1.0]]),
    );
    let plain = ResidualBinary::plain(2, 2);
    let weights = [signs, g, h];
    let operands = [std::slice::from_ref(&x), &weights].concat();
    // Path 0: 7 and −7; path 1 of (1, 1, −4): 1 − 1 − 4 and its opposite.
    let expected = [7.0 - 40.0, -14.0 + 80.0];
    assert_eq!(compute(plain.clone(), &operands), rows(&[expected]));
    let op = ResidualBinary {
        residual: true,
        prologue: Prologue::Gate,
        act: Activation::Silu,
        ..plain
    };
    // silu(100) is 100.
    let gate = [rows(&[[100.0; 3]]), x];
    let operands = [&gate[..], &weights, &[rows(&[[1.0, -1.0]])]].concat();
    let expected = expected.map(|v| 100.0 * v);
    assert_eq!(
        compute(op, &operands),
        rows(&[[expected[0] + 1.0, expected[1] - 1.0]])
    );
}

fn residual_sign() {
    let w = rows(&[[1.0, -2.0], [0.0, 0.5]]);
    let (g, h) = (
        rows(&[[1.0, 1.0], [1.0, 1.0]]),
        rows(&[[1.0, 1.0], [1.0, 1.0]]),
    );
    let signs = compute(ResidualSign {}, &[w, g, h]);
    // Path 0 leaves (0, −1) and (−1, −0.5); the sign of 0 is +1.
    let expected = Tensor::bytes(DType::Bit, &[2, 2, 2], vec![0b01, 0b11, 0b01, 0b00]);
    assert_eq!(signs, expected);
}

fn packing() {
    let signs = Tensor::bytes(DType::Bit, &[2, 1, 9], vec![0xa5, 1, 0x3c, 0]);
    let packed = compute(PackSigns { row_tiles: 1 }, &[signs]);
    let mut expected = vec![0; 128];
    (expected[0], expected[16], expected[64]) = (0xa5, 1, 0x3c);
    assert_eq!(packed, Tensor::bytes(DType::U8, &[128], expected));
    let packed = compute(PackScales { row_tiles: 1 }, &[rows(&[[1.0], [2.0]])]);
    let mut expected = [0.0; 32];
    (expected[0], expected[16]) = (1.0, 2.0);
    assert_eq!(packed, vector(&expected));
}

fn stored_forms() {
    let parts = [rows(&[[1.0, 2.0]]), rows(&[[3.0, 4.0], [5.0, 6.0]])];
    let below = compute(Concat {}, &parts);
    assert_eq!(below, rows(&[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]));
    let cast = |to, x: f32| run_op(Cast { to }, &[vector(&[x])]);
    let third = |to| cast(to, 1.0 / 3.0).unwrap().floats()[0];
    assert_eq!(third(DType::F32), 1.0 / 3.0);
    assert_eq!(third(DType::F16), 0.333_251_95);
    assert_eq!(third(DType::BF16), 0.333_984_38);
    let error = cast(DType::F16, 70_000.0).unwrap_err();
    assert_eq!(error.to_string(), "%result = cast: 70000 does not fit f16");
}

fn int8() {
    let w = rows(&[
        [127.0, -63.5, 2.5, 1.5],
        [0.0; 4],
        [0.0, 254.0, -254.0, 2.0],
    ]);
    let data = compute(Int8Data {}, std::slice::from_ref(&w));
    let expected = [127, -64, 2, 2, 0, 0, 0, 0, 0, 127, -127, 1].map(|q: i8| q as u8);
    assert_eq!(data, Tensor::bytes(DType::I8, &[3, 4], expected.to_vec()));
    assert_eq!(compute(Int8Scale {}, &[w]), vector(&[1.0, 1.0, 2.0]));
}
