//! Losses and their gradients: a number a row by a kernel, and what is done with them by plain code.

use rabitc_codegen::kernels::train::cross_entropy::{self, CrossEntropy};
use rabitc_codegen::kernels::train::kl_divergence::{self, KlDivergence};
use rabitc_codegen::kernels::train::log_sum_exp::LogSumExp;
use rabitc_codegen::kernels::train::squared_error::{self, SquaredError};
use rabitc_codegen::train::View;
use rabitc_ir::ops::squared_error::Normalize;

use super::host::{Divisor, Host};
use super::lower::Lower;
use super::program::Pointer;
use crate::engine::EngineError;

/// The logarithm of the sum of exponentials of every row of `x`.
fn log_sums(l: &mut Lower<'_>, x: &View) -> Pointer {
    let out = l.scratch(x.rows);
    let spec = LogSumExp {
        d: x.columns,
        x_stride: x.stride,
    };
    let pointers = vec![l.at(x), out];
    l.launch(spec, pointers, &[], x.rows);
    out
}

/// The divergence and its gradient, as far as asked for, from the teacher's logits, the student's,
/// and for the gradient the loss's.
pub fn kl(
    l: &mut Lower<'_>,
    o: &[View],
    loss: Option<&View>,
    gradient: Option<&View>,
) -> Result<(), EngineError> {
    let (teacher, student) = (&o[0], &o[1]);
    let rows = teacher.rows;
    let mean = 1.0 / rows.max(1) as f64;
    let logs = [log_sums(l, teacher), log_sums(l.beside(), student)];
    let logits = [l.at(teacher), l.at(student)];
    let spec = |part| KlDivergence {
        part,
        d: teacher.columns,
        teacher_stride: teacher.stride,
        student_stride: student.stride,
    };
    if let Some(loss) = loss {
        let out = l.scratch(rows);
        let mut pointers = [logits, logs].concat();
        pointers.push(out);
        l.launch(spec(kl_divergence::Part::Rows), pointers, &[], rows);
        let to = l.at(loss);
        l.host(Host::Sum {
            rows: out,
            n: rows,
            factor: mean,
            to,
        });
    }
    if let Some(gradient) = gradient {
        let (from, to) = (l.at(&o[2]), l.scratch(1));
        l.host(Host::Scale {
            from,
            factor: mean,
            to,
        });
        let pointers = [logits, logs, [to, l.at(gradient)]].concat();
        l.launch(spec(kl_divergence::Part::Gradient), pointers, &[], rows);
    }
    Ok(())
}

/// The loss of logits and labels.
pub fn cross_entropy(l: &mut Lower<'_>, o: &[View], r: &View) -> Result<(), EngineError> {
    let (x, labels) = (&o[0], &o[1]);
    l.check(labels, x.columns, true)?;
    let lse = log_sums(l, x);
    let rows = l.scratch(x.rows);
    let spec = CrossEntropy {
        part: cross_entropy::Part::Rows,
        d: x.columns,
        x_stride: x.stride,
    };
    let pointers = vec![l.at(x), l.at(labels), lse, rows];
    l.launch(spec, pointers, &[], x.rows);
    let host = Host::MeanOfLabelled {
        rows,
        labels: l.at(labels),
        n: x.rows,
        to: l.at(r),
    };
    l.host(host);
    Ok(())
}

/// The gradient of logits, from them, the labels and that of the loss.
pub fn cross_entropy_grad(l: &mut Lower<'_>, o: &[View], r: &View) -> Result<(), EngineError> {
    let (x, labels, dloss) = (&o[0], &o[1], &o[2]);
    l.check(labels, x.columns, true)?;
    let lse = log_sums(l, x);
    let factor = l.scratch(1);
    let host = Host::ShareOfLabelled {
        from: l.at(dloss),
        labels: l.at(labels),
        n: x.rows,
        to: factor,
    };
    l.beside().host(host);
    let spec = CrossEntropy {
        part: cross_entropy::Part::Gradient,
        d: x.columns,
        x_stride: x.stride,
    };
    let pointers = vec![l.at(x), l.at(labels), lse, factor, l.at(r)];
    l.launch(spec, pointers, &[], x.rows);
    Ok(())
}

fn squared_spec(part: squared_error::Part, x: &View, target: &View) -> SquaredError {
    SquaredError {
        part,
        d: x.columns,
        x_stride: x.stride,
        target_stride: target.stride,
    }
}

/// Squared distance and energy of every row, and the divisor that follows from them.
fn divisor(l: &mut Lower<'_>, normalize: Normalize, x: &View, target: &View) -> Divisor {
    let rows = l.scratch(2 * x.rows);
    let pointers = vec![l.at(x), l.at(target), rows];
    let spec = squared_spec(squared_error::Part::Rows, x, target);
    l.launch(spec, pointers, &[], x.rows);
    Divisor {
        normalize,
        rows,
        n: x.rows,
        d: x.columns,
    }
}

/// The loss of x and its target.
pub fn squared_error(l: &mut Lower<'_>, normalize: Normalize, o: &[View], r: &View) {
    let by = divisor(l, normalize, &o[0], &o[1]);
    let to = l.at(r);
    l.host(Host::SquaredError { by, to });
}

/// The gradient of x, from it, its target and that of the loss.
pub fn squared_error_grad(l: &mut Lower<'_>, normalize: Normalize, o: &[View], r: &View) {
    let (x, target) = (&o[0], &o[1]);
    let by = divisor(l, normalize, x, target);
    let (dloss, to) = (l.at(&o[2]), l.scratch(x.rows));
    l.host(Host::SquaredErrorFactors { by, dloss, to });
    let pointers = vec![l.at(x), l.at(target), to, l.at(r)];
    let spec = squared_spec(squared_error::Part::Gradient, x, target);
    l.launch(spec, pointers, &[], x.rows);
}
