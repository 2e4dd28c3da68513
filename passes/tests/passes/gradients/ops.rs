//! Every op's gradient rule against finite differences, over random shapes.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rabitc_ir::ops::attention_train::AttentionTrain;
use rabitc_ir::ops::cross_entropy::CrossEntropy;
use rabitc_ir::ops::elementwise::{Add, AddBias, GeluTanh, Mul, Silu, Softcap};
use rabitc_ir::ops::embed::Embed;
use rabitc_ir::ops::gate::{Activation, Gate};
use rabitc_ir::ops::kl_divergence::KlDivergence;
use rabitc_ir::ops::linear::Linear;
use rabitc_ir::ops::matmul::{Matmul, MatmulTn};
use rabitc_ir::ops::rms_norm::RmsNorm;
use rabitc_ir::ops::rope::{Rope, RopeGrad};
use rabitc_ir::ops::select_rows::SelectRows;
use rabitc_ir::ops::slice::{PadColumns, Slice};
use rabitc_ir::ops::squared_error::{Normalize, SquaredError};
use rabitc_ir::ops::sums::WeightedSum;
use rabitc_ir::{Graph, Op, Tensor};

use super::{Rng, check_gradients, indices, weight};

/// An operand of a case.
enum Operand {
    /// Differentiated.
    Float(Vec<usize>),
    /// A float operand without a gradient.
    Constant(Vec<usize>),
    Ints(Vec<i32>),
}
use Operand::{Constant, Float, Ints};

/// Sizes for a case: rows, two widths, an even head size.
#[derive(Clone, Debug)]
struct Sizes {
    t: usize,
    d: usize,
    n: usize,
    half: usize,
    odd: usize,
}

type Case = fn(&Sizes) -> (Op, Vec<Operand>);

/// One case for every op that has a rule which differences can check.
const CASES: &[(&str, Case)] = &[
    ("embed", |s| {
        let ids = (0..s.t).map(|i| ((i * i + s.odd) % 3) as i32).collect();
        let op = Embed { scale: 1.5 };
        (op.into(), vec![Float(vec![3, s.d]), Ints(ids)])
    }),
    ("rms_norm", |s| {
        let op = RmsNorm {
            eps: 0.01,
            unit_offset: s.odd == 1,
        };
        let operands = vec![Float(vec![s.t, s.d * s.n]), Float(vec![s.d])];
        (op.into(), operands)
    }),
    ("linear", |s| {
        let operands = vec![Float(vec![s.t, s.d]), Float(vec![s.n, s.d])];
        (Linear {}.into(), operands)
    }),
    ("add_bias", |s| {
        (
            AddBias {}.into(),
            vec![Float(vec![s.t, s.d]), Float(vec![s.d])],
        )
    }),
    ("add", |s| (Add {}.into(), pair(s))),
    ("mul", |s| (Mul {}.into(), pair(s))),
    ("silu", |s| (Silu {}.into(), one(s))),
    ("gelu_tanh", |s| (GeluTanh {}.into(), one(s))),
    ("softcap", |s| (Softcap { cap: 0.7 }.into(), one(s))),
    ("gate", |s| {
        let act = Activation::ALL[s.odd];
        (Gate { act }.into(), pair(s))
    }),
    ("slice", |s| {
        let (start, len) = (s.n, s.d);
        let x = Float(vec![s.t, s.n + s.d + s.odd]);
        (Slice { start, len }.into(), vec![x])
    }),
    ("pad_columns", |s| {
        let (start, width) = (s.n, s.n + s.d + s.odd);
        (PadColumns { start, width }.into(), one(s))
    }),
    ("select_rows", |s| {
        let rows = vec![0, s.t as i32 - 1, 0];
        (
            SelectRows {}.into(),
            vec![Float(vec![s.t, s.d]), Ints(rows)],
        )
    }),
    ("rope", |s| (Rope {}.into(), rotation(s))),
    ("rope_grad", |s| (RopeGrad {}.into(), rotation(s))),
    ("matmul", |s| {
        let operands = vec![Float(vec![s.t, s.d]), Float(vec![s.d, s.n])];
        (Matmul {}.into(), operands)
    }),
    ("matmul_tn", |s| {
        let operands = vec![Float(vec![s.t, s.d]), Float(vec![s.t, s.n])];
        (MatmulTn {}.into(), operands)
    }),
    ("weighted_sum", |s| {
        let factors = vec![1.0, -0.5, 3.0];
        let parts = (0..3).map(|_| Float(vec![s.t, s.d])).collect();
        (WeightedSum { factors }.into(), parts)
    }),
    ("attention_train", attention),
    ("kl_divergence", |s| {
        let operands = vec![Constant(vec![s.t, s.d]), Float(vec![s.t, s.d])];
        (KlDivergence {}.into(), operands)
    }),
    ("cross_entropy", |s| {
        let labels = (0..s.t).map(|i| (i % (s.d + 1)) as i32 - 1).collect();
        (
            CrossEntropy {}.into(),
            vec![Float(vec![s.t, s.d + 1]), Ints(labels)],
        )
    }),
    ("squared_error", |s| {
        let normalize = Normalize::ALL[s.n % 3];
        let operands = vec![Float(vec![s.t, s.d]), Constant(vec![s.t, s.d])];
        (SquaredError { normalize }.into(), operands)
    }),
];

