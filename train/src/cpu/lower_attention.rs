//! Attention over whole sequences: its launches.

use rabitc_codegen::kernels::train::attention::{self, Heads};
use rabitc_codegen::kernels::train::attention_grad::{AttentionGrad, HeadDots, Side};
use rabitc_codegen::train::View;
use rabitc_ir::ops::attention_train::{AttentionLse, AttentionTrain};
use rabitc_ir::ops::attention_train_grad::AttentionTrainGrad;

use super::lower::Lower;
use crate::engine::EngineError;

/// What the kernels know of an attention op; v has k's stride where there is none.
macro_rules! heads {
    ($op:expr, $o:expr) => {
        Heads {
            n_heads: $op.n_heads,
            n_kv_heads: $op.n_kv_heads,
            head_dim: $op.head_dim,
            scale: $op.scale,
            window: $op.window,
            softcap: $op.softcap,
            seq_len: $op.seq_len,
            q_stride: $o[0].stride,
            k_stride: $o[1].stride,
            v_stride: $o.get(2).unwrap_or(&$o[1]).stride,
        }
    };
}

/// Attention of q, k and v, and the logarithms of its sums.
pub fn forward(
    l: &mut Lower<'_>,
    op: &AttentionTrain,
    o: &[View],
    y: Option<&View>,
    lse: Option<&View>,
) -> Result<(), EngineError> {
    run(l, heads!(op, o), o, y, lse)
}

/// The logarithms of the sums alone, from q and k.
pub fn lse(
    l: &mut Lower<'_>,
    op: &AttentionLse,
    o: &[View],
    lse: &View,
) -> Result<(), EngineError> {
    run(l, heads!(op, o), o, None, Some(lse))
}

fn run(
    l: &mut Lower<'_>,
    heads: Heads,
    o: &[View],
    y: Option<&View>,
    lse: Option<&View>,
) -> Result<(), EngineError> {
    fits(l, &heads)?;
    let operands = o.iter().chain(y).chain(lse);
    let pointers = operands.map(|view| l.at(view)).collect();
    let items = o[0].rows * heads.n_heads;
    let spec = attention::AttentionTrain {
        heads,
        values: y.is_some(),
        lse: lse.is_some(),
    };
    l.launch(spec, pointers, &[], items);
    Ok(())
}

/// The gradients of q, k and v from q, k, v, y, lse and dy.
pub fn gradient(
    l: &mut Lower<'_>,
    op: &AttentionTrainGrad,
    o: &[View],
    r: &View,
) -> Result<(), EngineError> {
    let heads = heads!(op, o);
    fits(l, &heads)?;
    let (y, lse, dy) = (&o[3], &o[4], &o[5]);
    let rows = o[0].rows;
    let delta = l.scratch(rows * heads.n_heads);
    let dots = HeadDots {
        heads: heads.n_heads,
        head_dim: heads.head_dim,
        a_stride: y.stride,
        b_stride: dy.stride,
    };
    let pointers = vec![l.at(y), l.at(dy), delta];
    l.launch(dots, pointers, &[], rows * heads.n_heads);
    let [q, k, v] = [0, 1, 2].map(|i| l.at(&o[i]));
    let pointers = vec![q, k, v, l.dense(lse)?, l.at(dy), delta, l.at(r)];
    for (side, count) in [
        (Side::Queries, heads.n_heads),
        (Side::Keys, heads.n_kv_heads),
    ] {
        if side == Side::Keys {
            l.beside();
        }
        let spec = AttentionGrad {
            side,
            heads,
            dy_stride: dy.stride,
        };
        l.launch(spec, pointers.clone(), &[], rows * count);
    }
    Ok(())
}

/// Refuses heads whose sums would not fit a kernel's stack.
fn fits(l: &Lower<'_>, heads: &Heads) -> Result<(), EngineError> {
    let (head_dim, most) = (heads.head_dim, attention::MOST_CHANNELS);
    match head_dim <= most {
        true => Ok(()),
        false => Err(l.error(format!("heads of {head_dim} channels; {most} are the most"))),
    }
}
