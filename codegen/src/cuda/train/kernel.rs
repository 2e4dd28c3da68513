//! Steps that are neither products nor maps: one function a kind.

use rabitc_ir::{DType, Op};

use super::{Arg, Lower, line};
use crate::CodegenError;
use crate::cuda::kernels::train::attention::Heads;
use crate::cuda::kernels::train::column_sum::ColumnSum;
use crate::cuda::kernels::train::embed::Embed;
use crate::cuda::kernels::train::rms_norm::RmsNorm;
use crate::cuda::kernels::train::rms_norm_grad::RmsNormGrad;
use crate::cuda::kernels::train::rope::{Rope, RopeTable};
use crate::cuda::kernels::train::scatter_add::ScatterAdd;
use crate::train::{Kernel, KernelStep, View};

/// Rows that one block adds up.
const CHUNK: usize = 512;

/// The attributes that attention ops share.
macro_rules! heads {
    ($op:expr, $rows:expr) => {
        Heads {
            n_heads: $op.n_heads,
            n_kv_heads: $op.n_kv_heads,
            head_dim: $op.head_dim,
            scale: $op.scale,
            window: $op.window,
            softcap: $op.softcap,
            seq_len: $op.seq_len,
            rows: $rows,
        }
    };
}
pub(super) use heads;

