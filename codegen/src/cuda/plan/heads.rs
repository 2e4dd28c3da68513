//! Attention as launches: the heads' way from the projections, and attention itself.

use rabitc_ir::ops::attention::Attention;
use rabitc_ir::{NodeId, Op};
use rabitc_rbx::gpu::{Blocks, GpuArg, RopeTable};

use super::lower::{Here, Lowering, Operand};
use crate::CodegenError;
use crate::cuda::kernels::attention_decode::AttentionDecode;
use crate::cuda::kernels::attention_prefill::{AttentionPrefill, QUERIES};
use crate::cuda::kernels::heads::{Chain, Chains};
use crate::cuda::kernels::rotate_append::RotateAppend;

/// The widest head that the kernels' registers hold.
const MOST_CHANNELS: usize = 256;
/// Blocks that share the cache of a key/value head.
const SPLITS: usize = 8;

impl Lowering<'_> {
    pub(super) fn attention(&mut self, here: &Here, op: &Attention) -> Result<(), CodegenError> {
        if !op.head_dim.is_multiple_of(2) || op.head_dim > MOST_CHANNELS {
            let reason = format!(
                "heads of {} channels; GPU kernels have even ones up to {MOST_CHANNELS}",
                op.head_dim
            );
            return Err(self.unsupported(here.id, &reason));
        }
        let mut args = Vec::new();
        let mut chain = |operand| self.chain(here.operands[operand], op.head_dim, &mut args);
        let chains = Chains {
            q: chain(0)?,
            k: chain(1)?,
            v: chain(2)?,
        };
        if chains.v.rope {
            return Err(self.unsupported(here.id, "values are rotated"));
        }
        let caches = [GpuArg::Keys(op.layer), GpuArg::Values(op.layer)].map(Operand::Arg);
        match self.mode.many {
            true => self.attention_many(here, op, chains, args, caches),
            false => self.attention_few(here, op, chains, args, caches),
        }
    }

    fn attention_few(
        &mut self,
        here: &Here,
        op: &Attention,
        chains: Chains,
        mut args: Vec<Operand>,
        caches: [Operand; 2],
    ) -> Result<(), CodegenError> {
        let spec = AttentionDecode {
            n_heads: op.n_heads,
            n_kv_heads: op.n_kv_heads,
            head_dim: op.head_dim,
            tokens: self.mode.max_tokens,
            splits: if self.options.arch.has_clusters() {
                SPLITS
            } else {
                1
            },
            scale: op.scale,
            window: op.window,
            softcap: op.softcap,
            chains,
        };
        if spec.shared_bytes() > self.options.arch.shared_bytes() {
            return Err(self.unsupported(
                here.id,
                "attention needs more shared memory than a block has",
            ));
        }
        args.extend(caches);
        args.extend([self.result(here), Operand::Arg(GpuArg::State)]);
        let blocks = Blocks::Fixed(spec.grid() as u32);
        self.launch(here, spec, [blocks, Blocks::ONE, Blocks::ONE], args);
        Ok(())
    }

    fn attention_many(
        &mut self,
        here: &Here,
        op: &Attention,
        chains: Chains,
        mut args: Vec<Operand>,
        caches: [Operand; 2],
    ) -> Result<(), CodegenError> {
        let append = RotateAppend {
            n_heads: op.n_heads,
            n_kv_heads: op.n_kv_heads,
            head_dim: op.head_dim,
            scale: op.scale,
            chains,
        };
        let queries = self.buffer(op.n_heads * append.padded() * 2);
        args.push(Operand::to(queries));
        args.extend(caches.clone());
        args.push(Operand::Arg(GpuArg::State));
        let blocks = [
            here.blocks(1),
            Blocks::Fixed(append.grid() as u32),
            Blocks::ONE,
        ];
        self.launch(here, append, blocks, args);
        let spec = AttentionPrefill {
            n_heads: op.n_heads,
            n_kv_heads: op.n_kv_heads,
            head_dim: op.head_dim,
            window: op.window,
            softcap: op.softcap,
        };
        let mut args = vec![Operand::to(queries)];
        args.extend(caches);
        args.extend([self.result(here), Operand::Arg(GpuArg::State)]);
        let blocks = [
            here.blocks(QUERIES as u32),
            Blocks::Fixed(op.n_heads as u32),
            Blocks::ONE,
        ];
        self.launch(here, spec, blocks, args);
        Ok(())
    }

    /// The steps behind an operand of attention, last first, and the pointers they need, in the
    /// order of [`Chains::declare`].
    fn chain(
        &mut self,
        mut id: NodeId,
        head_dim: usize,
        args: &mut Vec<Operand>,
    ) -> Result<Chain, CodegenError> {
        let mut chain = Chain {
            stride: 0,
            bias: None,
            norm: None,
            rope: false,
        };
        let (mut bias, mut norm, mut rope) = (None, None, None);
        while self.fusions.heads.contains(&id) {
            let operands = self.graph.operands(id);
            match self.graph.op(id) {
                Op::Rope(_) if rope.is_none() && norm.is_none() && bias.is_none() => {
                    rope = Some(self.rope_table(operands[1])?);
                }
                Op::RmsNorm(op) if norm.is_none() && bias.is_none() => {
                    if self.graph.ty(operands[1]).last() != Some(head_dim) {
                        return Err(self.unsupported(
                            id,
                            "a norm over something else than heads before attention",
                        ));
                    }
                    chain.norm = Some((self.float(operands[1])?, op.eps, op.unit_offset));
                    norm = Some(Operand::Arg(self.weight(operands[1])?));
                }
                Op::AddBias(_) if bias.is_none() => {
                    chain.bias = Some(self.float(operands[1])?);
                    bias = Some(Operand::Arg(self.weight(operands[1])?));
                }
                _ => {
                    return Err(
                        self.unsupported(id, "stands in an unexpected place before attention")
                    );
                }
            }
            id = operands[0];
        }
        let x = self.view(id)?;
        chain.stride = x.stride;
        chain.rope = rope.is_some();
        args.push(x.read());
        args.extend(bias.into_iter().chain(norm).chain(rope));
        Ok(chain)
    }

    fn rope_table(&mut self, id: NodeId) -> Result<Operand, CodegenError> {
        let Op::RopeTable(op) = self.graph.op(id) else {
            return Err(self.unsupported(id, "is no rotary table"));
        };
        let Op::Const(inv_freq) = self.graph.op(self.graph.operands(id)[1]) else {
            return Err(self.unsupported(id, "has frequencies that are not constant"));
        };
        let table = RopeTable {
            inv_freq: inv_freq.data.clone(),
            attention_factor: op.attention_factor,
        };
        Ok(Operand::Arg(GpuArg::Rope(self.table.rope(table))))
    }
}
