//! The ops of training graphs on operands small enough to calculate the result by hand.

use std::collections::BTreeMap;
use std::f64::consts::LN_2;

use rabitc_ir::ops::attention_train::{AttentionLse, AttentionTrain};
use rabitc_ir::ops::attention_train_grad::AttentionTrainGrad;
use rabitc_ir::ops::cross_entropy::{CrossEntropy, CrossEntropyGrad};
use rabitc_ir::ops::effective_weight::{Derive, EffectiveScaleGrad, EffectiveWeight};
use rabitc_ir::ops::elementwise_grad::{ActivationGrad, GateGrad, SoftcapGrad};
use rabitc_ir::ops::gate::Activation;
use rabitc_ir::ops::kl_divergence::{KlDivergence, KlDivergenceGrad};
use rabitc_ir::ops::matmul::{Matmul, MatmulTn};
use rabitc_ir::ops::rms_norm_grad::{RmsNormGrad, RmsNormWeightGrad};
use rabitc_ir::ops::rope::RopeGrad;
use rabitc_ir::ops::round::Round;
use rabitc_ir::ops::sample::Sample;
use rabitc_ir::ops::scatter_add::ScatterAdd;
use rabitc_ir::ops::slice::PadColumns;
use rabitc_ir::ops::squared_error::{Normalize, SquaredError, SquaredErrorGrad};
use rabitc_ir::ops::sums::{SumRows, WeightedSum};
use rabitc_ir::text::parse;
use rabitc_ir::{DType, Interpreter, Op, Type};

use crate::support::{assert_close, compute, ints, rows, run_op, vector};

/// A few units in the last place of an f32.
const EXACT: f64 = 3e-7;

/// As in [`crate::hand`].
pub const CASES: &[(&str, fn())] = &[
    ("matmul", products),
    ("matmul_tn", products),
    ("sum_rows", sums),
    ("weighted_sum", sums),
    ("scatter_add", places),
    ("pad_columns", places),
    ("activation_grad", slopes),
    ("softcap_grad", slopes),
    ("gate_grad", slopes),
    ("rms_norm_grad", norms),
    ("rms_norm_weight_grad", norms),
    ("rope_grad", rope),
    ("attention_train", attention),
    ("attention_lse", attention),
    ("attention_train_grad", attention_grad),
    ("kl_divergence", divergence),
    ("kl_divergence_grad", divergence),
    ("cross_entropy", cross_entropy),
    ("cross_entropy_grad", cross_entropy),
    ("sample", sample),
    ("squared_error", squared_error),
    ("squared_error_grad", squared_error),
    ("round", round),
    ("effective_weight", effective),
    ("effective_scale_grad", effective),
];

fn products() {
    let a = rows(&[[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]]);
    let b = rows(&[[1.0, 0.0, 2.0], [-1.0, 1.0, 0.5]]);
    let expected = [[-1.0, 2.0, 3.0], [-1.0, 4.0, 8.0], [-1.0, 1.0, 0.5]];
    assert_eq!(compute(Matmul {}, &[a.clone(), b]), rows(&expected));
    let c = rows(&[[1.0], [2.0], [-3.0]]);
    assert_eq!(compute(MatmulTn {}, &[a, c]), rows(&[[7.0], [7.0]]));
}

fn sums() {
    let x = rows(&[[1.0, 2.0], [3.0, -4.0]]);
    let sum = compute(SumRows {}, std::slice::from_ref(&x));
    assert_eq!(sum, vector(&[4.0, -2.0]));
    let factors = vec![2.0, -0.5];
    let sum = compute(WeightedSum { factors }, &[vector(&[1.0]), vector(&[4.0])]);
    assert_eq!(sum, vector(&[0.0]));
}

fn places() {
    let x = rows(&[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]);
    let ty = Type::fixed(DType::F32, &[3, 2]);
    let op = ScatterAdd { ty, scale: 0.5 };
    let added = compute(op.clone(), &[x.clone(), ints(&[2, 0, 2])]);
    assert_eq!(added, rows(&[[1.5, 2.0], [0.0, 0.0], [3.0, 4.0]]));
    for bad in [3, -1] {
        let error = run_op(op.clone(), &[x.clone(), ints(&[0, bad, 0])]).unwrap_err();
        let expected = format!("%result = scatter_add: row {bad} is outside 0..3");
        assert_eq!(error.to_string(), expected);
    }
    let padded = compute(PadColumns { start: 1, width: 4 }, &[rows(&[[7.0, 8.0]])]);
    assert_eq!(padded, rows(&[[0.0, 7.0, 8.0, 0.0]]));
}

