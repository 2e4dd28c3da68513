//! Gradients of the elementwise functions.

use super::alike;
use super::elementwise::not_zero;
use super::gate::Activation;
use crate::interp::{EvalContext, EvalError};
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::Type;
use crate::{no_gradient, op};

op! {
    /// act′(x) ⊙ dy.
    ActivationGrad = "activation_grad"("x", "dy") {
        /// The activation function.
        act: Activation,
    }
}

op! {
    /// (1 − tanh²(x / cap)) ⊙ dy.
    SoftcapGrad = "softcap_grad"("x", "dy") {
        /// The bound that x was put under.
        cap: f32,
    }
}

op! {
    /// act′(gate) ⊙ up ⊙ dy: the gradient of `gate` with respect to `gate`.
    GateGrad = "gate_grad"("gate", "up", "dy") {
        /// The activation on `gate`.
        act: Activation,
    }
}

/// f′(x) · dy for each element.
fn chain<F: Real>(x: &Tensor<F>, dy: &Tensor<F>, slope: impl Fn(f64) -> f64) -> Tensor<F> {
    let pairs = x.floats().iter().zip(dy.floats());
    let data = pairs.map(|(x, dy)| F::round(slope(x.wide()) * dy.wide()));
    Tensor::real(&x.shape, data.collect())
}

impl OpRules for ActivationGrad {
    no_gradient!("second derivatives are not provided");

    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        alike(("x", operands[0]), ("dy", operands[1]))
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        Ok(chain(operands[0], operands[1], |x| self.act.derivative(x)))
    }
}

impl OpRules for SoftcapGrad {
    no_gradient!("second derivatives are not provided");

    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        not_zero(self.cap)?;
        alike(("x", operands[0]), ("dy", operands[1]))
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let cap = f64::from(self.cap);
        let slope = |x: f64| 1.0 - (x / cap).tanh().powi(2);
        Ok(chain(operands[0], operands[1], slope))
    }
}

impl OpRules for GateGrad {
    no_gradient!("second derivatives are not provided");

    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        alike(("gate", operands[0]), ("up", operands[1]))?;
        alike(("gate", operands[0]), ("dy", operands[2]))
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let others = operands[1].floats().iter().zip(operands[2].floats());
        let all = operands[0].floats().iter().zip(others);
        let data = all.map(|(gate, (up, dy))| {
            F::round(self.act.derivative(gate.wide()) * up.wide() * dy.wide())
        });
        Ok(Tensor::real(&operands[0].shape, data.collect()))
    }
}
