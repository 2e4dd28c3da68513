//! Every step of a program against what the ops' definitions make of the same operands.

use rabitc_codegen::train::{Kernel, Place, Plan, Step, View, reference};
use rabitc_ir::{DType, Op, Tensor};

use super::CudaEngine;
use crate::engine::{EngineError, Program};

/// How a result of one step compares.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The graph's node.
    pub node: String,
    /// The kind of step.
    pub kind: String,
    /// Norm of the difference, over the norm of the expected result.
    pub error: f64,
    /// What the error may be.
    pub bound: f64,
}

impl Checked {
    /// Whether the error is within the bound; one that is no number is not.
    pub fn passed(&self) -> bool {
        self.error <= self.bound
    }
}

/// Runs a program step by step and compares each with its reference: on the operands as they are
/// on the device, so that errors do not add up. Gradients held must be zero before.
///
/// # Errors
/// As for a run.
pub fn check(
    engine: &mut CudaEngine,
    program: Program,
    inputs: &[(&str, &[i32])],
) -> Result<Vec<Checked>, EngineError> {
    engine.bind()?;
    engine.with(program.0, |program, this, at| {
        program.write_inputs(inputs)?;
        let mut out = Vec::new();
        for (i, step) in program.plan.steps.iter().enumerate() {
            let mut failed = None;
            let mut read = |view: View| match program.read(view, at, &this.device) {
                Ok(tensor) => tensor,
                Err(e) => {
                    failed = Some(e);
                    Tensor::f32(
                        &[view.rows, view.columns],
                        vec![0.0; view.rows * view.columns],
                    )
                }
            };
            let expected = reference::evaluate(&program.plan, step, &mut read);
            if let Some(e) = failed {
                return Err(e);
            }
            let expected = expected.map_err(|e| EngineError::new(e.to_string()))?;
            program.launch(i, &this.blas, at)?;
            for (view, expected) in step.results().into_iter().zip(expected) {
                let found = program.read(view, at, &this.device)?;
                out.push(Checked {
                    node: step.node().to_string(),
                    kind: kind(step),
                    error: distance(&found, &expected),
                    bound: bound(&program.plan, step, view),
                });
            }
        }
        Ok(out)
    })
}

/// The kind of a step, for people.
pub(super) fn kind(step: &Step) -> String {
    match step {
        Step::Gemm(gemm) => format!("gemm {}x{}x{}", gemm.m, gemm.n, gemm.k),
        Step::Map(map) => {
            let (rows, columns, terms) = (map.rows, map.columns, map.terms.len());
            format!("map {rows}x{columns} of {terms} terms")
        }
        Step::Kernel(kernel) => kernel.kernel.name().to_string(),
    }
}

fn distance(found: &Tensor, expected: &Tensor) -> f64 {
    let square = |x: f64| x * x;
    let pairs = found.floats().iter().zip(expected.floats());
    let error: f64 = pairs
        .map(|(a, b)| square(f64::from(*a) - f64::from(*b)))
        .sum();
    let norm: f64 = expected
        .floats()
        .iter()
        .map(|b| square(f64::from(*b)))
        .sum();
    match norm > 0.0 {
        true => (error / norm).sqrt(),
        false => error.sqrt(),
    }
}

/// Half a unit in the last place of what the result is stored as, and what the arithmetic adds: f32
/// sums, bf16 weights and slopes inside attention, and in losses the difference of two logarithms
/// that nearly cancel.
fn bound(plan: &Plan, step: &Step, to: View) -> f64 {
    /// Half a unit in the last of bf16's 8 places.
    const BF16: f64 = 1.0 / 256.0;
    let value = &plan.values[to.value];
    let storage = match value.dtype {
        DType::F32 => 0.0,
        _ => BF16,
    };
    // A sum held in bf16 is rounded once more each time something is added to it.
    let again =
        matches!(step, Step::Gemm(g) if g.accumulate && !matches!(value.place, Place::Gradient(_)));
    let storage = if again { 2.0 * storage } else { storage };
    let arithmetic = match step {
        Step::Gemm(_) => 2e-5,
        Step::Map(_) => 2e-6,
        Step::Kernel(kernel) => match &kernel.kernel {
            Kernel::AttentionWithLse(_) | Kernel::Op(Op::AttentionTrain(_)) => BF16,
            Kernel::Op(Op::AttentionTrainGrad(_)) => 2.0 * BF16,
            Kernel::KlDivergenceWithGrad | Kernel::Op(Op::KlDivergence(_)) => 1e-4,
            _ => 1e-5,
        },
    };
    storage + arithmetic
}