fn slopes() {
    // At 0 both activations have half the slope of the identity, far above 0 all of it.
    let x = rows(&[[0.0, 100.0, -100.0]]);
    let (up, dy) = (rows(&[[2.0, 3.0, 5.0]]), rows(&[[4.0, -1.0, 7.0]]));
    for &act in Activation::ALL {
        let plain = compute(ActivationGrad { act }, &[x.clone(), dy.clone()]);
        assert_close(&plain, &[2.0, -1.0, 0.0], EXACT);
        let gated = compute(GateGrad { act }, &[x.clone(), up.clone(), dy.clone()]);
        assert_close(&gated, &[4.0, -3.0, 0.0], EXACT);
    }
    let capped = compute(SoftcapGrad { cap: 2.0 }, &[rows(&[[0.0, 2.0, 1e9]]), dy]);
    assert_close(&capped, &[4.0, -(1.0 - 1f64.tanh().powi(2)), 0.0], EXACT);
}

fn norms() {
    // The mean square is 12.5: y = x / √12.5.
    let (x, dy) = (rows(&[[3.0, 4.0]]), rows(&[[1.0, 0.0]]));
    let r = 1.0 / 12.5f64.sqrt();
    let (eps, unit_offset) = (0.0, true);
    let op = RmsNormGrad { eps, unit_offset };
    let dx = compute(op, &[x.clone(), vector(&[1.0, 0.0]), dy.clone()]);
    // v ⊙ dy is (2, 0), the mean of its product with x is 3.
    let expected = [r * (2.0 - 9.0 / 12.5), r * (-12.0 / 12.5)];
    assert_close(&dx, &expected, EXACT);
    let (two, dy) = (rows(&[[3.0, 4.0, 3.0, 4.0]]), rows(&[[1.0, 0.0, 1.0, 2.0]]));
    let dw = compute(RmsNormWeightGrad { eps, group: 2 }, &[two, dy]);
    assert_close(&dw, &[6.0 * r, 8.0 * r], EXACT);
}

fn rope() {
    // The right angle of the forward case, the other way.
    let table = rows(&[[0.0, 1.0, 1.0, 0.0]]);
    let dy = rows(&[[-3.0, 2.0, 1.0, 4.0]]);
    let back = compute(RopeGrad {}, &[dy, table]);
    assert_eq!(back, rows(&[[1.0, 2.0, 3.0, 4.0]]));
}

macro_rules! attention_op {
    ($op:ident, $window:expr) => {
        $op {
            n_heads: 1,
            n_kv_heads: 1,
            head_dim: 1,
            scale: 0.5,
            window: $window,
            softcap: 0.0,
            seq_len: 3,
        }
    };
}

fn attention() {
    // Two sequences of three; the last tokens weigh the values 1 : 2 : 5.
    let q = rows(&[[9.0], [0.0], [2.0], [9.0], [0.0], [2.0]]);
    let (l2, l5) = (2f32.ln(), 5f32.ln());
    let k = rows(&[[0.0], [l2], [l5], [0.0], [l2], [l5]]);
    let v = rows(&[[8.0], [16.0], [24.0], [80.0], [160.0], [240.0]]);
    let full = attention_op!(AttentionTrain, 0);
    let y = compute(full, &[q.clone(), k.clone(), v.clone()]);
    assert_close(&y, &[8.0, 12.0, 20.0, 80.0, 120.0, 200.0], EXACT);
    let windowed = attention_op!(AttentionTrain, 2);
    let y = compute(windowed, &[q.clone(), k.clone(), v.clone()]);
    let last = (2.0 * 16.0 + 5.0 * 24.0) / 7.0;
    let expected = [8.0, 12.0, last, 80.0, 120.0, 10.0 * last];
    assert_close(&y, &expected, EXACT);
    let lse = compute(attention_op!(AttentionLse, 0), &[q, k]);
    let expected = [0.0, LN_2, 3.0 * LN_2, 0.0, LN_2, 3.0 * LN_2];
    assert_close(&lse, &expected, EXACT);
    // How many rows there are, a step tells.
    let text = "graph \"g\" {\n%x = input {name=\"x\", ty=f32[T,1]} : f32[T,1]\n\
                %y = attention_train(%x, %x, %x) {n_heads=1, n_kv_heads=1, head_dim=1, scale=1.0, \
                window=0, softcap=0.0, seq_len=3} : f32[T,1]\noutput \"y\" %y\n}";
    let (graph, weights) = (parse(text).unwrap(), BTreeMap::new());
    let x = [("x".to_string(), rows(&[[0.0]; 4]))];
    let error = Interpreter::new(&graph, &weights).run(x).unwrap_err();
    let expected = "%y = attention_train: 4 rows are not whole sequences of 3";
    assert_eq!(error.to_string(), expected);
}

