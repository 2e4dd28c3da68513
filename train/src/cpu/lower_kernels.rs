//! Steps that are neither products nor maps: the launches of each op.

use rabitc_codegen::kernels::Float;
use rabitc_codegen::kernels::embed::Embed;
use rabitc_codegen::kernels::rms_norm::RmsNorm;
use rabitc_codegen::kernels::rope::Rope;
use rabitc_codegen::kernels::train::column_sums::{self, ColumnSums, SumPartials, Terms};
use rabitc_codegen::kernels::train::effective_weight::{
    self, EffectiveScaleGrad, EffectiveWeight, Layer,
};
use rabitc_codegen::kernels::train::rms_norm_grad::RmsNormGrad;
use rabitc_codegen::kernels::train::scatter_add::ScatterAdd;
use rabitc_codegen::train::{Kernel, KernelStep, View};
use rabitc_ir::Op;
use rabitc_ir::ops::effective_weight::Derive;

use super::host::Host;
use super::lower::Lower;
use super::program::Pointer;
use super::{lower_attention as attention, lower_losses as losses};
use crate::engine::EngineError;

type Done = Result<(), EngineError>;

/// The launches of a step.
pub fn kernel(l: &mut Lower<'_>, step: &KernelStep) -> Done {
    let (o, r) = (&step.operands[..], &step.results[..]);
    for result in r {
        l.dense(result)?;
    }
    match &step.kernel {
        Kernel::AttentionWithLse(op) => attention::forward(l, op, o, Some(&r[0]), Some(&r[1])),
        Kernel::KlDivergenceWithGrad => losses::kl(l, o, Some(&r[0]), Some(&r[1])),
        Kernel::CrossEntropyWithGrad => {
            losses::cross_entropy(l, o, &r[0])?;
            losses::cross_entropy_grad(l, o, &r[1])
        }
        Kernel::SquaredErrorWithGrad(op) => {
            losses::squared_error(l, op.normalize, o, &r[0]);
            losses::squared_error_grad(l, op.normalize, o, &r[1]);
            Ok(())
        }
        Kernel::RmsNormGrads(op) => {
            rms_norm_grad(l, op.eps, op.unit_offset, o, &r[0]);
            let group = o[1].columns;
            rms_norm_weight_grad(l.beside(), op.eps, group, [&o[0], &o[2]], &r[1]);
            Ok(())
        }
        Kernel::RmsNormOfMap(..) | Kernel::RmsNormGradsInMap(..) => {
            let name = step.kernel.name();
            Err(l.error(format!("the CPU engine does not join norms: {name}")))
        }
        Kernel::Op(op) => single(l, op, o, &r[0], step.accumulate),
    }
}

/// The launches of one op.
fn single(l: &mut Lower<'_>, op: &Op, o: &[View], r: &View, accumulate: bool) -> Done {
    match op {
        Op::Embed(op) => embed(l, op.scale, o, r)?,
        Op::RmsNorm(op) => rms_norm(l, op.eps, op.unit_offset, o, r),
        Op::RmsNormGrad(op) => rms_norm_grad(l, op.eps, op.unit_offset, o, r),
        Op::RmsNormWeightGrad(op) => {
            rms_norm_weight_grad(l, op.eps, op.group, [&o[0], &o[1]], r);
        }
        Op::RopeTable(op) => rope_table(l, op.attention_factor, o, r)?,
        Op::Rope(_) => rope(l, false, o, r)?,
        Op::RopeGrad(_) => rope(l, true, o, r)?,
        Op::AttentionTrain(op) => attention::forward(l, op, o, Some(r), None)?,
        Op::AttentionLse(op) => attention::lse(l, op, o, r)?,
        Op::AttentionTrainGrad(op) => attention::gradient(l, op, o, r)?,
        Op::KlDivergence(_) => losses::kl(l, o, Some(r), None)?,
        Op::KlDivergenceGrad(_) => losses::kl(l, o, None, Some(r))?,
        Op::CrossEntropy(_) => losses::cross_entropy(l, o, r)?,
        Op::CrossEntropyGrad(_) => losses::cross_entropy_grad(l, o, r)?,
        Op::Sample(_) => sample(l, o, r)?,
        Op::SquaredError(op) => losses::squared_error(l, op.normalize, o, r),
        Op::SquaredErrorGrad(op) => losses::squared_error_grad(l, op.normalize, o, r),
        Op::EffectiveWeight(op) => effective_weight(l, op.derive, o, r)?,
        Op::EffectiveScaleGrad(op) => effective_scale_grad(l, op.derive, op.frozen, o, r)?,
        Op::ScatterAdd(op) => scatter_add(l, op.scale, o, r, accumulate)?,
        Op::SumRows(_) => column_sums(l, Terms::Rows, &o[0], None, r),
        op => return Err(l.error(format!("the CPU engine cannot run {}", op.name()))),
    }
    Ok(())
}

fn embed(l: &mut Lower<'_>, scale: f32, o: &[View], r: &View) -> Done {
    let (table, ids) = (&o[0], &o[1]);
    l.check(ids, table.rows, false)?;
    let spec = Embed {
        d: r.columns,
        table: Float::F32,
        scale,
    };
    let pointers = vec![l.at(ids), l.dense(table)?, l.at(r)];
    l.launch(spec, pointers, &[], r.rows);
    Ok(())
}

