//! Where values come from: inputs of a step, weights, constants.

use crate::interp::{EvalContext, EvalError};
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::{Data, Tensor};
use crate::types::{DType, Type};
use crate::{no_gradient, op};

op! {
    /// A value that the caller gives at every step.
    Input = "input"() {
        /// The name the caller gives it by.
        name: String,
        /// Its type.
        ty: Type,
    }
}

impl OpRules for Input {
    fn infer(&self, _: &[&Type]) -> Result<Type, String> {
        Ok(self.ty.clone())
    }
    fn eval<F: Real>(
        &self,
        ctx: &mut EvalContext<'_, F>,
        _: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        ctx.input(&self.name, &self.ty)
    }

    no_gradient!("it is a source");
}

op! {
    /// A named tensor of the checkpoint or artifact.
    Weight = "weight"() {
        /// The tensor's name in the weight store.
        name: String,
        /// Its type; every dimension is fixed.
        ty: Type,
    }
}

impl OpRules for Weight {
    const COMPILE_TIME: bool = true;
    fn infer(&self, _: &[&Type]) -> Result<Type, String> {
        match self.ty.storage_bytes() {
            Some(_) => Ok(self.ty.clone()),
            None => Err(format!("a weight's size must be known, found {}", self.ty)),
        }
    }
    fn eval<F: Real>(
        &self,
        ctx: &mut EvalContext<'_, F>,
        _: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let tensor = ctx.weight(&self.name)?;
        if tensor.ty() != self.ty {
            let (found, expected) = (tensor.ty(), &self.ty);
            return Err(EvalError::new(format!(
                "weight `{}` is {found}, the graph expects {expected}",
                self.name
            )));
        }
        Ok(tensor)
    }

    no_gradient!("it is a source");
}

op! {
    /// A small constant whose elements stand in the graph.
    Const = "const"() {
        /// Its type: f32, every dimension fixed.
        ty: Type,
        /// The elements, row-major.
        data: Vec<f32>,
    }
}

impl OpRules for Const {
    const COMPILE_TIME: bool = true;
    fn infer(&self, _: &[&Type]) -> Result<Type, String> {
        if self.ty.dtype != DType::F32 {
            return Err(format!("constants are f32, found {}", self.ty));
        }
        if self.ty.storage_bytes() != Some(self.data.len() * 4) {
            return Err(format!(
                "{} values do not fill {}",
                self.data.len(),
                self.ty
            ));
        }
        Ok(self.ty.clone())
    }
    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        _: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        Ok(Tensor {
            dtype: DType::F32,
            shape: self.ty.fixed_shape().unwrap_or_default(),
            data: Data::F32(F::from_f32s(self.data.clone())),
        })
    }

    no_gradient!("it is a source");
}
