//! Steps that are neither products nor maps: one function a kind.

use rabitc_ir::ops::attention_train::{AttentionLse, AttentionTrain};
use rabitc_ir::ops::attention_train_grad::AttentionTrainGrad;
use rabitc_ir::ops::effective_weight::Derive;
use rabitc_ir::ops::squared_error::Normalize;
use rabitc_ir::{DType, Op};

use super::{Arg, Lower, line};
use crate::CodegenError;
use crate::cuda::kernels::train::attention::{Attention, Heads, MOST_CHANNELS};
use crate::cuda::kernels::train::attention_grad::{AttentionDelta, AttentionGrad};
use crate::cuda::kernels::train::column_sum::ColumnSum;
use crate::cuda::kernels::train::cross_entropy::CrossEntropy;
use crate::cuda::kernels::train::effective_scale_grad::{EffectiveScaleGrad, JoinScaleGrads};
use crate::cuda::kernels::train::effective_weight::{Cores, EffectiveWeight};
use crate::cuda::kernels::train::embed::Embed;
use crate::cuda::kernels::train::kl_divergence::KlDivergence;
use crate::cuda::kernels::train::rms_norm::RmsNorm;
use crate::cuda::kernels::train::rms_norm_grad::RmsNormGrad;
use crate::cuda::kernels::train::rope::{Rope, RopeTable};
use crate::cuda::kernels::train::row_reduce::{Reduce, RowReduce};
use crate::cuda::kernels::train::scatter_add::ScatterAdd;
use crate::cuda::kernels::train::squared_error::{SquaredError, SquaredErrorGrad};
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

