//! How far the engine may be from the interpreter, element by element.
//!
//! With unit roundoff u = 2⁻²⁴, a sum of n terms in f32, in any order, is off by at most about
//! n·u·Σ|term| (Higham, *Accuracy and Stability of Numerical Algorithms*, §3.1). Where a result is
//! a sum of products with positive signs, Σ|term| is what the op gives for the magnitudes of its
//! operands, and the interpreter is asked for that. Functions of single elements have the errors
//! that their kernels state, some u each.

use rabitc_ir::interp::EvalContext;
use rabitc_ir::ops::attention_train::AttentionTrain;
use rabitc_ir::ops::sums::WeightedSum;
use rabitc_ir::{Op, Tensor};

/// Unit roundoff of f32.
const U: f64 = 1.0 / (1u64 << 24) as f64;
/// Roundings of a function of one element: its polynomial, a division, some products.
const FUNCTION: f64 = 64.0 * U;
/// Smaller differences are those of numbers that are not normal.
const TINY: f64 = 1e-30;

fn abs(x: &Tensor) -> Tensor {
    match x.data {
        rabitc_ir::Data::F32(_) => {
            Tensor::f32(&x.shape, x.floats().iter().map(|x| x.abs()).collect())
        }
        _ => x.clone(),
    }
}

fn largest(x: &Tensor) -> f64 {
    let magnitudes = x.floats().iter().map(|x| f64::from(x.abs()));
    magnitudes.fold(0.0, f64::max)
}

fn norm(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}

/// The greatest norm of a group of `n` elements.
fn largest_norm(x: &Tensor, n: usize) -> f64 {
    x.floats().chunks(n).map(norm).fold(0.0, f64::max)
}

/// roundings · u · what the op gives for magnitudes.
fn magnitudes(op: &Op, operands: &[&Tensor], roundings: f64) -> Vec<f64> {
    let store = crate::Values::new();
    let mut context = EvalContext::new(&store);
    let operands: Vec<_> = operands.iter().map(|x| abs(x)).collect();
    let operands: Vec<_> = operands.iter().collect();
    let sums = op.eval(&mut context, &operands).expect("it ran before");
    let sums = sums.floats().iter();
    sums.map(|x| roundings * U * f64::from(*x) + TINY).collect()
}

