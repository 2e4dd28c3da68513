//! Every op that a training graph may contain, over random shapes.

use proptest::prelude::*;
use rabitc_ir::ops::attention_train::{AttentionLse, AttentionTrain};
use rabitc_ir::ops::attention_train_grad::AttentionTrainGrad;
use rabitc_ir::ops::cross_entropy::{CrossEntropy, CrossEntropyGrad};
use rabitc_ir::ops::effective_weight::{Derive, EffectiveScaleGrad, EffectiveWeight};
use rabitc_ir::ops::elementwise::{Add, AddBias, GeluTanh, Mul, Silu, Softcap};
use rabitc_ir::ops::elementwise_grad::{ActivationGrad, GateGrad, SoftcapGrad};
use rabitc_ir::ops::embed::Embed;
use rabitc_ir::ops::gate::{Activation, Gate};
use rabitc_ir::ops::kl_divergence::{KlDivergence, KlDivergenceGrad};
use rabitc_ir::ops::linear::Linear;
use rabitc_ir::ops::matmul::{Matmul, MatmulTn};
use rabitc_ir::ops::paths::Scale;
use rabitc_ir::ops::rms_norm::RmsNorm;
use rabitc_ir::ops::rms_norm_grad::{RmsNormGrad, RmsNormWeightGrad};
use rabitc_ir::ops::rope::{Rope, RopeGrad, RopeTable};
use rabitc_ir::ops::round::Round;
use rabitc_ir::ops::sample::Sample;
use rabitc_ir::ops::scatter_add::ScatterAdd;
use rabitc_ir::ops::slice::{PadColumns, Slice};
use rabitc_ir::ops::squared_error::{Normalize, SquaredError, SquaredErrorGrad};
use rabitc_ir::ops::sums::{SumRows, WeightedSum};
use rabitc_ir::{DType, Data, Tensor, Type};

use super::Operand::{self, Columns, Float, Ints, Node};
use super::Subject;

/// Sizes of a case: rows and two widths.
#[derive(Clone, Debug)]
struct Sizes {
    t: usize,
    d: usize,
    n: usize,
    seed: u64,
}

impl Sizes {
    fn subject(&self) -> Subject {
        Subject::new(self.seed)
    }

    fn odd(&self) -> bool {
        self.seed % 2 == 1
    }

    /// t × d, of a matrix of its own or of a wider one.
    fn matrix(&self) -> Operand {
        match self.seed % 3 {
            0 => Float(vec![self.t, self.d]),
            _ => Columns(self.t, self.d),
        }
    }
}