fn attention_grad() {
    // One sequence; only the last row has a gradient, and its weights are 1/8, 2/8, 5/8.
    let (q, k) = (
        rows(&[[9.0], [0.0], [2.0]]),
        rows(&[[0.0], [2f32.ln()], [5f32.ln()]]),
    );
    let (v, y) = (
        rows(&[[8.0], [16.0], [24.0]]),
        rows(&[[8.0], [12.0], [20.0]]),
    );
    let lse = rows(&[[0.0], [2f32.ln()], [8f32.ln()]]);
    let operands = [q, k, v, y, lse, rows(&[[0.0], [0.0], [1.0]])];
    let all = compute(attention_op!(AttentionTrainGrad, 0), &operands);
    // dS = P ⊙ (v − 20): −1.5, −1, 2.5, each times the scale of a half.
    let ds = [-0.75, -0.5, 1.25];
    let dq = ds[1] * LN_2 + ds[2] * 5f64.ln();
    let expected = [
        [0.0, 2.0 * ds[0], 0.125],
        [0.0, 2.0 * ds[1], 0.25],
        [dq, 2.0 * ds[2], 0.625],
    ];
    assert_close(&all, &expected.concat(), EXACT);
}

fn divergence() {
    // Teacher 1/2, 1/2 and 1, 0; student 3/4, 1/4 and 1/2, 1/2. Logits have a shift of their own.
    let far = f32::MAX;
    let teacher = rows(&[[5.0, 5.0], [0.0, -far]]);
    let student = rows(&[[3f32.ln() - 100.0, -100.0], [1.0, 1.0]]);
    let pair = [teacher, student];
    let first = 0.5 * (0.5f64 / 0.75).ln() + 0.5 * (0.5f64 / 0.25).ln();
    let kl = compute(KlDivergence {}, &pair);
    // The student's logits are off by half a unit in the last place of 100.
    assert_close(&kl, &[(first + LN_2) / 2.0], 2e-5);
    let operands = [&pair[..], &[vector(&[4.0])]].concat();
    let grad = compute(KlDivergenceGrad {}, &operands);
    assert_close(&grad, &[0.5, -0.5, -1.0, 1.0], 2e-5);
}

fn cross_entropy() {
    let logits = rows(&[[3f32.ln(), 0.0], [7.0, 7.0], [1.0, 2.0]]);
    let operands = [logits.clone(), ints(&[1, 0, -1])];
    let loss = compute(CrossEntropy {}, &operands);
    assert_close(&loss, &[(4f64.ln() + LN_2) / 2.0], EXACT);
    let operands = [&operands[..], &[vector(&[4.0])]].concat();
    let grad = compute(CrossEntropyGrad {}, &operands);
    assert_close(&grad, &[1.5, -1.5, -1.0, 1.0, 0.0, 0.0], EXACT);
    let error = run_op(CrossEntropy {}, &[logits.clone(), ints(&[0, 2, 0])]).unwrap_err();
    let expected = "%result = cross_entropy: label 2 is not below 2";
    assert_eq!(error.to_string(), expected);
    let none = compute(CrossEntropy {}, &[logits, ints(&[-1; 3])]);
    assert_eq!(none, vector(&[0.0]));
}