impl Lower<'_> {
    pub(super) fn kernel(&mut self, step: &KernelStep) -> Result<(), CodegenError> {
        let (o, to) = (&step.operands[..], step.results[0]);
        match &step.kernel {
            Kernel::AttentionWithLse(op) => {
                let heads = heads!(op, o[0].rows);
                self.attention(step, heads, Some(to), Some(step.results[1]))
            }
            Kernel::KlDivergenceWithGrad => {
                self.divergence(o, Some(to), Some(step.results[1]));
                Ok(())
            }
            Kernel::RmsNormGrads(op) => {
                let weight = Some((o[1], to));
                let dweight = Some(step.results[1]);
                self.norm_grad(o[0], o[2], weight, dweight, (op.eps, op.unit_offset))
            }
            Kernel::Op(op) => self.op(step, op, o, to),
        }
    }

    fn op(&mut self, step: &KernelStep, op: &Op, o: &[View], to: View) -> Result<(), CodegenError> {
        match op {
            Op::Embed(op) => self.embed(o, to, op.scale),
            Op::ScatterAdd(op) => self.scatter_add(o, to, op.scale, step.accumulate),
            Op::RmsNorm(op) => self.norm(o, to, op.eps, op.unit_offset),
            Op::RmsNormGrad(op) => {
                let weight = Some((o[1], to));
                return self.norm_grad(o[0], o[2], weight, None, (op.eps, op.unit_offset));
            }
            Op::RmsNormWeightGrad(op) => {
                return self.norm_grad(o[0], o[1], None, Some(to), (op.eps, false));
            }
            Op::RopeTable(op) => self.rope_table(o, to, op.attention_factor),
            Op::Rope(_) => self.rope(o, to, false),
            Op::RopeGrad(_) => self.rope(o, to, true),
            Op::AttentionTrain(op) => {
                return self.attention(step, heads!(op, o[0].rows), Some(to), None);
            }
            Op::AttentionLse(op) => {
                return self.attention(step, heads!(op, o[0].rows), None, Some(to));
            }
            Op::AttentionTrainGrad(op) => return self.attention_grad(step, op),
            Op::KlDivergence(_) => self.divergence(o, Some(to), None),
            Op::KlDivergenceGrad(_) => self.divergence(o, None, Some(to)),
            Op::CrossEntropy(_) => self.cross_entropy(o, to),
            Op::CrossEntropyGrad(_) => self.cross_entropy_grad(o, to),
            Op::Sample(_) => self.sample(o, to),
            Op::SquaredError(op) => self.squared_error(o, to, op.normalize),
            Op::SquaredErrorGrad(op) => self.squared_error_grad(o, to, op.normalize),
            Op::EffectiveWeight(op) => {
                self.check_scales(step, &o[..2])?;
                self.effective_weight(o, to, op.derive);
            }
            Op::EffectiveScaleGrad(op) => {
                self.check_scales(step, &o[1..3])?;
                self.scale_grad(o, to, op.derive, op.frozen);
            }
            Op::SumRows(_) => self.column_sum(o[0], Arg::View(to)),
            op => {
                return Err(refuse(
                    step,
                    format!("no GPU kernel computes {}", op.name()),
                ));
            }
        }
        Ok(())
    }

    /// Arguments of views.
    pub(super) fn views(views: &[View]) -> Vec<Arg> {
        views.iter().map(|v| Arg::View(*v)).collect()
    }

    fn embed(&mut self, o: &[View], to: View, scale: f32) {
        let (table, out) = (self.layout(o[0]), self.layout(to));
        let spec = Embed { table, out, scale };
        self.launch(&spec, line(spec.blocks()), Self::views(&[o[0], o[1], to]));
    }

    fn scatter_add(&mut self, o: &[View], to: View, scale: f32, accumulate: bool) {
        let spec = ScatterAdd {
            x: self.layout(o[0]),
            rows: to.rows,
            scale,
            accumulate,
        };
        self.launch(&spec, line(to.rows), Self::views(&[o[0], o[1], to]));
    }

    fn norm(&mut self, o: &[View], to: View, eps: f32, unit_offset: bool) {
        let spec = RmsNorm {
            x: self.layout(o[0]),
            weight: self.dtype(o[1]),
            out: self.layout(to),
            group: o[1].columns,
            eps,
            unit_offset,
        };
        self.launch(&spec, line(spec.blocks()), Self::views(&[o[0], o[1], to]));
    }

    /// Gradients of a norm: that of x, given its weight, and that of the weight.
    fn norm_grad(
        &mut self,
        x: View,
        dy: View,
        weight: Option<(View, View)>,
        dweight: Option<View>,
        (eps, unit_offset): (f32, bool),
    ) -> Result<(), CodegenError> {
        let group = weight
            .map(|(w, _)| w.columns)
            .or(dweight.map(|d| d.columns));
        let spec = RmsNormGrad {
            x: self.layout(x),
            dy: self.layout(dy),
            dx: weight.map(|(w, dx)| (self.dtype(w), self.layout(dx))),
            dweight: dweight.is_some(),
            group: group.unwrap_or(x.columns),
            eps,
            unit_offset,
        };
        let mut args = Self::views(&[x, dy]);
        args.extend(weight.iter().flat_map(|(w, dx)| Self::views(&[*w, *dx])));
        let parts = dweight.map(|_| self.scratch(spec.blocks() * spec.group * 4));
        args.extend(parts);
        self.launch(&spec, line(spec.blocks()), args);
        if let (Some(parts), Some(to)) = (parts, dweight) {
            let (rows, columns) = (spec.blocks(), spec.group);
            let chunk = rows;
            let x = super::Layout {
                dtype: DType::F32,
                rows,
                columns,
                stride: columns,
                vector: 1,
            };
            let sum = ColumnSum { x, chunk };
            self.launch(&sum, sum.grid(), vec![parts, Arg::View(to)]);
        }
        Ok(())
    }

    fn rope_table(&mut self, o: &[View], to: View, factor: f32) {
        let (rows, half) = (to.rows, to.columns / 2);
        let spec = RopeTable { rows, half, factor };
        let blocks = (rows * half).div_ceil(256);
        self.launch(&spec, line(blocks), Self::views(&[o[0], o[1], to]));
    }

    fn rope(&mut self, o: &[View], to: View, back: bool) {
        let spec = Rope {
            x: self.layout(o[0]),
            out: self.layout(to),
            half: o[1].columns / 2,
            back,
        };
        self.launch(&spec, line(spec.blocks()), Self::views(&[o[0], o[1], to]));
    }

    fn column_sum(&mut self, x: View, to: Arg) {
        let first = ColumnSum {
            x: self.layout(x),
            chunk: CHUNK,
        };
        let chunks = x.rows.div_ceil(CHUNK);
        if chunks <= 1 {
            self.launch(&first, first.grid(), vec![Arg::View(x), to]);
            return;
        }
        let parts = self.scratch(chunks * x.columns * 4);
        self.launch(&first, first.grid(), vec![Arg::View(x), parts]);
        let second = ColumnSum {
            x: super::Layout {
                dtype: DType::F32,
                rows: chunks,
                columns: x.columns,
                stride: x.columns,
                vector: 1,
            },
            chunk: chunks,
        };
        self.launch(&second, second.grid(), vec![parts, to]);
    }
}

/// An error that names the step's node.
pub(super) fn refuse(step: &KernelStep, reason: String) -> CodegenError {
    CodegenError::plan(format!("%{}: {reason}", step.node))
}
