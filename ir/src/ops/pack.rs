//! Layout changes of weights, evaluated when an artifact is written.

use super::paths::signs;
use crate::interp::{EvalContext, EvalError};
use crate::layout::SignLayout;
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::{Data, Tensor};
use crate::types::{DType, Dim, Type};
use crate::{no_gradient, op};

op! {
    /// The signs of one or more segments in the packed layout of [`crate::layout`].
    PackSigns = "pack_signs"("signs*") {
        /// Tiles in a row block.
        row_tiles: usize,
    }
}

op! {
    /// The output scales of one or more segments in the packed layout of [`crate::layout`].
    PackScales = "pack_scales"("scales*") {
        /// Tiles in a row block.
        row_tiles: usize,
    }
}

op! {
    /// The operands one below the other along their first dimension.
    Concat = "concat"("parts*") {}
}

impl OpRules for PackSigns {
    const COMPILE_TIME: bool = true;

    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let mut layout: Option<SignLayout> = None;
        for ty in operands {
            let (paths, d_out, d_in) = signs(ty)?;
            let layout = layout.get_or_insert_with(|| new_layout(self.row_tiles, d_in, paths));
            if (layout.d_in, layout.paths) != (d_in, paths) {
                return Err(format!("segments differ in paths or inputs: {ty}"));
            }
            layout.segments.push(d_out);
        }
        let layout = layout.ok_or("there must be a segment")?;
        layout.check()?;
        let bytes = layout.sign_bytes().ok_or("the size overflows")?;
        Ok(Type::fixed(DType::U8, &[bytes]))
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let layout = SignLayout {
            d_in: operands[0].shape[2],
            paths: operands[0].shape[0],
            segments: operands.iter().map(|o| o.shape[1]).collect(),
            row_tiles: self.row_tiles,
        };
        let parts: Vec<_> = operands.iter().map(|o| o.raw()).collect();
        let packed = layout.pack_signs(&parts);
        Ok(Tensor::of_bytes(DType::U8, &[packed.len()], packed))
    }

    no_gradient!("it is evaluated when an artifact is written");
}

fn new_layout(row_tiles: usize, d_in: usize, paths: usize) -> SignLayout {
    SignLayout {
        d_in,
        paths,
        segments: Vec::new(),
        row_tiles,
    }
}

impl OpRules for PackScales {
    const COMPILE_TIME: bool = true;

    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let mut layout: Option<SignLayout> = None;
        for ty in operands {
            let (paths, d_out) = super::matrix("scales", ty)?;
            let layout = layout.get_or_insert_with(|| new_layout(self.row_tiles, 1, paths));
            if layout.paths != paths || ty.dtype != operands[0].dtype {
                return Err(format!("segments differ in paths or dtype: {ty}"));
            }
            layout.segments.push(d_out);
        }
        let layout = layout.ok_or("there must be a segment")?;
        layout.check()?;
        let count = layout.scale_count().ok_or("the size overflows")?;
        Ok(Type::fixed(operands[0].dtype, &[count]))
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let layout = SignLayout {
            d_in: 1,
            paths: operands[0].shape[0],
            segments: operands.iter().map(|o| o.shape[1]).collect(),
            row_tiles: self.row_tiles,
        };
        let parts: Vec<_> = operands.iter().map(|o| o.floats()).collect();
        let packed = layout.pack_scales(&parts);
        Ok(Tensor {
            dtype: operands[0].dtype,
            shape: vec![packed.len()],
            data: Data::F32(packed),
        })
    }

    no_gradient!("it is evaluated when an artifact is written");
}

impl OpRules for Concat {
    const COMPILE_TIME: bool = true;

    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let first = operands.first().ok_or("there must be a part")?;
        let mut rows = 0usize;
        for ty in operands {
            let fits = ty.dtype.is_float()
                && ty.dtype == first.dtype
                && ty.rank() == first.rank()
                && ty.shape.get(1..) == first.shape.get(1..);
            let n = ty.shape.first().and_then(|d| d.fixed());
            match (fits, n.and_then(|n| rows.checked_add(n))) {
                (true, Some(n)) => rows = n,
                _ => return Err(format!("{ty} does not go below {first}")),
            }
        }
        let mut ty = (*first).clone();
        ty.shape[0] = Dim::Fixed(rows);
        Ok(ty)
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let data = operands.iter().flat_map(|o| o.floats()).copied().collect();
        let mut shape = operands[0].shape.clone();
        shape[0] = operands.iter().map(|o| o.shape[0]).sum();
        Ok(Tensor {
            dtype: operands[0].dtype,
            shape,
            data: Data::F32(data),
        })
    }

    no_gradient!("it is evaluated when an artifact is written");
}
