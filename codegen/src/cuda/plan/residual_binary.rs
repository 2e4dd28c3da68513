//! The residual-binary layer as launches: of one token and of several here, of many in
//! [`super::many_tokens`].

use rabitc_ir::ops::residual_binary::{Prologue, ResidualBinary, Roles};
use rabitc_rbx::gpu::{Blocks, GpuArg};

use super::fuse::gate_source;
use super::gemv_tile;
use super::lower::Lowering;
use super::lowered::{Here, Operand, View};
use super::table::PackedLayer;
use crate::CodegenError;
use crate::cuda::kernels::finish::Finish;
use crate::cuda::kernels::rb_fold::RbFold;
use crate::cuda::kernels::rb_gemv::{GemvTile, RbGemv};
use crate::cuda::kernels::rb_repack::RbRepack;
use crate::cuda::kernels::rb_tokens::{RbTokens, TokenTile};
use crate::cuda::kernels::rb_tokens_wgmma::{GroupTile, RbTokensWgmma};
use crate::cuda::kernels::several_tokens::SeveralTokens;
use crate::cuda::layout::GpuLayout;

/// A kernel of a product that was chosen.
struct Chosen {
    /// Blocks along x.
    blocks: usize,
    /// Tokens of a block.
    tokens: usize,
    /// Columns of the result.
    columns: usize,
    /// The kernel's number.
    kernel: usize,
}

/// A layer's parts.
pub(super) struct Layer<'a> {
    pub op: &'a ResidualBinary,
    pub layout: GpuLayout,
    pub packed: PackedLayer,
    pub residual: Option<View>,
}

impl Lowering<'_, '_> {
    /// One kernel for a few tokens, two for many.
    pub(super) fn residual_binary(
        &mut self,
        here: &Here,
        op: &ResidualBinary,
    ) -> Result<(), CodegenError> {
        if !op.packed {
            return Err(self.unsupported(here.id, "the signs are not packed"));
        }
        let roles = op.roles();
        let d_in = self
            .graph
            .ty(here.operands[roles.weights[0][2]])
            .last()
            .unwrap_or(0);
        let layout = GpuLayout {
            stored: op.layout(d_in),
            paired: self.fusions.gated.contains_key(&here.id),
        };
        let packed = self.pack(here, op, &roles, &layout)?;
        let residual = match roles.residual {
            Some(i) => Some(self.view(here.operands[i])?),
            None => None,
        };
        let layer = Layer {
            op,
            layout,
            packed,
            residual,
        };
        match (self.mode.many, self.mode.max_tokens) {
            (true, _) => self.many_tokens(here, layer),
            (false, 1) => self.one_token(here, layer),
            (false, _) => self.few_tokens(here, layer),
        }
    }

    /// The layer's memory on the device, with the launches that fill it.
    fn pack(
        &mut self,
        here: &Here,
        op: &ResidualBinary,
        roles: &Roles,
        layout: &GpuLayout,
    ) -> Result<PackedLayer, CodegenError> {
        if let Some(packed) = self.table.packed.get(&here.id) {
            return Ok(*packed);
        }
        let [signs, g, h] = roles.weights[0].map(|i| here.operands[i]);
        let norm = match (op.prologue, roles.prologue) {
            (Prologue::RmsNorm, Some(i)) => Some(here.operands[i]),
            _ => None,
        };
        let fold = RbFold {
            layout: layout.clone(),
            g: self.float(g)?,
            h: self.float(h)?,
            norm: norm
                .map(|w| Ok((self.float(w)?, op.unit_offset)))
                .transpose()?,
        };
        let (stored_signs, stored_g, stored_h) =
            (self.weight(signs)?, self.weight(g)?, self.weight(h)?);
        let norm = norm.map(|w| self.weight(w)).transpose()?;
        let node = self.graph.node(here.id).name.clone();
        let mut derive = |part: &str, bytes| self.table.derive(format!("{node}.{part}"), bytes);
        let packed = PackedLayer {
            signs: derive("gpu_signs", layout.sign_bytes()),
            g: derive("gpu_g", layout.scale_count() * 4),
            h: derive("gpu_h", layout.h_count() * 2),
            h_steps: derive("gpu_h_steps", layout.h_count() * 2),
        };
        let repack = RbRepack {
            layout: layout.clone(),
        };
        let blocks = repack.grid();
        self.table.set_up(
            &node,
            repack,
            blocks,
            vec![stored_signs, GpuArg::Derived(packed.signs)],
        );
        let mut args = vec![stored_g, stored_h];
        args.extend(norm);
        args.extend([packed.g, packed.h, packed.h_steps].map(GpuArg::Derived));
        let blocks = fold.grid();
        self.table.set_up(&node, fold, blocks, args);
        self.table.packed.insert(here.id, packed);
        Ok(packed)
    }