impl Lower<'_> {
    pub(super) fn kernel(&mut self, step: &KernelStep) -> Result<(), CodegenError> {
        let (o, to) = (&step.operands[..], step.results[0]);
        match &step.kernel {
            Kernel::AttentionWithLse(op) => {
                let AttentionTrain { .. } = op;
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
                let AttentionLse { .. } = op;
                return self.attention(step, heads!(op, o[0].rows), None, Some(to));
            }
            Op::AttentionTrainGrad(op) => return self.attention_grad(step, op),
            Op::KlDivergence(_) => self.divergence(o, Some(to), None),
            Op::KlDivergenceGrad(_) => self.divergence(o, None, Some(to)),
            Op::CrossEntropy(_) => self.cross_entropy(o, to),
            Op::CrossEntropyGrad(_) => self.cross_entropy_grad(o, to),
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

    fn views(views: &[View]) -> Vec<Arg> {
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

    fn check_heads(&self, step: &KernelStep, heads: &Heads) -> Result<(), CodegenError> {
        let matrices = step.operands.iter().filter(|v| v.columns != heads.n_heads);
        let found = matrices.map(|v| self.dtype(*v)).find(|d| *d != DType::BF16);
        match (heads.head_dim > MOST_CHANNELS, found) {
            (true, _) => {
                let dim = heads.head_dim;
                let reason = format!("heads of {dim} channels; {MOST_CHANNELS} are supported");
                Err(refuse(step, reason))
            }
            (_, Some(dtype)) => {
                let reason = format!("attention reads bf16, its operand is {dtype}");
                Err(refuse(step, reason))
            }
            _ => Ok(()),
        }
    }

    fn attention(
        &mut self,
        step: &KernelStep,
        heads: Heads,
        y: Option<View>,
        lse: Option<View>,
    ) -> Result<(), CodegenError> {
        self.check_heads(step, &heads)?;
        let o = &step.operands;
        // Without values, keys stand in for them: nothing is stored of what comes of it.
        let qkv = [o[0], o[1], *o.get(2).unwrap_or(&o[1])];
        let spec = Attention {
            heads,
            qkv: qkv.map(|v| self.layout(v)),
            y: y.map(|v| self.layout(v)),
            lse: lse.is_some(),
        };
        let results = y.into_iter().chain(lse);
        let args = qkv.into_iter().chain(results).map(Arg::View).collect();
        self.launch(&spec, spec.grid(), args);
        Ok(())
    }

    fn attention_grad(
        &mut self,
        step: &KernelStep,
        op: &AttentionTrainGrad,
    ) -> Result<(), CodegenError> {
        let [q, k, v, y, lse, dy] = [0, 1, 2, 3, 4, 5].map(|i| step.operands[i]);
        let to = step.results[0];
        let heads = heads!(op, q.rows);
        self.check_heads(step, &heads)?;
        let sums = AttentionDelta {
            head_dim: op.head_dim,
            y: self.layout(y),
            dy: self.layout(dy),
        };
        let delta = self.scratch(q.rows * op.n_heads * 4);
        let args = vec![Arg::View(y), Arg::View(dy), delta];
        self.launch(&sums, line(sums.blocks()), args);
        for of_queries in [true, false] {
            let spec = AttentionGrad {
                heads,
                operands: [q, k, v, dy].map(|v| self.layout(v)),
                out: self.layout(to),
                of_queries,
            };
            let mut args = Self::views(&[q, k, v, dy, lse]);
            args.extend([delta, Arg::View(to)]);
            self.launch(&spec, spec.grid(), args);
        }
        Ok(())
    }

    /// The end of a loss: pairs of numbers to their ratio.
    fn reduce(&mut self, rows: usize, pairs: Arg, reduce: Reduce, to: Arg) {
        self.launch(&RowReduce { rows, reduce }, line(1), vec![pairs, to]);
    }

    fn divergence(&mut self, o: &[View], loss: Option<View>, gradient: Option<View>) {
        let spec = KlDivergence {
            teacher: self.layout(o[0]),
            student: self.layout(o[1]),
            loss: loss.is_some(),
            gradient: gradient.map(|g| self.layout(g)),
        };
        let rows = o[1].rows;
        let mut args = Self::views(&o[..2]);
        args.extend(gradient.iter().flat_map(|g| Self::views(&[o[2], *g])));
        let pairs = loss.map(|_| self.scratch(rows * 8));
        args.extend(pairs);
        self.launch(&spec, line(rows), args);
        if let (Some(pairs), Some(loss)) = (pairs, loss) {
            self.reduce(rows, pairs, Reduce::Ratio, Arg::View(loss));
        }
    }

    fn cross_entropy(&mut self, o: &[View], to: View) {
        let (logits, gradient) = (self.layout(o[0]), None);
        let pairs = self.scratch(o[0].rows * 8);
        let args = vec![Arg::View(o[0]), Arg::View(o[1]), pairs];
        let spec = CrossEntropy { logits, gradient };
        self.launch(&spec, line(o[0].rows), args);
        self.reduce(o[0].rows, pairs, Reduce::Ratio, Arg::View(to));
    }

    fn cross_entropy_grad(&mut self, o: &[View], to: View) {
        let (logits, gradient) = (self.layout(o[0]), Some(self.layout(to)));
        let spec = CrossEntropy { logits, gradient };
        let args = Self::views(&[o[0], o[1], o[2], to]);
        self.launch(&spec, line(o[0].rows), args);
    }

    /// The pairs that a squared error is the ratio of.
    fn error_pairs(&mut self, o: &[View], normalize: Normalize) -> Arg {
        let spec = SquaredError {
            x: self.layout(o[0]),
            target: self.layout(o[1]),
            normalize,
        };
        let rows = o[0].rows;
        let pairs = self.scratch(rows * 8);
        let args = vec![Arg::View(o[0]), Arg::View(o[1]), pairs];
        self.launch(&spec, line(rows.div_ceil(8)), args);
        pairs
    }

    fn squared_error(&mut self, o: &[View], to: View, normalize: Normalize) {
        let pairs = self.error_pairs(o, normalize);
        self.reduce(o[0].rows, pairs, Reduce::Ratio, Arg::View(to));
    }

    fn squared_error_grad(&mut self, o: &[View], to: View, normalize: Normalize) {
        let mut args = Self::views(&[o[0], o[1], o[2], to]);
        if normalize == Normalize::Target {
            let pairs = self.error_pairs(o, normalize);
            let total = self.scratch(4);
            self.reduce(o[0].rows, pairs, Reduce::Second, total);
            args.push(total);
        }
        let spec = SquaredErrorGrad {
            x: self.layout(o[0]),
            target: self.layout(o[1]),
            out: self.layout(to),
            normalize,
        };
        self.launch(&spec, line(o[0].rows.div_ceil(8)), args);
    }

    /// Requires scales as the kernels read them: f32, row after row.
    fn check_scales(&self, step: &KernelStep, scales: &[View]) -> Result<(), CodegenError> {
        let fits = |v: &View| self.dtype(*v) == DType::F32 && v.is_dense();
        match scales.iter().all(fits) {
            true => Ok(()),
            false => Err(refuse(step, "scales must be dense and f32".into())),
        }
    }

    /// The cores of g, h and latent weights.
    fn cores(&self, o: &[View], derive: Derive) -> Cores {
        Cores {
            paths: o[0].rows,
            latent: self.layout(o[2]),
            derive,
        }
    }

    fn effective_weight(&mut self, o: &[View], to: View, derive: Derive) {
        let spec = EffectiveWeight {
            cores: self.cores(o, derive),
            out: self.layout(to),
        };
        let mut args = Self::views(o);
        args.push(Arg::View(to));
        self.launch(&spec, line(spec.blocks()), args);
    }

    fn scale_grad(&mut self, o: &[View], to: View, derive: Derive, frozen: usize) {
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

fn refuse(step: &KernelStep, reason: String) -> CodegenError {
    CodegenError::plan(format!("%{}: {reason}", step.node))
}
