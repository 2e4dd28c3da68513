//! What a step must compute, by the ops' own definitions: what engines are checked against.

use rabitc_ir::interp::EvalContext;
use rabitc_ir::ops::attention_train::{AttentionLse, AttentionTrain};
use rabitc_ir::ops::cross_entropy::{CrossEntropy, CrossEntropyGrad};
use rabitc_ir::ops::kl_divergence::{KlDivergence, KlDivergenceGrad};
use rabitc_ir::ops::linear::Linear;
use rabitc_ir::ops::matmul::{Matmul, MatmulTn};
use rabitc_ir::ops::rms_norm_grad::RmsNormWeightGrad;
use rabitc_ir::ops::squared_error::SquaredError;
use rabitc_ir::{DType, EvalError, Op, Tensor, WeightError, WeightStore};

use super::step::{Gemm, Kernel, KernelStep, Map, Plan, Step, Term, View};

/// The results of a step, one matrix for each of [`Step::results`], before they are rounded to
/// what they are stored as. `read` gives the elements of a view, row after row: operands, and
/// results that are added to.
///
/// # Errors
/// What evaluating the ops refuses, such as an index outside a table.
pub fn evaluate(
    plan: &Plan,
    step: &Step,
    read: &mut dyn FnMut(View) -> Tensor,
) -> Result<Vec<Tensor>, EvalError> {
    match step {
        Step::Gemm(gemm) => product(plan, gemm, read).map(|c| vec![c]),
        Step::Map(map) => Ok(elements(map, read)),
        Step::Kernel(step) => kernel(plan, step, read),
    }
}

/// Ops of a training step read no weights but through their operands.
struct NoWeights;

impl WeightStore for NoWeights {
    fn info(&self, _: &str) -> Option<(DType, Vec<usize>)> {
        None
    }
    fn load(&self, name: &str) -> Result<Tensor, WeightError> {
        Err(WeightError::Missing(name.to_string()))
    }
}

fn eval(op: impl Into<Op>, operands: &[&Tensor]) -> Result<Tensor, EvalError> {
    op.into().eval(&mut EvalContext::new(&NoWeights), operands)
}

/// The elements of a view in the shape that the graph gives them.
fn shaped(plan: &Plan, view: View, read: &mut dyn FnMut(View) -> Tensor) -> Tensor {
    let value = &plan.values[view.value];
    let mut tensor = read(view);
    let whole = view.offset == 0 && (view.rows, view.columns) == (value.rows, value.columns);
    tensor.shape = match whole {
        true => value.shape.clone(),
        false => vec![view.rows, view.columns],
    };
    tensor
}

fn plus(mut sum: Tensor, other: &Tensor) -> Tensor {
    if let rabitc_ir::Data::F32(sum) = &mut sum.data {
        let pairs = sum.iter_mut().zip(other.floats());
        pairs.for_each(|(sum, x)| *sum += x);
    }
    sum
}

fn product(
    plan: &Plan,
    gemm: &Gemm,
    read: &mut dyn FnMut(View) -> Tensor,
) -> Result<Tensor, EvalError> {
    let [a, b] = [gemm.a, gemm.b].map(|v| shaped(plan, v, read));
    let op: Op = match (gemm.transpose_a, gemm.transpose_b) {
        (false, true) => Linear {}.into(),
        (true, false) => MatmulTn {}.into(),
        (false, false) => Matmul {}.into(),
        (true, true) => return Err(EvalError::new("no op transposes both factors")),
    };
    let c = eval(op, &[&a, &b])?;
    Ok(match gemm.accumulate {
        true => plus(read(gemm.c), &c),
        false => c,
    })
}

/// The terms of a map in f64.
fn elements(map: &Map, read: &mut dyn FnMut(View) -> Tensor) -> Vec<Tensor> {
    let operands: Vec<Tensor> = map.operands.iter().map(|v| read(*v)).collect();
    let mut sums: Vec<Vec<f32>> = map
        .stores
        .iter()
        .map(|store| match store.accumulate {
            true => read(store.to).floats().to_vec(),
            false => vec![0.0; map.rows * map.columns],
        })
        .collect();
    let mut terms = vec![0.0; map.terms.len()];
    for i in 0..map.rows * map.columns {
        for t in 0..map.terms.len() {
            terms[t] = element(map, &operands, &terms, t, i);
        }
        for (sum, store) in sums.iter_mut().zip(&map.stores) {
            sum[i] = (f64::from(sum[i]) + terms[store.term]) as f32;
        }
    }
    let tensor = |sum| Tensor::f32(&[map.rows, map.columns], sum);
    sums.into_iter().map(tensor).collect()
}