    fn one_token(&mut self, here: &Here, layer: Layer<'_>) -> Result<(), CodegenError> {
        let x = self.product_input(here, &layer)?;
        let norm = layer.op.prologue == Prologue::RmsNorm;
        let wanted = RbGemv {
            finish: self.finish(here, &layer),
            layout: layer.layout,
            planes: self.options.planes,
            norm: norm.then_some(layer.op.eps),
            each: None,
            x_aligned: x.aligned(8),
            tile: GemvTile::UNCUT,
        };
        let product = self.table.cut(&wanted, self.options.arch);
        let product = product.ok_or_else(|| self.does_not_fit(here))?;
        // No launch where no row is asked for.
        let rows = match here.by_rows() {
            true => Blocks::PerRows(1),
            false => Blocks::ONE,
        };
        let blocks = [Blocks::Fixed(product.grid() as u32), rows, Blocks::ONE];
        let args = self.product_args(here, x, layer.packed, layer.residual, product.columns());
        self.launch(here, product, blocks, args);
        Ok(())
    }

    /// Pointers of a product, all but the state.
    fn product_args(
        &mut self,
        here: &Here,
        x: View,
        packed: PackedLayer,
        residual: Option<View>,
        columns: usize,
    ) -> Vec<Operand> {
        let mut args = vec![x.read()];
        let parts = [packed.signs, packed.g, packed.h];
        args.extend(parts.map(|d| Operand::Arg(GpuArg::Derived(d))));
        args.extend(residual.map(|r| r.read()));
        args.push(self.result_of(here.id, columns));
        args
    }

    /// What is done with the sums.
    pub(super) fn finish(&self, here: &Here, layer: &Layer<'_>) -> Finish {
        match (self.fusions.gated.get(&here.id), layer.residual) {
            (Some(act), _) => Finish::Gate(*act),
            (None, Some(residual)) => Finish::Residual(residual.stride),
            (None, None) => Finish::Store,
        }
    }

    pub(super) fn does_not_fit(&self, here: &Here) -> CodegenError {
        let arch = self.options.arch;
        let reason = format!("needs more shared memory than a block has on {arch}");
        self.unsupported(here.id, &reason)
    }

    fn few_tokens(&mut self, here: &Here, layer: Layer<'_>) -> Result<(), CodegenError> {
        let x = self.product_input(here, &layer)?;
        let finish = self.finish(here, &layer);
        let norm = (layer.op.prologue == Prologue::RmsNorm).then_some(layer.op.eps);
        let several = self.several(here, &layer, x, finish, norm);
        let state = several.as_ref().map(|_| Operand::Arg(GpuArg::State));
        let chosen = match several {
            Some(chosen) => chosen,
            None => self.one_by_one(here, &layer, x, finish, norm)?,
        };
        let columns = chosen.columns;
        let mut args = self.product_args(here, x, layer.packed, layer.residual, columns);
        args.extend(state);
        let grid = [
            Blocks::Fixed(chosen.blocks as u32),
            here.blocks(chosen.tokens as u32),
            Blocks::ONE,
        ];
        self.launch_kernel(here, chosen.kernel, grid, args);
        Ok(())
    }

    /// The product of several tokens at once; `None` if shared memory holds no two of them.
    fn several(
        &mut self,
        here: &Here,
        layer: &Layer<'_>,
        x: View,
        finish: Finish,
        norm: Option<f32>,
    ) -> Option<Chosen> {
        let of = SeveralTokens {
            layout: layer.layout.clone(),
            tokens: self.mode.max_tokens.next_power_of_two(),
            planes: self.options.planes,
            norm,
            x_stride: x.stride,
            x_aligned: x.aligned(8),
            finish,
            by_rows: here.by_rows(),
        };
        let arch = self.options.arch;
        if arch.has_clusters() {
            let tile = GroupTile::UNCUT;
            let cut = self.table.cut(&RbTokensWgmma { of, tile }, arch)?;
            return Some(Chosen {
                blocks: cut.grid(),
                tokens: cut.of.tokens,
                columns: cut.of.width(),
                kernel: self.table.kernel(cut),
            });
        }
        let tile = TokenTile::UNCUT;
        let cut = self.table.cut(&RbTokens { of, tile }, arch)?;
        Some(Chosen {
            blocks: cut.grid(),
            tokens: cut.of.tokens,
            columns: cut.of.width(),
            kernel: self.table.kernel(cut),
        })
    }

    /// The product of one token after the other.
    fn one_by_one(
        &mut self,
        here: &Here,
        layer: &Layer<'_>,
        x: View,
        finish: Finish,
        norm: Option<f32>,
    ) -> Result<Chosen, CodegenError> {
        let mut product = RbGemv {
            layout: layer.layout.clone(),
            planes: self.options.planes,
            norm,
            each: Some(x.stride),
            x_aligned: x.aligned(8),
            finish,
            tile: GemvTile::UNCUT,
        };
        let tile = gemv_tile::choose(&product, self.options.arch);
        product.tile = tile.ok_or_else(|| self.does_not_fit(here))?;
        Ok(Chosen {
            blocks: product.grid(),
            tokens: 1,
            columns: product.columns(),
            kernel: self.table.kernel(product),
        })
    }

    /// The input of a product of a few tokens: gates were computed by the product before.
    fn product_input(&mut self, here: &Here, layer: &Layer<'_>) -> Result<View, CodegenError> {
        if layer.op.prologue != Prologue::Gate {
            return self.view(here.operands[0]);
        }
        match gate_source(self.graph, here.operands[0], here.operands[1]) {
            Some(product) => self.view(product),
            None => self.gate(here, layer.op),
        }
    }
}
