//! Steps that are neither products nor maps: one function a kind.

use rabitc_ir::{DType, Op};

use super::{Arg, Lower, line};
use crate::CodegenError;
use crate::cuda::kernels::train::attention::Heads;
use crate::cuda::kernels::train::column_sum::ColumnSum;
use crate::cuda::kernels::train::embed::Embed;
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
            Kernel::CrossEntropyWithGrad => {
                self.cross_entropy(o, Some(to), Some(step.results[1]));
                Ok(())
            }
            Kernel::SquaredErrorWithGrad(op) => {
                self.squared_error(o, Some(to), Some(step.results[1]), op.normalize);
                Ok(())
            }
            Kernel::RmsNormGrads(op) => {
                self.norm_grad([o[0], o[1], o[2]], to, Some(step.results[1]), op);
                Ok(())
            }
            Kernel::RmsNormOfMap(op, map) => {
                self.norm_of_map(step, op, map);
                Ok(())
            }
            Kernel::RmsNormGradsInMap(op, map) => {
                self.norm_grads_in_map(step, op, map);
                Ok(())
            }
            Kernel::Op(op) => self.op(step, op, o, to),
        }
    }

    fn op(&mut self, step: &KernelStep, op: &Op, o: &[View], to: View) -> Result<(), CodegenError> {
        match op {
            Op::Embed(op) => self.embed(o, to, op.scale),
            Op::ScatterAdd(op) => self.scatter_add(o, to, op.scale, step.accumulate),
            Op::RmsNorm(op) => self.norm([o[0], o[1]], to, op),
            Op::RmsNormGrad(op) => self.norm_grad([o[0], o[1], o[2]], to, None, op),
            Op::RmsNormWeightGrad(op) => self.norm_weight_grad([o[0], o[1]], to, op.eps),
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
            Op::CrossEntropy(_) => self.cross_entropy(o, Some(to), None),
            Op::CrossEntropyGrad(_) => self.cross_entropy(o, None, Some(to)),
            Op::Sample(_) => self.sample(o, to),
            Op::SquaredError(op) => self.squared_error(o, Some(to), None, op.normalize),
            Op::SquaredErrorGrad(op) => self.squared_error(o, None, Some(to), op.normalize),
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
        self.launch(&spec, line(spec.blocks()), Self::views(&[o[0], o[1], to]));
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