/// Ops whose gradient is no derivative: `straight_through` has their tests.
const STRAIGHT_THROUGH: &[&str] = &["round", "effective_weight"];

fn one(s: &Sizes) -> Vec<Operand> {
    vec![Float(vec![s.t, s.d])]
}

fn pair(s: &Sizes) -> Vec<Operand> {
    vec![Float(vec![s.t, s.d]), Float(vec![s.t, s.d])]
}

fn rotation(s: &Sizes) -> Vec<Operand> {
    let head_dim = 2 * s.half;
    vec![
        Float(vec![s.t, head_dim * s.n]),
        Constant(vec![s.t, head_dim]),
    ]
}

fn attention(s: &Sizes) -> (Op, Vec<Operand>) {
    let op = AttentionTrain {
        n_heads: s.n * (1 + s.odd),
        n_kv_heads: s.n,
        head_dim: s.half,
        scale: 0.8,
        window: s.d % 3,
        softcap: if s.d.is_multiple_of(2) { 0.0 } else { 0.9 },
        seq_len: s.t,
    };
    let width = |heads: usize| vec![2 * s.t, heads * s.half];
    let kv = || Float(width(op.n_kv_heads));
    let operands = vec![Float(width(op.n_heads)), kv(), kv()];
    (op.into(), operands)
}

fn sizes() -> impl Strategy<Value = Sizes> {
    (1..5usize, 1..6usize, 1..4usize, 1..4usize, 0..2usize).prop_map(|(t, d, n, half, odd)| Sizes {
        t,
        d,
        n,
        half,
        odd,
    })
}

/// The distance of the op's result from some matrix, or the result itself if it is a scalar.
fn check(case: Case, sizes: &Sizes, seed: u64) {
    let (op, operands) = case(sizes);
    let mut rng = Rng(seed);
    let (mut graph, mut store, mut inputs) = (Graph::new("g"), BTreeMap::new(), BTreeMap::new());
    let (mut ids, mut names) = (Vec::new(), Vec::new());
    for (i, operand) in operands.into_iter().enumerate() {
        let name = format!("x{i}");
        ids.push(match operand {
            Float(shape) => {
                names.push(name.clone());
                weight(&mut graph, &mut store, &name, rng.tensor(&shape))
            }
            Constant(shape) => weight(&mut graph, &mut store, &name, rng.tensor(&shape)),
            Ints(values) => {
                let id = indices(&mut graph, &name, values.len());
                inputs.insert(name, Tensor::i32(&[values.len()], values));
                id
            }
        });
    }
    let mut loss = graph.add("y", op, &ids).expect("operands that fit");
    let shape = graph.ty(loss).fixed_shape().expect("fixed operands");
    if shape != [1] {
        let target = weight(&mut graph, &mut store, "target", rng.tensor(&shape));
        let normalize = Normalize::Elements;
        let error = SquaredError { normalize };
        loss = graph.add("loss", error, &[loss, target]).expect("one type");
    }
    graph.set_output("loss", loss);
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    check_gradients(&graph, &names, &store, &inputs, 12);
}

#[test]
fn every_op_with_a_rule_is_checked() {
    let cases = CASES.iter().map(|(name, _)| *name);
    let cases: BTreeSet<_> = cases.chain(STRAIGHT_THROUGH.iter().copied()).collect();
    let table = Op::table().into_iter();
    let rules = table
        .filter(|op| op.no_gradient.is_none())
        .map(|op| op.name);
    assert_eq!(cases, rules.collect());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rules_give_the_derivative(sizes in sizes(), seed in any::<u64>()) {
        for (name, case) in CASES {
            // Where the gradient is zero throughout, there is nothing to compare.
            let degenerate = match *name {
                // The only label is one that does not count.
                "cross_entropy" => sizes.t == 1,
                // The only class has all the probability.
                "kl_divergence" => sizes.d == 1,
                _ => false,
            };
            if !degenerate {
                check(*case, &sizes, seed);
            }
        }
    }
}
