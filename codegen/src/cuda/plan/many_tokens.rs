//! The residual-binary layer of many tokens as launches.

use rabitc_ir::ops::residual_binary::Prologue;
use rabitc_rbx::gpu::{Blocks, GpuArg};

use super::fuse::gate_source;
use super::lower::Lowering;
use super::lowered::{Here, Operand};
use super::residual_binary::Layer;
use crate::CodegenError;
use crate::cuda::kernels::rb_prefill::{self, RbPrefill};
use crate::cuda::kernels::rb_prefill_wgmma::{PrefillTile, RbPrefillWgmma};
use crate::cuda::kernels::rb_prepare::{Before, Order, RbPrepare};

impl Lowering<'_, '_> {
    /// Two kernels: one makes the input in f16, one multiplies.
    pub(super) fn many_tokens(
        &mut self,
        here: &Here,
        layer: Layer<'_>,
    ) -> Result<(), CodegenError> {
        match self.options.arch.has_clusters() {
            true => self.product_of_clusters(here, layer),
            false => self.product_of_warps(here, layer),
        }
    }

    /// Pointers of a product of many tokens, all but the result and the state.
    fn many_args(
        &mut self,
        here: &Here,
        layer: &Layer<'_>,
        order: Order,
    ) -> Result<Vec<Operand>, CodegenError> {
        let mut args = self.prepare(here, layer, order)?;
        let packed = layer.packed;
        args.extend(
            [packed.signs, packed.g, packed.h_steps].map(|d| Operand::Arg(GpuArg::Derived(d))),
        );
        args.extend(layer.residual.map(|r| r.read()));
        Ok(args)
    }

    /// The input of a product of many tokens in f16; gives it and its factors.
    fn prepare(
        &mut self,
        here: &Here,
        layer: &Layer<'_>,
        order: Order,
    ) -> Result<Vec<Operand>, CodegenError> {
        let gated = gate_source(
            self.graph,
            here.operands[0],
            here.operands[1 % here.operands.len()],
        );
        let (x, mut args, before) = match (layer.op.prologue, gated) {
            (Prologue::None, _) => (self.view(here.operands[0])?, Vec::new(), Before::Nothing),
            (Prologue::RmsNorm, _) => {
                let before = Before::Norm(layer.op.eps);
                (self.view(here.operands[0])?, Vec::new(), before)
            }
            (Prologue::Gate, Some(product)) if self.gates_in_product() => {
                (self.view(product)?, Vec::new(), Before::Nothing)
            }
            (Prologue::Gate, _) => {
                let (x, up) = (self.view(here.operands[0])?, self.view(here.operands[1])?);
                (x, vec![up.read()], Before::Gate(layer.op.act, up.stride))
            }
        };
        args.insert(0, x.read());
        let prepare = RbPrepare {
            d_in: layer.layout.stored.d_in,
            x_stride: x.stride,
            x_aligned: x.aligned(4) && layer.layout.stored.d_in.is_multiple_of(4),
            before,
            order,
        };
        let prepared = [self.buffer(prepare.padded() * 2), self.buffer(4)].map(Operand::to);
        args.extend(prepared.clone());
        let blocks = [here.blocks(1), Blocks::ONE, Blocks::ONE];
        self.launch(here, prepare, blocks, args);
        Ok(prepared.into())
    }

    fn product_of_clusters(&mut self, here: &Here, layer: Layer<'_>) -> Result<(), CodegenError> {
        let wanted = RbPrefillWgmma {
            finish: self.finish(here, &layer),
            layout: layer.layout.clone(),
            most: here.most(self.mode),
            by_rows: here.by_rows(),
            tile: PrefillTile {
                tokens: 128,
                stages: 2,
            },
        };
        let product = self.table.cut(&wanted, self.options.arch);
        let product = product.ok_or_else(|| self.does_not_fit(here))?;
        let mut args = self.many_args(here, &layer, Order::Units(product.tile.tokens))?;
        let blocks = Blocks::Fixed(product.grid() as u32);
        args.push(self.result_of(here.id, product.columns()));
        args.push(Operand::Arg(GpuArg::State));
        self.launch(here, product, [blocks, Blocks::ONE, Blocks::ONE], args);
        Ok(())
    }

    fn product_of_warps(&mut self, here: &Here, layer: Layer<'_>) -> Result<(), CodegenError> {
        let wanted = RbPrefill {
            layout: layer.layout.clone(),
            residual: layer.residual.map(|r| r.stride),
            most: here.most(self.mode),
            by_rows: here.by_rows(),
            warp_tiles: 1,
        };
        let product = self.table.cut(&wanted, self.options.arch);
        let product = product.ok_or_else(|| self.does_not_fit(here))?;
        let mut args = self.many_args(here, &layer, Order::Tokens)?;
        let blocks = [
            here.blocks(rb_prefill::TOKENS as u32),
            Blocks::Fixed(product.grid() as u32),
            Blocks::ONE,
        ];
        args.push(self.result_of(here.id, layer.layout.stored.segments.iter().sum()));
        args.push(Operand::Arg(GpuArg::State));
        self.launch(here, product, blocks, args);
        Ok(())
    }
}