fn element(map: &Map, operands: &[Tensor], terms: &[f64], t: usize, i: usize) -> f64 {
    let (row, column) = (i / map.columns, i % map.columns);
    let at = |operand: usize, row: usize, column: usize| {
        let width = map.operands[operand].columns;
        f64::from(operands[operand].floats()[row * width + column])
    };
    match &map.terms[t] {
        Term::Load { operand } => at(*operand, row, column),
        Term::Column { operand } => at(*operand, 0, column),
        Term::Padded { operand, start } => {
            let own = column.checked_sub(*start);
            let own = own.filter(|c| *c < map.operands[*operand].columns);
            own.map_or(0.0, |c| at(*operand, row, c))
        }
        Term::Add(a, b) => terms[*a] + terms[*b],
        Term::Mul(a, b) => terms[*a] * terms[*b],
        Term::Sum(parts) => parts.iter().map(|(f, t)| f64::from(*f) * terms[*t]).sum(),
        Term::Act(act, x) => act.apply(terms[*x]),
        Term::ActSlope(act, x) => act.derivative(terms[*x]),
        Term::Softcap(cap, x) => f64::from(*cap) * (terms[*x] / f64::from(*cap)).tanh(),
        Term::SoftcapSlope(cap, x) => 1.0 - (terms[*x] / f64::from(*cap)).tanh().powi(2),
        Term::Round(DType::F16, x) => half::f16::from_f32(terms[*x] as f32).to_f64(),
        Term::Round(_, x) => half::bf16::from_f32(terms[*x] as f32).to_f64(),
    }
}

fn kernel(
    plan: &Plan,
    step: &KernelStep,
    read: &mut dyn FnMut(View) -> Tensor,
) -> Result<Vec<Tensor>, EvalError> {
    let operands = step.operands.iter().map(|v| shaped(plan, *v, read));
    let operands: Vec<Tensor> = operands.collect();
    let o: Vec<&Tensor> = operands.iter().collect();
    match &step.kernel {
        Kernel::Op(op) => {
            let result = eval(op.clone(), &o)?;
            Ok(vec![match step.accumulate {
                true => plus(read(step.results[0]), &result),
                false => result,
            }])
        }
        Kernel::AttentionWithLse(op) => {
            let lse = eval(sums_of(op), &o[..2])?;
            Ok(vec![eval(op.clone(), &o)?, lse])
        }
        Kernel::KlDivergenceWithGrad => {
            let loss = eval(KlDivergence {}, &o[..2])?;
            Ok(vec![loss, eval(KlDivergenceGrad {}, &o)?])
        }
        Kernel::CrossEntropyWithGrad => {
            let loss = eval(CrossEntropy {}, &o[..2])?;
            Ok(vec![loss, eval(CrossEntropyGrad {}, &o)?])
        }
        Kernel::SquaredErrorWithGrad(op) => {
            let normalize = op.normalize;
            let loss = eval(SquaredError { normalize }, &o[..2])?;
            Ok(vec![loss, eval(op.clone(), &o)?])
        }
        Kernel::RmsNormGrads(op) => {
            let (eps, group) = (op.eps, o[1].width());
            let dweight = eval(RmsNormWeightGrad { eps, group }, &[o[0], o[2]])?;
            Ok(vec![eval(op.clone(), &o)?, dweight])
        }
        Kernel::RmsNormOfMap(op, map) => {
            let mut results = elements(map, read);
            let weight = o.last().copied().ok_or_else(no_weight)?;
            results.push(eval(op.clone(), &[&results[0], weight])?);
            Ok(results)
        }
        Kernel::RmsNormGradsInMap(op, map) => {
            let (eps, group) = (op.eps, o[1].width());
            let dweight = eval(RmsNormWeightGrad { eps, group }, &[o[0], o[2]])?;
            let dx = eval(op.clone(), &o[..3])?;
            let given = map.operands[0];
            let mut read = |view: View| match view == given {
                true => dx.clone(),
                false => read(view),
            };
            let mut results = vec![dweight];
            results.extend(elements(map, &mut read));
            Ok(results)
        }
    }
}

fn no_weight() -> EvalError {
    EvalError::new("a norm without a weight")
}

/// The op of the logarithms of an attention's sums.
fn sums_of(op: &AttentionTrain) -> AttentionLse {
    AttentionLse {
        n_heads: op.n_heads,
        n_kv_heads: op.n_kv_heads,
        head_dim: op.head_dim,
        scale: op.scale,
        window: op.window,
        softcap: op.softcap,
        seq_len: op.seq_len,
    }
}