/// The bound for every element of `y`, the interpreter's result of `op`.
pub fn bounds(op: &Op, o: &[&Tensor], y: &Tensor) -> Vec<f64> {
    let all = |bound: f64| vec![bound + TINY; y.floats().len()];
    let relative = |roundings: f64| -> Vec<f64> {
        let values = y.floats().iter().map(|y| f64::from(y.abs()));
        values.map(|y| roundings * U * y + TINY).collect()
    };
    let rows = o[0].rows() as f64;
    let width = o[0].width() as f64;
    match op {
        Op::Slice(_) | Op::PadColumns(_) | Op::Embed(_) => relative(2.0),
        Op::Round(_) => relative(0.0),
        Op::Add(_) | Op::AddBias(_) | Op::Mul(_) | Op::Scale(_) => magnitudes(op, o, 2.0),
        Op::WeightedSum(sum) => {
            let factors = sum.factors.iter().map(|f| f.abs()).collect();
            let op = WeightedSum { factors }.into();
            magnitudes(&op, o, 2.0 * o.len() as f64)
        }
        Op::Linear(_) | Op::Matmul(_) => magnitudes(op, o, width + 2.0),
        Op::MatmulTn(_) | Op::SumRows(_) => magnitudes(op, o, rows + 2.0),
        Op::ScatterAdd(_) => magnitudes(op, o, rows + 2.0),
        Op::Silu(_) | Op::GeluTanh(_) => elementwise(o[0], o[0]),
        Op::Gate(_) | Op::ActivationGrad(_) => elementwise(o[0], o[1]),
        Op::GateGrad(_) => all(FUNCTION * 8.0 * largest(o[1]) * largest(o[2])),
        Op::Softcap(op) => all(FUNCTION * f64::from(op.cap)),
        Op::SoftcapGrad(_) => all(FUNCTION * largest(o[1])),
        Op::RmsNorm(op) => {
            // 1 + w may cancel: the error is relative to what is added up.
            magnitudes(&op.clone().into(), o, o[1].width() as f64 + 16.0)
        }
        Op::RmsNormGrad(op) => {
            let n = o[1].width() as f64;
            let inverse = inverse_rms(o[0], o[1].width(), op.eps);
            let pull = (1.0 + largest(o[1])) * largest(o[2]);
            // |x| r ≤ √n, and the mean of x ⊙ pull is below |x| |pull|.
            all((2.0 * n + 32.0) * U * inverse * pull * (1.0 + n))
        }
        Op::RmsNormWeightGrad(op) => {
            let inverse = inverse_rms(o[0], op.group, op.eps);
            let terms = o[0].floats().len() as f64 / op.group as f64;
            let term = inverse * largest(o[0]) * largest(o[1]);
            all((terms + op.group as f64 + 16.0) * U * terms * term)
        }
        Op::RopeTable(_) => relative(0.0),
        Op::Rope(_) | Op::RopeGrad(_) => all(8.0 * U * largest(o[0])),
        Op::AttentionTrain(op) => attention(op, o, y),
        Op::AttentionLse(op) => {
            let error = score_error(o, op.head_dim, op.scale, op.softcap);
            all(error + (op.seq_len as f64 + 64.0) * U + 4.0 * U * largest(y))
        }
        Op::AttentionTrainGrad(op) => {
            let error = score_error(o, op.head_dim, op.scale, op.softcap);
            let n = (op.seq_len * (op.n_heads / op.n_kv_heads)) as f64;
            let lse = (op.seq_len as f64 + 64.0) * U + 4.0 * U * largest(o[4]);
            let weight = 2.0 * error + lse + FUNCTION;
            let d = op.head_dim;
            let pull = 2.0 * largest_norm(o[5], d) * largest_norm(o[2], d).max(1.0);
            let roundings = (n + 2.0 * d as f64 + 64.0) * U;
            let side = largest(o[0]).max(largest(o[1])) * f64::from(op.scale.abs());
            all((weight + roundings) * pull * n * side.max(1.0))
        }
        Op::KlDivergence(_) => all(logit_error(o) * 2.0 * (1.0 + largest_gap(o)) + 8.0 * U),
        Op::KlDivergenceGrad(_) => {
            let factor = f64::from(o[2].floats()[0].abs()) / rows;
            all(2.0 * factor * logit_error(o))
        }
        Op::CrossEntropy(_) => all(logit_error(&o[..1])),
        Op::CrossEntropyGrad(_) => {
            let factor = f64::from(o[2].floats()[0].abs());
            all(factor * logit_error(&o[..1]))
        }
        Op::SquaredError(_) => relative(2.0 * (width + 8.0)),
        Op::SquaredErrorGrad(_) => relative(rows * width + 16.0),
        Op::EffectiveWeight(_) => {
            let step = largest(o[0]) * largest(o[1]);
            let paths = o[0].rows() as f64;
            all((paths + 2.0) * U * paths * step)
        }
        Op::EffectiveScaleGrad(_) => {
            let n = (o[0].rows().max(o[0].width())) as f64;
            let scale = largest(o[1]).max(largest(o[2]));
            all((n + 4.0) * U * n * largest(o[0]) * scale)
        }
        op => panic!("no bound for {}", op.name()),
    }
}

/// A function of x below 2|x| + 1 times y.
fn elementwise(x: &Tensor, y: &Tensor) -> Vec<f64> {
    let pairs = x.floats().iter().zip(y.floats());
    pairs
        .map(|(x, y)| FUNCTION * f64::from((2.0 * x.abs() + 1.0) * y.abs().max(1.0)) + TINY)
        .collect()
}

/// The greatest 1 / √(mean(x²) + eps) of a group.
fn inverse_rms(x: &Tensor, group: usize, eps: f32) -> f64 {
    let groups = x.floats().chunks(group);
    let least = groups.map(norm).fold(f64::INFINITY, f64::min);
    1.0 / (least.powi(2) / group as f64 + f64::from(eps)).sqrt()
}

/// Scores of q and k are off by so much.
fn score_error(o: &[&Tensor], head_dim: usize, scale: f32, softcap: f32) -> f64 {
    let product = largest_norm(o[0], head_dim) * largest_norm(o[1], head_dim);
    let product = product * f64::from(scale.abs());
    (head_dim as f64 + 4.0) * U * product + FUNCTION * f64::from(softcap)
}

/// Weights are off by twice the scores' error, relatively; so is the weighted mean of values.
fn attention(op: &AttentionTrain, o: &[&Tensor], y: &Tensor) -> Vec<f64> {
    let error = score_error(o, op.head_dim, op.scale, op.softcap);
    let roundings = (op.seq_len as f64 + 2.0) * U + FUNCTION;
    vec![(2.0 * error + roundings) * largest(o[2]) + TINY; y.floats().len()]
}

/// Logarithms of probabilities are off by so much: those of sums of exponentials by their
/// functions' errors and the roundings of numbers as large as logits.
fn logit_error(o: &[&Tensor]) -> f64 {
    let operands = o.iter().take(2);
    let logits = operands.map(|x| largest(x)).fold(0.0, f64::max);
    let width = o[0].width() as f64;
    (width + 64.0) * U + 8.0 * U * (logits + width.ln())
}

/// How far apart the logarithms of two probabilities can be.
fn largest_gap(o: &[&Tensor]) -> f64 {
    2.0 * (largest(o[0]) + largest(o[1]) + (o[0].width() as f64).ln())
}
