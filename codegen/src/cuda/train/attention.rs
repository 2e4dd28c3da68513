//! Attention and its gradient.

use rabitc_ir::DType;
use rabitc_ir::ops::attention_train_grad::AttentionTrainGrad;

use super::kernel::{heads, refuse};
use super::{Arg, Lower};
use crate::CodegenError;
use crate::cuda::kernels::train::attention::{Attention, Heads, MOST_CHANNELS};
use crate::cuda::kernels::train::attention_grad::{AttentionGradPositions, AttentionGradQueries};
use crate::train::{KernelStep, View};

impl Lower<'_> {
    pub(super) fn check_heads(&self, step: &KernelStep, heads: &Heads) -> Result<(), CodegenError> {
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

    pub(super) fn attention(
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

    pub(super) fn attention_grad(
        &mut self,
        step: &KernelStep,
        op: &AttentionTrainGrad,
    ) -> Result<(), CodegenError> {
        let [q, k, v, y, lse, dy] = [0, 1, 2, 3, 4, 5].map(|i| step.operands[i]);
        let to = step.results[0];
        let heads = heads!(op, q.rows);
        self.check_heads(step, &heads)?;
        let operands = [q, k, v, dy].map(|v| self.layout(v));
        let [y_layout, out] = [y, to].map(|v| self.layout(v));
        let parts = self.scratch(q.rows * op.n_heads * 8);
        let queries = AttentionGradQueries {
            heads,
            operands,
            y: y_layout,
            out,
        };
        let mut args = Self::views(&[q, k, v, dy, y, lse]);
        args.extend([parts, Arg::View(to)]);
        self.launch(&queries, queries.grid(), args);
        let positions = AttentionGradPositions {
            heads,
            operands,
            out,
        };
        let mut args = Self::views(&[q, k, v, dy]);
        args.extend([parts, Arg::View(to)]);
        self.launch(&positions, positions.grid(), args);
        Ok(())
    }
}
