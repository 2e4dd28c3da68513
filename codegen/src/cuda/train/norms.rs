//! Norms and their gradients, alone and with the elementwise steps around them.

use rabitc_ir::DType;
use rabitc_ir::ops::rms_norm::RmsNorm as Norm;
use rabitc_ir::ops::rms_norm_grad::RmsNormGrad as NormGrad;

use super::{Arg, Lower, line};
use crate::cuda::kernels::train::Layout;
use crate::cuda::kernels::train::column_sum::ColumnSum;
use crate::cuda::kernels::train::rms_norm::RmsNorm;
use crate::cuda::kernels::train::rms_norm_grad::RmsNormGrad;
use crate::train::{KernelStep, Map, View};

impl Lower<'_> {
    /// A norm of x by a weight.
    pub(super) fn norm(&mut self, [x, weight]: [View; 2], to: View, op: &Norm) {
        let spec = self.norm_kernel([x, weight, to], op);
        self.launch(&spec, line(spec.blocks()), Self::views(&[x, weight, to]));
    }

    /// A map and the norm of its first result.
    pub(super) fn norm_of_map(&mut self, step: &KernelStep, op: &Norm, map: &Map) {
        let weight = step.operands[map.operands.len()];
        let (x, to) = (step.results[0], step.results[map.stores.len()]);
        let spec = RmsNorm {
            map: Some(self.map_kernel(map)),
            ..self.norm_kernel([x, weight, to], op)
        };
        let mut args = Self::views(&map.operands);
        args.extend(map.stores.iter().map(|s| Arg::View(s.to)));
        args.extend([Arg::View(weight), Arg::View(to)]);
        self.launch(&spec, line(spec.blocks()), args);
    }

    fn norm_kernel(&self, [x, weight, to]: [View; 3], op: &Norm) -> RmsNorm {
        RmsNorm {
            x: self.layout(x),
            weight: self.dtype(weight),
            out: self.layout(to),
            group: weight.columns,
            eps: op.eps,
            unit_offset: op.unit_offset,
            map: None,
        }
    }

    /// The gradient of a norm's input and, if it is asked for, that of its weight.
    pub(super) fn norm_grad(
        &mut self,
        [x, weight, dy]: [View; 3],
        dx: View,
        dweight: Option<View>,
        op: &NormGrad,
    ) {
        let spec = RmsNormGrad {
            dx: Some((self.dtype(weight), self.layout(dx))),
            dweight: dweight.is_some(),
            unit_offset: op.unit_offset,
            ..self.norm_grad_kernel(x, dy, weight.columns, op.eps)
        };
        self.norm_grads(&spec, &[x, dy, weight, dx], dweight);
    }

    /// The gradient of a norm's weight alone.
    pub(super) fn norm_weight_grad(&mut self, [x, dy]: [View; 2], dweight: View, eps: f32) {
        let spec = RmsNormGrad {
            dweight: true,
            ..self.norm_grad_kernel(x, dy, dweight.columns, eps)
        };
        self.norm_grads(&spec, &[x, dy], Some(dweight));
    }

    /// The gradients of a norm and a map that reads that of its input.
    pub(super) fn norm_grads_in_map(&mut self, step: &KernelStep, op: &NormGrad, map: &Map) {
        let [x, weight, dy] = [0, 1, 2].map(|i| step.operands[i]);
        let spec = RmsNormGrad {
            dx: Some((self.dtype(weight), self.layout(map.operands[0]))),
            dweight: true,
            unit_offset: op.unit_offset,
            map: Some(self.map_kernel(map)),
            ..self.norm_grad_kernel(x, dy, weight.columns, op.eps)
        };
        let mut views = vec![x, dy, weight];
        views.extend(&map.operands[1..]);
        views.extend(map.stores.iter().map(|s| s.to));
        self.norm_grads(&spec, &views, Some(step.results[0]));
    }

    fn norm_grad_kernel(&self, x: View, dy: View, group: usize, eps: f32) -> RmsNormGrad {
        RmsNormGrad {
            x: self.layout(x),
            dy: self.layout(dy),
            dx: None,
            dweight: false,
            group,
            eps,
            unit_offset: false,
            map: None,
        }
    }

    /// Launches the kernel and adds up what its blocks leave of the weight's gradient.
    fn norm_grads(&mut self, spec: &RmsNormGrad, views: &[View], dweight: Option<View>) {
        let mut args = Self::views(views);
        let parts = dweight.map(|_| self.scratch(spec.blocks() * spec.group * 4));
        args.extend(parts);
        self.launch(spec, line(spec.blocks()), args);
        if let (Some(parts), Some(to)) = (parts, dweight) {
            let (rows, columns) = (spec.blocks(), spec.group);
            let x = Layout {
                dtype: DType::F32,
                rows,
                columns,
                stride: columns,
                vector: 1,
            };
            let sum = ColumnSum { x, chunk: rows };
            self.launch(&sum, sum.grid(), vec![parts, Arg::View(to)]);
        }
    }
}
