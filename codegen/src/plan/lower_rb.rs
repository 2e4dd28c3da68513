//! The residual-binary layer as launches: tables first, then the product.

use rabitc_ir::NodeId;
use rabitc_ir::ops::residual_binary::{Activations, Prologue, ResidualBinary};
use rabitc_rbx::Items;

use super::launch::{BufferId, Operand, per_row, row_scalar};
use super::lower::{Here, Lowering};
use crate::CodegenError;
use crate::kernels::rb_prepare::{Before, RbPrepare};
use crate::kernels::rb_product::RbProduct;
use crate::kernels::rb_tables::{TableShape, Tables};

impl Lowering<'_> {
    pub(super) fn residual_binary(
        &mut self,
        here: &Here,
        op: &ResidualBinary,
    ) -> Result<(), CodegenError> {
        let tables = match op.activations {
            Activations::Int8 => Tables::Int8,
            Activations::Int16 => Tables::Int16,
            Activations::F32 => Tables::F32,
            Activations::Unset => {
                return Err(self.unsupported(here.id, "no activation format was chosen"));
            }
        };
        if !op.packed {
            return Err(self.unsupported(here.id, "the signs are not packed"));
        }
        let roles = op.roles();
        let [signs, g, h] = roles.weights[0].map(|i| here.operands[i]);
        let d_in = self.graph.ty(h).last().unwrap_or(0);
        let shape = TableShape {
            d_in,
            sets: op.segments.len() * op.paths,
            tables,
        };
        let second = roles.prologue.map(|i| here.operands[i]);
        let (table, scale) = self.prepare(here, op, shape, h, second)?;
        let residual = match roles.residual {
            Some(i) => Some(self.view(here.operands[i])?),
            None => None,
        };
        let product = RbProduct {
            layout: op.layout(d_in),
            tables,
            g: self.float(g)?,
            residual: residual.map(|r| r.stride),
            tokens: self.options.max_tokens,
        };
        let items = Items {
            constant: product.layout.row_blocks() as u64,
            ..Items::default()
        };
        let mut args = vec![Operand::Read(table, 0), Operand::Read(scale, 0)];
        args.extend([self.weight(signs)?, self.weight(g)?]);
        args.extend(residual.map(|r| r.read()));
        args.push(self.result(here));
        self.launch(here, product, args, vec![row_scalar(here.rows)], items);
        Ok(())
    }

    /// Launches the table kernel; gives the buffers of the tables and of their scales.
    fn prepare(
        &mut self,
        here: &Here,
        op: &ResidualBinary,
        shape: TableShape,
        h: NodeId,
        second: Option<NodeId>,
    ) -> Result<(BufferId, BufferId), CodegenError> {
        let x = self.view(here.operands[0])?;
        let mut args = vec![x.read()];
        let before = match (op.prologue, second) {
            (Prologue::RmsNorm, Some(w)) => {
                args.push(self.weight(w)?);
                Before::RmsNorm {
                    weight: self.float(w)?,
                    eps: op.eps,
                    unit_offset: op.unit_offset,
                }
            }
            (Prologue::Gate, Some(up)) => {
                let up = self.view(up)?;
                args.push(up.read());
                Before::Gate {
                    act: op.act,
                    up_stride: up.stride,
                }
            }
            _ => Before::Nothing,
        };
        let table = self.buffer(shape.token_bytes());
        let scale = self.buffer(shape.scale_bytes());
        args.extend([self.weight(h)?, Operand::Write(table, 0)]);
        args.push(Operand::Write(scale, 0));
        let spec = RbPrepare {
            shape,
            x_stride: x.stride,
            h: self.float(h)?,
            before,
        };
        let items = per_row(here.rows, shape.blocks());
        self.launch(here, spec, args, vec![], items);
        Ok((table, scale))
    }
}