fn sample() {
    // Probabilities 1/4, 3/4; 0, 1/2, 1/2 after one that is too small to be a number.
    let draws = |share: f64| (share * f64::from(1u32 << 31)) as i32;
    let two = rows(&[[0.0, 3f32.ln()]; 5]);
    let shares = [0.0, 0.249, 0.251, 0.999].map(draws);
    let drawn = compute(Sample {}, &[two, ints(&[&shares[..], &[-1]].concat())]);
    assert_eq!(drawn, ints(&[0, 0, 1, 1, -1]));
    let three = rows(&[[-1e4, 7.0, 7.0, -1e4]; 4]);
    let shares = [0, draws(0.499), draws(0.501), i32::MAX];
    let drawn = compute(Sample {}, &[three, ints(&shares)]);
    assert_eq!(drawn, ints(&[1, 1, 2, 2]));
    // Draws at equal distances give each class its share, to one draw.
    let logits = [0.3f32, -1.2, 2.0, 0.0, -0.4];
    const DRAWS: i32 = 1000;
    let shares: Vec<i32> = (0..DRAWS).map(|i| draws(f64::from(i) / 1e3)).collect();
    let drawn = compute(Sample {}, &[rows(&[logits; DRAWS as usize]), ints(&shares)]);
    let total: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
    for (class, logit) in logits.iter().enumerate() {
        let found = drawn.ints().iter().filter(|c| **c == class as i32).count();
        let expected = f64::from(*logit).exp() / total * f64::from(DRAWS);
        assert!((found as f64 - expected).abs() <= 1.0, "{class}: {found}");
    }
}

fn squared_error() {
    let target = rows(&[[3.0, 4.0], [0.0, 1.0], [0.0, 0.0]]);
    let x = rows(&[[3.0, 5.0], [2.0, 1.0], [0.0, 3.0]]);
    // Squares 1, 4 and 9 in the rows; energies 25, 1 and 0, which counts as 1.
    let cases = [
        (Normalize::Elements, [6.0; 3]),
        (Normalize::Target, [26.0; 3]),
        (Normalize::Rows, [75.0, 3.0, 1.0]),
    ];
    for (normalize, d) in cases {
        let pair = [x.clone(), target.clone()];
        let loss: Op = SquaredError { normalize }.into();
        let expected = 1.0 / d[0] + 4.0 / d[1] + 9.0 / d[2];
        assert_close(&compute(loss, &pair), &[expected], EXACT);
        let operands = [&pair[..], &[vector(&[0.5])]].concat();
        let grad = compute(SquaredErrorGrad { normalize }, &operands);
        let expected = [0.0, 1.0 / d[0], 2.0 / d[1], 0.0, 0.0, 3.0 / d[2]];
        assert_close(&grad, &expected, EXACT);
    }
}

fn round() {
    let third = |to| compute(Round { to }, &[vector(&[1.0 / 3.0])]).floats()[0];
    assert_eq!(third(DType::F32), 1.0 / 3.0);
    assert_eq!(third(DType::F16), 0.333_251_95);
    assert_eq!(third(DType::BF16), 0.333_984_38);
}

fn effective() {
    // The signs of `residual_sign`'s case: + − / + + first, then + − / − −, by scales of their own.
    let w = rows(&[[1.0, -2.0], [0.0, 0.5]]);
    let (g, h) = (rows(&[[1.0, 1.0]; 2]), rows(&[[1.0, 1.0]; 2]));
    let frozen = 0;
    let derive = Derive::Residual;
    let op = EffectiveWeight { derive, frozen };
    let sum = compute(op, &[g.clone(), h.clone(), w.clone()]);
    assert_eq!(sum, rows(&[[2.0, -2.0], [0.0, 0.0]]));
    let dweight = rows(&[[1.0, 10.0], [100.0, 1000.0]]);
    let op = EffectiveScaleGrad { derive, frozen };
    let grad = compute(op, &[dweight.clone(), g, h, w.clone()]);
    let expected = [
        [-9.0, 1100.0, 101.0, 990.0],
        [-9.0, -1100.0, -99.0, -1010.0],
    ];
    assert_eq!(grad, rows(&expected));
    // Two latent weights, scales 2, 3 by 5, 7 for the second path, the first one frozen.
    let (g, h) = (
        rows(&[[1.0, 1.0], [2.0, 3.0]]),
        rows(&[[1.0, 1.0], [5.0, 7.0]]),
    );
    let derive = Derive::Independent;
    let other = rows(&[[-1.0, 0.0], [1.0, -0.5]]);
    let operands = [g, h, w, other];
    let sum = compute(EffectiveWeight { derive, frozen: 1 }, &operands);
    assert_eq!(sum, rows(&[[-9.0, 13.0], [16.0, -20.0]]));
    let operands = [&[dweight][..], &operands].concat();
    let grad = compute(EffectiveScaleGrad { derive, frozen: 1 }, &operands);
    let last = [-5.0 + 70.0, 500.0 - 7000.0, -2.0 + 300.0, 20.0 - 3000.0];
    assert_eq!(grad, rows(&[[0.0; 4], last]));
}
