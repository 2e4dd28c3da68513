//! The weight of a residual-binary layer while it is trained.
//!
//! The cores are derived anew in every forward pass, from the latent weights as they are. Signs
//! have no derivative, so the backward pass is a straight-through estimate on the effective weight
//! (RaBiT, arXiv 2602.05367): every latent weight that is trained gets the effective weight's
//! gradient as it is; g and h get their ordinary gradients with the cores held constant.

use super::residual_sign::derive_signs;
use super::slice::Slice;
use super::{matrix, same};
use crate::gradient::{Backward, GradientError};
use crate::interp::{EvalContext, EvalError};
use crate::op::OpRules;
use crate::real::Real;
use crate::tensor::Tensor;
use crate::types::{DType, Type};
use crate::{no_gradient, op, word_attr};

word_attr! {
    /// Where the cores of a layer come from.
    pub enum Derive {
        /// All from one latent weight, each from what those before it left, as
        /// [`ResidualSign`](crate::ops::residual_sign::ResidualSign) derives them.
        Residual = "residual",
        /// Each from the signs of a latent weight of its own.
        Independent = "independent",
    }
}

op! {
    /// Ŵ = Σ_i g_i ⊙ B_i ⊙ h_i [d_out, d_in], the cores B_i derived from the latent weights.
    ///
    /// Latent weights are `[d_out, d_in]`: one where `derive` is `residual`, else one a path.
    EffectiveWeight = "effective_weight"("g", "h", "latents*") {
        /// Where the cores come from.
        derive: Derive,
        /// Leading paths that are not trained: their scales and latent weights get no gradient.
        frozen: usize,
    }
}

op! {
    /// dg_i = Σ_in dŴ ⊙ B_i ⊙ h_i and dh_i = Σ_out dŴ ⊙ B_i ⊙ g_i side by side, [k, d_out + d_in].
    EffectiveScaleGrad = "effective_scale_grad"("dweight", "g", "h", "latents*") {
        /// Where the cores come from.
        derive: Derive,
        /// Leading paths that are not trained: zeros.
        frozen: usize,
    }
}

/// Checks the operands g, h and latents; gives k, d_out and d_in.
fn check(derive: Derive, frozen: usize, operands: &[&Type]) -> Result<[usize; 3], String> {
    let (k, d_out) = matrix("g", operands[0])?;
    let (k_h, d_in) = matrix("h", operands[1])?;
    same("paths of h", k, k_h)?;
    let latents = match derive {
        Derive::Residual => 1,
        Derive::Independent => k,
    };
    same("number of latent weights", latents, operands.len() - 2)?;
    for ty in &operands[2..] {
        let (rows, columns) = matrix("a latent weight", ty)?;
        same("rows of a latent weight", d_out, rows)?;
        same("columns of a latent weight", d_in, columns)?;
    }
    if frozen >= k {
        return Err(format!("{frozen} of {k} paths are frozen: none is trained"));
    }
    Ok([k, d_out, d_in])
}

/// The cores `bit[k, d_out, d_in]` from g, h and the latent weights.
fn cores<F: Real>(derive: Derive, operands: &[&Tensor<F>]) -> Tensor<F> {
    let (g, h) = (operands[0], operands[1]);
    let shape = [g.rows(), g.width(), h.width()];
    let bits = match derive {
        Derive::Residual => derive_signs(
            &F::to_f32s(operands[2].floats()),
            &F::to_f32s(g.floats()),
            &F::to_f32s(h.floats()),
            shape,
        ),
        Derive::Independent => {
            let latents = operands[2..].iter();
            let rows = latents.flat_map(|w| w.floats().chunks(w.width()));
            let byte = |eight: &[F]| {
                let bits = eight.iter().enumerate();
                bits.fold(0, |byte, (bit, x)| {
                    byte | u8::from(*x >= F::default()) << bit
                })
            };
            rows.flat_map(|row| row.chunks(8).map(byte)).collect()
        }
    };
    Tensor::of_bytes(DType::Bit, &shape, bits)
}

impl OpRules for EffectiveWeight {
    const CHEAP: bool = true;

    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let [_, d_out, d_in] = check(self.derive, self.frozen, operands)?;
        Ok(Type::fixed(DType::F32, &[d_out, d_in]))
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let cores = cores(self.derive, operands);
        let [k, d_out, d_in] = [0, 1, 2].map(|i| cores.shape[i]);
        let (g, h) = (operands[0].floats(), operands[1].floats());
        let mut out = Vec::with_capacity(d_out * d_in);
        for row in 0..d_out {
            for column in 0..d_in {
                let terms = (0..k).map(|i| {
                    let scale = g[i * d_out + row].wide() * h[i * d_in + column].wide();
                    scale * f64::from(cores.sign(i * d_out + row, column))
                });
                out.push(F::round(terms.sum()));
            }
        }
        Ok(Tensor::real(&[d_out, d_in], out))
    }

    fn gradient(&self, b: &mut Backward<'_>) -> Result<(), GradientError> {
        let first = match self.derive {
            Derive::Residual => 2,
            Derive::Independent => 2 + self.frozen,
        };
        (first..b.operands().len()).for_each(|i| b.pass(i, b.dy()));
        if !b.wants(0) && !b.wants(1) {
            return Ok(());
        }
        let grad = EffectiveScaleGrad {
            derive: self.derive,
            frozen: self.frozen,
        };
        let widths = [0, 1].map(|i| b.ty(i).last().unwrap_or(0));
        let scales = b.add("dscales", grad, &[vec![b.dy()], b.operands()].concat())?;
        b.give(
            0,
            Slice {
                start: 0,
                len: widths[0],
            },
            &[scales],
        )?;
        b.give(
            1,
            Slice {
                start: widths[0],
                len: widths[1],
            },
            &[scales],
        )
    }
}

impl OpRules for EffectiveScaleGrad {
    no_gradient!("second derivatives are not provided");

    fn infer(&self, operands: &[&Type]) -> Result<Type, String> {
        let [k, d_out, d_in] = check(self.derive, self.frozen, &operands[1..])?;
        if *operands[0] != Type::fixed(DType::F32, &[d_out, d_in]) {
            let found = operands[0];
            return Err(format!(
                "dweight must be f32[{d_out},{d_in}], found {found}"
            ));
        }
        let width = d_out.checked_add(d_in).ok_or("the width overflows")?;
        Ok(Type::fixed(DType::F32, &[k, width]))
    }

    fn eval<F: Real>(
        &self,
        _: &mut EvalContext<'_, F>,
        operands: &[&Tensor<F>],
    ) -> Result<Tensor<F>, EvalError> {
        let (dweight, cores) = (operands[0].floats(), cores(self.derive, &operands[1..]));
        let [k, d_out, d_in] = [0, 1, 2].map(|i| cores.shape[i]);
        let (g, h) = (operands[1].floats(), operands[2].floats());
        let mut sums = vec![0.0; k * (d_out + d_in)];
        for i in self.frozen..k {
            let (dg, dh) = sums[i * (d_out + d_in)..][..d_out + d_in].split_at_mut(d_out);
            for row in 0..d_out {
                for column in 0..d_in {
                    let pull = dweight[row * d_in + column].wide()
                        * f64::from(cores.sign(i * d_out + row, column));
                    dg[row] += pull * h[i * d_in + column].wide();
                    dh[column] += pull * g[i * d_out + row].wide();
                }
            }
        }
        let sums = sums.into_iter().map(F::round).collect();
        Ok(Tensor::real(&[k, d_out + d_in], sums))
    }
}
