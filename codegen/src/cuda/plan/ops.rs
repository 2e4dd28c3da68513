//! The ops whose kernels work on single values or rows.

use rabitc_ir::ops::residual_binary::ResidualBinary;
use rabitc_ir::ops::rms_norm::RmsNorm as RmsNormOp;
use rabitc_ir::{NodeId, Op};
use rabitc_rbx::gpu::{Blocks, GpuArg};

use super::lower::Lowering;
use super::lowered::{Here, Operand, View};
use crate::CodegenError;
use crate::cuda::kernels::elementwise::{COLUMNS, Elementwise, Function};
use crate::cuda::kernels::embed::Embed;
use crate::cuda::kernels::rms_norm::RmsNorm;
use crate::cuda::kernels::select_rows::SelectRows;

impl Lowering<'_, '_> {
    pub(super) fn embed(&mut self, here: &Here, scale: f32) -> Result<(), CodegenError> {
        let table = here.operands[0];
        let vocab = self.graph.ty(table).shape[0].fixed().unwrap_or(1);
        let spec = Embed {
            d: here.d,
            vocab,
            table: self.float(table)?,
            scale,
        };
        let args = vec![
            Operand::Arg(GpuArg::Ids),
            Operand::Arg(self.weight(table)?),
            self.result(here),
        ];
        self.launch(here, spec, [here.blocks(1), Blocks::ONE, Blocks::ONE], args);
        Ok(())
    }

    pub(super) fn select_rows(&mut self, here: &Here) -> Result<(), CodegenError> {
        let x = self.view(here.operands[0])?;
        let spec = SelectRows {
            d: here.d,
            x_stride: x.stride,
        };
        let args = vec![x.read(), Operand::Arg(GpuArg::Rows), self.result(here)];
        self.launch(here, spec, [here.blocks(1), Blocks::ONE, Blocks::ONE], args);
        Ok(())
    }

    pub(super) fn rms_norm(
        &mut self,
        here: &Here,
        operands: &[NodeId],
        op: &RmsNormOp,
        residual: Option<View>,
    ) -> Result<(), CodegenError> {
        let x = self.view(operands[0])?;
        let group = self.graph.ty(operands[1]).last().unwrap_or(here.d);
        let spec = RmsNorm {
            d: here.d,
            group,
            x_stride: x.stride,
            weight: self.float(operands[1])?,
            eps: op.eps,
            unit_offset: op.unit_offset,
            residual: residual.map(|r| r.stride),
        };
        let mut args = vec![x.read(), Operand::Arg(self.weight(operands[1])?)];
        args.extend(residual.map(|r| r.read()));
        args.push(self.result(here));
        let groups = Blocks::Fixed((here.d / group) as u32);
        self.launch(here, spec, [here.blocks(1), groups, Blocks::ONE], args);
        Ok(())
    }

    /// A sum, together with the norm of one of its terms where there is one.
    pub(super) fn add(&mut self, here: &Here) -> Result<(), CodegenError> {
        if !self.fusions.sums.contains(&here.id) {
            return self.elementwise(here, Function::Add);
        }
        for &norm in &here.operands {
            if let (Some((sum, other)), Op::RmsNorm(op)) =
                (self.fusions.norm_add.get(&norm), self.graph.op(norm))
                && *sum == here.id
            {
                let residual = self.view(*other)?;
                return self.rms_norm(here, &self.graph.operands(norm), op, Some(residual));
            }
        }
        Err(self.unsupported(here.id, "its norm is gone"))
    }

    pub(super) fn elementwise(
        &mut self,
        here: &Here,
        function: Function,
    ) -> Result<(), CodegenError> {
        let a = self.view(here.operands[0])?;
        let mut args = vec![a.read()];
        let mut b_stride = 0;
        if let Some(&second) = here.operands.get(1) {
            if let Function::AddBias(_) = function {
                args.push(Operand::Arg(self.weight(second)?));
            } else {
                let b = self.view(second)?;
                b_stride = b.stride;
                args.push(b.read());
            }
        }
        args.push(self.result(here));
        let spec = Elementwise {
            function,
            d: here.d,
            a_stride: a.stride,
            b_stride,
        };
        let pieces = Blocks::Fixed(here.d.div_ceil(COLUMNS) as u32);
        self.launch(here, spec, [here.blocks(1), pieces, Blocks::ONE], args);
        Ok(())
    }

    /// The gate ahead of a product, as a kernel of its own.
    pub(super) fn gate(&mut self, here: &Here, op: &ResidualBinary) -> Result<View, CodegenError> {
        let (gate, up) = (self.view(here.operands[0])?, self.view(here.operands[1])?);
        let d = self.graph.ty(here.operands[0]).last().unwrap_or(0);
        let buffer = self.buffer(d * 4);
        let spec = Elementwise {
            function: Function::Gate(op.act),
            d,
            a_stride: gate.stride,
            b_stride: up.stride,
        };
        let pieces = Blocks::Fixed(d.div_ceil(COLUMNS) as u32);
        let args = vec![gate.read(), up.read(), Operand::to(buffer)];
        self.launch(here, spec, [here.blocks(1), pieces, Blocks::ONE], args);
        Ok(View {
            buffer,
            column: 0,
            stride: d,
        })
    }
}
