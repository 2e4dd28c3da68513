//! Dense products of activations: what the gradient of a linear layer is made of.

use super::linear::Linear;
use super::{activation, matrix, same};
use crate::gradient::{Backward, GradientError};
use crate::interp::{EvalContext, EvalError};
use crate::op;
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::{DType, Dim, Type};

op! {
    /// y = a b with b [d, n]; for dy of a linear layer and its weight, the gradient of x.
    Matmul = "matmul"("a", "b") {}
}

op! {
    /// y = aᵀ b, summed over the rows; for dy and x of a linear layer, the gradient of its weight.
    MatmulTn = "matmul_tn"("a", "b") {}
}

/// Rows `a`, each times the columns of `b` it weighs: Σ_r a[r] b[r, ·], in f64.
fn combine<'a, F: Real>(a: impl Iterator<Item = &'a F>, b: &[F], n: usize) -> Vec<F> {
    let mut sums = vec![0.0; n];
    for (a, b) in a.zip(b.chunks(n)) {
        for (sum, b) in sums.iter_mut().zip(b) {
            *sum += a.wide() * b.wide();
        }
    }
    sums.into_iter().map(F::round).collect()
}

impl OpRules for Matmul {
    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let (rows, d) = activation("a", operands[0])?;
        let (d_b, n) = matrix("b", operands[1])?;
        same("rows of b", d, d_b)?;
        Ok(Type::new(DType::F32, [rows, Dim::Fixed(n)]))
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let (a, b) = (operands[0], operands[1]);
        let rows = a.floats().chunks(a.width());
        let out = rows.flat_map(|a| combine(a.iter(), b.floats(), b.width()));
        Ok(Tensor::real(&[a.rows(), b.width()], out.collect()))
    }

    fn gradient(&self, b: &mut Backward<'_>) -> Result<(), GradientError> {
        b.give(0, Linear {}, &[b.dy(), b.operand(1)])?;
        b.give(1, MatmulTn {}, &[b.operand(0), b.dy()])
    }
}

impl OpRules for MatmulTn {
    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let (rows, m) = activation("a", operands[0])?;
        let (rows_b, n) = activation("b", operands[1])?;
        if rows != rows_b {
            return Err(format!("a has {rows} rows, b has {rows_b}"));
        }
        Ok(Type::fixed(DType::F32, &[m, n]))
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let (a, b) = (operands[0], operands[1]);
        let (m, n) = (a.width(), b.width());
        let column = |i: usize| a.floats().iter().skip(i).step_by(m);
        let out = (0..m).flat_map(|i| combine(column(i), b.floats(), n));
        Ok(Tensor::real(&[m, n], out.collect()))
    }

    fn gradient(&self, b: &mut Backward<'_>) -> Result<(), GradientError> {
        b.give(0, Linear {}, &[b.operand(1), b.dy()])?;
        b.give(1, Matmul {}, &[b.operand(0), b.dy()])
    }
}