fn sizes() -> impl Strategy<Value = Sizes> {
    let small = (1..9usize, 1..40usize, 1..20usize);
    let large = (30..80usize, 500..1100usize, 60..140usize);
    let shapes = prop_oneof![3 => small, 1 => large];
    (shapes, any::<u64>()).prop_map(|((t, d, n), seed)| Sizes { t, d, n, seed })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn functions_of_elements(s in sizes()) {
        let mut subject = s.subject();
        let m = || s.matrix();
        let act = Activation::ALL[usize::from(s.odd())];
        subject.node(Add {}, &[m(), m()]);
        subject.node(Mul {}, &[m(), m()]);
        subject.node(AddBias {}, &[m(), Float(vec![s.d])]);
        subject.node(Silu {}, &[m()]);
        subject.node(GeluTanh {}, &[m()]);
        subject.node(Softcap { cap: 0.7 }, &[m()]);
        subject.node(Gate { act }, &[m(), m()]);
        subject.node(ActivationGrad { act }, &[m(), m()]);
        subject.node(SoftcapGrad { cap: 0.7 }, &[m(), m()]);
        subject.node(GateGrad { act }, &[m(), m(), m()]);
        subject.node(Scale { row: 1 }, &[m(), Float(vec![3, s.d])]);
        let factors = vec![1.0, -0.5, 3.0];
        subject.node(WeightedSum { factors }, &[m(), m(), m()]);
        for to in [DType::F16, DType::BF16, DType::F32] {
            subject.node(Round { to }, &[m()]);
        }
        subject.node(Slice { start: s.d / 2, len: s.d.div_ceil(2) }, &[m()]);
        let padded = PadColumns { start: s.n, width: s.n + s.d + s.t };
        subject.node(padded, &[m()]);
        subject.check();
    }

    #[test]
    fn products(s in sizes()) {
        let mut subject = s.subject();
        subject.node(Linear {}, &[s.matrix(), Float(vec![s.n, s.d])]);
        subject.node(Matmul {}, &[s.matrix(), Float(vec![s.d, s.n])]);
        subject.node(MatmulTn {}, &[s.matrix(), Columns(s.t, s.n)]);
        subject.check();
    }

    #[test]
    fn norms(s in sizes()) {
        let mut subject = s.subject();
        let (eps, unit_offset, groups) = (0.01, s.odd(), 1 + s.n % 3);
        let m = || Columns(s.t, s.d * groups);
        subject.node(RmsNorm { eps, unit_offset }, &[m(), Float(vec![s.d])]);
        subject.node(RmsNormGrad { eps, unit_offset }, &[m(), Float(vec![s.d]), m()]);
        subject.node(RmsNormWeightGrad { eps, group: s.d }, &[m(), m()]);
        let x = Node(subject.operand(&m()));
        let (weight, dy) = (Float(vec![s.d]), Node(subject.operand(&m())));
        let both = [x.clone(), weight, dy.clone()];
        subject.node(RmsNormGrad { eps, unit_offset }, &both);
        subject.node(RmsNormWeightGrad { eps, group: s.d }, &[x, dy]);
        subject.node(SumRows {}, &[m()]);
        subject.check();
    }

    #[test]
    fn rotations(s in sizes()) {
        let mut subject = s.subject();
        let half = 1 + s.d % 40;
        let positions = (0..s.t as i32).map(|i| i * 3).collect();
        let table = RopeTable { attention_factor: 1.25 };
        let table = Node(subject.node(table, &[Ints(positions), Float(vec![half])]));
        let x = || Columns(s.t, 2 * half * (1 + s.n % 5));
        subject.node(Rope {}, &[x(), table.clone()]);
        subject.node(RopeGrad {}, &[x(), table]);
        subject.check();
    }

    #[test]
    fn rows_by_index(s in sizes()) {
        let mut subject = s.subject();
        let ids: Vec<i32> = (0..s.t).map(|i| (i * i % s.n) as i32).collect();
        let table = Float(vec![s.n, s.d]);
        subject.node(Embed { scale: 1.5 }, &[table, Ints(ids.clone())]);
        let (ty, scale) = (Type::fixed(DType::F32, &[s.n, s.d]), 0.75);
        subject.node(ScatterAdd { ty, scale }, &[s.matrix(), Ints(ids)]);
        subject.check();
    }

    #[test]
    fn losses(s in sizes()) {
        let mut subject = s.subject();
        let d = s.d + 1;
        let m = || Columns(s.t, d);
        let one = || Float(vec![1]);
        let labels: Vec<i32> = (0..s.t).map(|i| (i * 7 % (d + 1)) as i32 - 1).collect();
        let [teacher, student] = [m(), m()].map(|m| Node(subject.operand(&m)));
        subject.node(KlDivergence {}, &[teacher.clone(), student.clone()]);
        subject.node(KlDivergenceGrad {}, &[teacher, student, one()]);
        subject.node(KlDivergence {}, &[m(), m()]);
        subject.node(CrossEntropy {}, &[m(), Ints(labels.clone())]);
        subject.node(CrossEntropyGrad {}, &[m(), Ints(labels), one()]);
        for &normalize in Normalize::ALL {
            subject.node(SquaredError { normalize }, &[m(), m()]);
            subject.node(SquaredErrorGrad { normalize }, &[m(), m(), one()]);
        }
        subject.check();
    }

    #[test]
    fn effective_weights(s in sizes(), k in 1..5usize) {
        let mut subject = s.subject();
        let (derive, latents) = match s.odd() {
            false => (Derive::Residual, 1),
            true => (Derive::Independent, k),
        };
        let frozen = s.t % k;
        let shape = vec![s.n, s.d];
        let mut operands = vec![Float(vec![k, s.n]), Float(vec![k, s.d])];
        operands.extend((0..latents).map(|_| Float(shape.clone())));
        subject.node(EffectiveWeight { derive, frozen }, &operands);
        operands.insert(0, Float(shape));
        subject.node(EffectiveScaleGrad { derive, frozen }, &operands);
        // The sign of either zero is +1.
        for (name, value) in &mut subject.store {
            if let (Data::F32(data), false) = (&mut value.data, name == "w" || name == "w.1") {
                data.iter_mut().step_by(5).for_each(|x| *x = 0.0f32.copysign(*x));
            }
        }
        subject.check();
    }

    #[test]
    fn attention(
        (seq_len, sequences) in (1..150usize, 1..3usize),
        (group, n_kv_heads) in (1..4usize, 1..3usize),
        head_dim in 1..70usize,
        window in prop_oneof![Just(0), 1..90usize],
        softcap in prop_oneof![Just(0.0), Just(2.0f32)],
        seed in any::<u64>(),
    ) {
        let mut subject = Subject::new(seed);
        let (n_heads, scale, rows) = (group * n_kv_heads, 0.5, seq_len * sequences);
        subject.tokens = rows;
        let columns = |heads: usize| Columns(rows, heads * head_dim);
        let [q, k, v, dy] = [n_heads, n_kv_heads, n_kv_heads, n_heads]
            .map(|heads| Node(subject.operand(&columns(heads))));
        let op = AttentionTrain { n_heads, n_kv_heads, head_dim, scale, window, softcap, seq_len };
        let lse = AttentionLse { n_heads, n_kv_heads, head_dim, scale, window, softcap, seq_len };
        let grad =
            AttentionTrainGrad { n_heads, n_kv_heads, head_dim, scale, window, softcap, seq_len };
        let y = Node(subject.node(op.clone(), &[q.clone(), k.clone(), v.clone()]));
        let logs = Node(subject.node(lse.clone(), &[q.clone(), k.clone()]));
        subject.node(grad, &[q.clone(), k.clone(), v, y, logs, dy]);
        subject.node(op, &[columns(n_heads), k.clone(), columns(n_kv_heads)]);
        subject.node(lse, &[columns(n_heads), k]);
        subject.check();
    }
}

