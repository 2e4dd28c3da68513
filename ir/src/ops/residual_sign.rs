//! The derivation of the binary cores from one shared weight (RaBiT, arXiv 2602.05367).

use super::{matrix, same};
use crate::interp::{EvalContext, EvalError};
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::{DType, Type};
use crate::{no_gradient, op};

op! {
    /// R₀ = W; B_i = sign(R_{i−1}), sign(0) = +1; R_i = R_{i−1} − g_i B_i h_iᵀ, in f32.
    ResidualSign = "residual_sign"("weight", "g", "h") {}
}

/// The signs `bit[k, d_out, d_in]` of `w` `[d_out, d_in]` under scales `g` `[k, d_out]` and `h`
/// `[k, d_in]`.
///
/// Training and the artifact both take their signs from here, so the arithmetic is part of the
/// definition: f32, the product `g · h` rounded first, then one subtraction a path.
pub fn derive_signs(w: &[f32], g: &[f32], h: &[f32], shape: [usize; 3]) -> Vec<u8> {
    let [k, d_out, d_in] = shape;
    let stride = d_in.div_ceil(8);
    let mut bits = vec![0u8; k * d_out * stride];
    let mut residual = vec![0.0f32; d_in];
    for row in 0..d_out {
        residual.copy_from_slice(&w[row * d_in..][..d_in]);
        for path in 0..k {
            let g = g[path * d_out + row];
            let h = &h[path * d_in..][..d_in];
            let out = &mut bits[(path * d_out + row) * stride..][..stride];
            let eights = residual.chunks_mut(8).zip(h.chunks(8));
            for (byte, (residual, h)) in out.iter_mut().zip(eights) {
                for (bit, (r, h)) in residual.iter_mut().zip(h).enumerate() {
                    let positive = *r >= 0.0;
                    *byte |= u8::from(positive) << bit;
                    let step = g * h;
                    *r -= if positive { step } else { -step };
                }
            }
        }
    }
    bits
}

impl OpRules for ResidualSign {
    const COMPILE_TIME: bool = true;

    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let (d_out, d_in) = matrix("weight", operands[0])?;
        let (k, g) = matrix("g", operands[1])?;
        let (kh, h) = matrix("h", operands[2])?;
        same("channels of g", d_out, g)?;
        same("channels of h", d_in, h)?;
        same("paths of h", k, kh)?;
        Ok(Type::fixed(DType::Bit, &[k, d_out, d_in]))
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let (w, g, h) = (operands[0], operands[1], operands[2]);
        let shape = [g.shape[0], w.shape[0], w.shape[1]];
        let bits = derive_signs(
            &F::to_f32s(w.floats()),
            &F::to_f32s(g.floats()),
            &F::to_f32s(h.floats()),
            shape,
        );
        Ok(Tensor::of_bytes(DType::Bit, &shape, bits))
    }

    no_gradient!("signs have none; effective_weight is the form for training");
}
