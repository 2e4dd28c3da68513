//! Effective weights and the gradients of their scales.

use rabitc_ir::DType;
use rabitc_ir::ops::effective_weight::Derive;

use super::kernel::refuse;
use super::{Arg, Lower, line};
use crate::CodegenError;
use crate::cuda::kernels::train::effective_scale_grad::{EffectiveScaleGrad, JoinScaleGrads};
use crate::cuda::kernels::train::effective_weight::{Cores, EffectiveWeight};
use crate::train::{KernelStep, View};

impl Lower<'_> {
    /// Requires scales as the kernels read them: f32, row after row.
    pub(super) fn check_scales(
        &self,
        step: &KernelStep,
        scales: &[View],
    ) -> Result<(), CodegenError> {
        let fits = |v: &View| self.dtype(*v) == DType::F32 && v.is_dense();
        match scales.iter().all(fits) {
            true => Ok(()),
            false => Err(refuse(step, "scales must be dense and f32".into())),
        }
    }

    /// The cores of g, h and latent weights.
    pub(super) fn cores(&self, o: &[View], derive: Derive) -> Cores {
        Cores {
            paths: o[0].rows,
            latent: self.layout(o[2]),
            derive,
        }
    }

    pub(super) fn effective_weight(&mut self, o: &[View], to: View, derive: Derive) {
        let spec = EffectiveWeight {
            cores: self.cores(o, derive),
            out: self.layout(to),
        };
        let mut args = Self::views(o);
        args.push(Arg::View(to));
        self.launch(&spec, line(spec.blocks()), args);
    }

    pub(super) fn scale_grad(&mut self, o: &[View], to: View, derive: Derive, frozen: usize) {
        let spec = EffectiveScaleGrad {
            dweight: self.layout(o[0]),
            cores: self.cores(&o[1..], derive),
            frozen,
        };
        let ([across, down], paths) = (spec.tiles(), spec.cores.paths);
        let (d_out, d_in) = (o[0].rows, o[0].columns);
        let dg = self.scratch(across * paths * d_out * 4);
        let dh = self.scratch(down * paths * d_in * 4);
        let mut args = Self::views(o);
        args.extend([dg, dh]);
        self.launch(&spec, [across as u32, down as u32, 1], args);
        let join = JoinScaleGrads {
            paths,
            d_out,
            d_in,
            tiles: spec.tiles(),
        };
        self.launch(&join, line(join.blocks()), vec![dg, dh, Arg::View(to)]);
    }
}