/// What is drawn is what the definition draws; rows without a draw have none.
#[test]
fn classes_are_those_of_the_definition() {
    for (rows, classes, seed) in [(1, 1, 1), (7, 5, 2), (60, 1000, 3)] {
        let mut subject = Subject::new(seed);
        let draw = |i: usize| match i % 4 {
            0 => -1,
            _ => (i as i32).wrapping_mul(0x2c9e_71d3) & i32::MAX,
        };
        let draws: Vec<i32> = (1..=rows).map(draw).collect();
        for logits in [Float(vec![rows, classes]), Columns(rows, classes)] {
            subject.node(Sample {}, &[logits, Ints(draws.clone())]);
        }
        assert_eq!(subject.found(2), {
            let mut expected = subject.expected();
            expected.retain(|name, _| name.starts_with("sample"));
            expected
        });
    }
}

/// Kernels clamp what they exponentiate. A NaN must get through all the same: training stops at a
/// loss that is none.
#[test]
fn nan_gets_through() {
    let (rows, head_dim, seq_len) = (6, 5, 6);
    let nan = |subject: &mut Subject, name: &str, at: usize| {
        let value = subject.store.get_mut(name).unwrap();
        if let Data::F32(data) = &mut value.data {
            data[at] = f32::NAN;
        }
    };
    for softcap in [0.0, 3.0] {
        let mut subject = Subject::new(6);
        subject.tokens = rows;
        let op = AttentionTrain {
            n_heads: 1,
            n_kv_heads: 1,
            head_dim,
            scale: 1.0,
            window: 0,
            softcap,
            seq_len,
        };
        let m = || Float(vec![rows, head_dim]);
        subject.node(op, &[m(), m(), m()]);
        nan(&mut subject, "w", 2 * head_dim);
        let found = &subject.found(1)["attention_train"];
        for (row, y) in found.floats().chunks(head_dim).enumerate() {
            assert!(
                y.iter().all(|y| y.is_nan() == (row == 2)),
                "row {row}: {y:?}"
            );
        }
    }
    let mut subject = Subject::new(7);
    let m = || Float(vec![3, 70]);
    subject.node(KlDivergence {}, &[m(), m()]);
    subject.node(CrossEntropy {}, &[m(), Ints(vec![1, 2, 3])]);
    subject.node(Softcap { cap: 2.0 }, &[m()]);
    subject.node(Round { to: DType::F16 }, &[m()]);
    for name in ["w.1", "w.2", "w.3", "w.4"] {
        nan(&mut subject, name, 66);
    }
    for (name, y) in subject.found(1) {
        assert!(y.floats().iter().any(|y| y.is_nan()), "{name}");
    }
}

/// Every value of each type, halfway to the next, and the numbers beside that.
#[test]
fn rounding_is_that_of_the_definition() {
    for to in [DType::F16, DType::BF16] {
        let value = |bits: u16| match to {
            DType::F16 => half::f16::from_bits(bits).to_f32(),
            _ => half::bf16::from_bits(bits).to_f32(),
        };
        let mut data = Vec::new();
        for bits in 0..=u16::MAX {
            let (x, next) = (value(bits), value(bits.wrapping_add(1)));
            let between = ((f64::from(x) + f64::from(next)) / 2.0) as f32;
            let beside = [-1i32, 0, 1].map(|d| between.to_bits().wrapping_add_signed(d));
            data.push(x);
            data.extend(beside.map(f32::from_bits));
        }
        let mut subject = Subject::new(0);
        let shape = [512, data.len() / 512];
        let x = subject.weight(&shape);
        subject
            .store
            .insert("w".into(), Tensor::f32(&shape, data.clone()));
        subject.node(Round { to }, &[Node(x)]);
        let (expected, found) = (subject.expected(), subject.found(2));
        let pairs = expected["round"]
            .floats()
            .iter()
            .zip(found["round"].floats());
        for (x, (y, z)) in data.iter().zip(pairs) {
            let same = y.to_bits() == z.to_bits() || (y.is_nan() && z.is_nan());
            assert!(same, "{x:e} to {to} is {z:e}, expected {y:e}");
        }
    }
}
