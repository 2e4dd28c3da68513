//! Changes the stored form of a float weight, evaluated when an artifact is written.

use crate::attr::{Attr, AttrText};
use crate::interp::{EvalContext, EvalError};
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::{Data, Tensor};
use crate::types::{DType, Type};
use crate::{no_gradient, op};

op! {
    /// The same values rounded to another float type.
    Cast = "cast"("weight") {
        /// The type of the result: f32, f16 or bf16.
        to: DType,
    }
}

impl Attr for DType {
    fn print(&self) -> String {
        self.name().to_string()
    }
    fn parse(text: &AttrText) -> Result<Self, String> {
        match text {
            AttrText::Word(w) => w.parse(),
            other => Err(format!("expected a dtype, found {other:?}")),
        }
    }
}

impl OpRules for Cast {
    const COMPILE_TIME: bool = true;

    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        if !self.to.is_float() || !operands[0].dtype.is_float() {
            return Err(format!("casts {} to {}", operands[0], self.to));
        }
        Ok(Type::new(self.to, operands[0].shape.clone()))
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let round = |x: f32| match self.to {
            DType::F16 => half::f16::from_f32(x).to_f32(),
            DType::BF16 => half::bf16::from_f32(x).to_f32(),
            _ => x,
        };
        let data: Vec<f32> = F::to_f32s(operands[0].floats())
            .iter()
            .map(|x| round(*x))
            .collect();
        if let Some(i) = data.iter().position(|x| !x.is_finite()) {
            let x = operands[0].floats()[i];
            return Err(EvalError::new(format!("{x} does not fit {}", self.to)));
        }
        Ok(Tensor {
            dtype: self.to,
            shape: operands[0].shape.clone(),
            data: Data::F32(F::from_f32s(data)),
        })
    }

    no_gradient!("it is evaluated when an artifact is written; round is the form for training");
}