fn rms_norm(l: &mut Lower<'_>, eps: f32, unit_offset: bool, o: &[View], r: &View) {
    let spec = RmsNorm {
        d: r.columns,
        group: o[1].columns,
        x_stride: o[0].stride,
        weight: Float::F32,
        eps,
        unit_offset,
    };
    let pointers = vec![l.at(&o[0]), l.at(&o[1]), l.at(r)];
    l.launch(spec, pointers, &[], r.rows);
}

fn rms_norm_grad(l: &mut Lower<'_>, eps: f32, unit_offset: bool, o: &[View], r: &View) {
    let spec = RmsNormGrad {
        d: r.columns,
        group: o[1].columns,
        x_stride: o[0].stride,
        dy_stride: o[2].stride,
        eps,
        unit_offset,
    };
    let pointers = vec![l.at(&o[0]), l.at(&o[1]), l.at(&o[2]), l.at(r)];
    l.launch(spec, pointers, &[], r.rows);
}

fn rms_norm_weight_grad(l: &mut Lower<'_>, eps: f32, group: usize, o: [&View; 2], r: &View) {
    let terms = Terms::Normalized {
        group,
        eps,
        dy_stride: o[1].stride,
    };
    column_sums(l, terms, o[0], Some(o[1]), r);
}

fn column_sums(l: &mut Lower<'_>, terms: Terms, x: &View, dy: Option<&View>, r: &View) {
    let spec = ColumnSums {
        terms,
        d: x.columns,
        x_stride: x.stride,
    };
    let blocks = column_sums::block_count(x.rows);
    let partial = l.scratch(blocks * spec.width());
    let mut pointers = vec![l.at(x)];
    pointers.extend(dy.map(|dy| l.at(dy)));
    pointers.push(partial);
    l.launch(spec, pointers, &[x.rows], blocks);
    let to = l.at(r);
    sum_partials(l, partial, blocks, [1, r.columns], to, r.columns);
}

/// Adds up `[blocks, rows, d]`.
fn sum_partials(
    l: &mut Lower<'_>,
    partial: Pointer,
    blocks: usize,
    [rows, d]: [usize; 2],
    to: Pointer,
    out_stride: usize,
) {
    let spec = SumPartials {
        d,
        rows,
        out_stride,
    };
    let items = spec.items();
    l.launch(spec, vec![partial, to], &[blocks], items);
}

fn rope_table(l: &mut Lower<'_>, factor: f32, o: &[View], r: &View) -> Done {
    let host = Host::RopeTable {
        positions: l.at(&o[0]),
        inv_freq: l.dense(&o[1])?,
        half: o[1].columns,
        rows: r.rows,
        factor,
        to: l.at(r),
    };
    l.host(host);
    Ok(())
}

fn rope(l: &mut Lower<'_>, inverse: bool, o: &[View], r: &View) -> Done {
    let head_dim = o[1].columns;
    let spec = Rope {
        heads: r.columns / head_dim,
        head_dim,
        x_stride: o[0].stride,
        inverse,
    };
    let items = r.rows * spec.heads;
    let pointers = vec![l.at(&o[0]), l.dense(&o[1])?, l.at(r)];
    l.launch(spec, pointers, &[], items);
    Ok(())
}

/// The layer of scales g `[k, d_out]` and h `[k, d_in]`.
fn layer(derive: Derive, g: &View, h: &View) -> Layer {
    Layer {
        paths: g.rows,
        d_out: g.columns,
        d_in: h.columns,
        independent: derive == Derive::Independent,
    }
}

fn effective_weight(l: &mut Lower<'_>, derive: Derive, o: &[View], r: &View) -> Done {
    let layer = layer(derive, &o[0], &o[1]);
    let mut pointers = o
        .iter()
        .map(|view| l.dense(view))
        .collect::<Result<Vec<_>, _>>()?;
    pointers.push(l.at(r));
    l.launch(EffectiveWeight { layer }, pointers, &[], layer.d_out);
    Ok(())
}

fn effective_scale_grad(
    l: &mut Lower<'_>,
    derive: Derive,
    frozen: usize,
    o: &[View],
    r: &View,
) -> Done {
    let layer = layer(derive, &o[1], &o[2]);
    let Layer {
        paths, d_out, d_in, ..
    } = layer;
    let blocks = d_out.div_ceil(effective_weight::BLOCK);
    let partial = l.scratch(blocks * paths * d_in);
    let mut pointers = o
        .iter()
        .map(|view| l.dense(view))
        .collect::<Result<Vec<_>, _>>()?;
    pointers.extend([l.at(r), partial]);
    l.launch(EffectiveScaleGrad { layer, frozen }, pointers, &[], blocks);
    let dh = l.at(r).plus(d_out);
    sum_partials(l, partial, blocks, [paths, d_in], dh, d_out + d_in);
    Ok(())
}

fn sample(l: &mut Lower<'_>, o: &[View], r: &View) -> Done {
    let host = Host::Sample {
        logits: l.at(&o[0]),
        stride: o[0].stride,
        columns: o[0].columns,
        draws: l.dense(&o[1])?,
        rows: o[0].rows,
        to: l.at(r),
    };
    l.host(host);
    Ok(())
}

fn scatter_add(l: &mut Lower<'_>, scale: f32, o: &[View], r: &View, accumulate: bool) -> Done {
    l.check(&o[1], r.rows, false)?;
    let spec = ScatterAdd {
        d: r.columns,
        x_stride: o[0].stride,
        scale,
        zeroed: (!accumulate).then_some(r.rows),
    };
    let items = spec.items();
    let pointers = vec![l.at(&o[0]), l.at(&o[1]), l.at(r)];
    l.launch(spec, pointers, &[o[0].rows], items);
    Ok(())
}
