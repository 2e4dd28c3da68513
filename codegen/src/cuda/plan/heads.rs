//! Attention as launches: the heads' way from the projections, and attention itself.

use rabitc_ir::ops::attention::Attention;
use rabitc_ir::{NodeId, Op};
use rabitc_rbx::gpu::{Blocks, GpuArg, RopeTable};

use super::lower::Lowering;
use super::lowered::{Here, Operand};
use crate::CodegenError;
use crate::cuda::kernels::attention_decode::AttentionDecode;
use crate::cuda::kernels::attention_prefill::{AttentionPrefill, QUERIES};
use crate::cuda::kernels::attention_tokens::AttentionTokens;
use crate::cuda::kernels::cached_attention::CachedAttention;
use crate::cuda::kernels::heads::{Chain, Chains};
use crate::cuda::kernels::rotate_append::RotateAppend;
use crate::cuda::source::CudaSpec;

/// The widest head that the kernels' registers hold.
const MOST_CHANNELS: usize = 256;
/// Blocks that share the cache of a key/value head.
const SPLITS: usize = 8;

impl Lowering<'_, '_> {
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
        let over = self.over(op, chains);
        match self.mode.max_tokens {
            1 => self.attention_one(here, over, args, caches),
            _ if self.mode.many => self.attention_many(here, op, chains, args, caches),
            tokens => {
                let spec = AttentionTokens { over, tokens };
                match spec.shared_bytes() <= self.options.arch.shared_bytes() {
                    true => self.attention_few(here, spec.grid(), spec, args, caches),
                    false => return self.attention_many(here, op, chains, args, caches),
                }
                Ok(())
            }
        }
    }

    /// Attention over a cache that blocks of clusters split.
    fn over(&self, op: &Attention, chains: Chains) -> CachedAttention {
        CachedAttention {
            n_heads: op.n_heads,
            n_kv_heads: op.n_kv_heads,
            head_dim: op.head_dim,
            splits: match self.options.arch.has_clusters() {
                true => SPLITS,
                false => 1,
            },
            scale: op.scale,
            window: op.window,
            softcap: op.softcap,
            chains,
        }
    }

    fn attention_one(
        &mut self,
        here: &Here,
        over: CachedAttention,
        args: Vec<Operand>,
        caches: [Operand; 2],
    ) -> Result<(), CodegenError> {
        let spec = AttentionDecode { over };
        if spec.shared_bytes() > self.options.arch.shared_bytes() {
            return Err(self.unsupported(
                here.id,
                "attention needs more shared memory than a block has",
            ));
        }
        self.attention_few(here, spec.grid(), spec, args, caches);
        Ok(())
    }

    /// Attention in one launch.
    fn attention_few(
        &mut self,
        here: &Here,
        blocks: usize,
        spec: impl CudaSpec + 'static,
        mut args: Vec<Operand>,
        caches: [Operand; 2],
    ) {
        args.extend(caches);
        args.extend([self.result(here), Operand::Arg(GpuArg::State)]);
        let grid = [Blocks::Fixed(blocks as u32), Blocks::ONE, Blocks::ONE];
        self.launch(here, spec, grid, args);
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
            filled: AttentionPrefill::fills(op.n_heads, self.mode.max_tokens),
        };
        let mut args = vec![Operand::to(queries)];
        args.extend(caches);
        args.extend([self.result(here), Operand::Arg(GpuArg::State)]);
        let blocks = [
            Blocks::Fixed(op.n_heads as u32),
            here.blocks(QUERIES as u32),
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
