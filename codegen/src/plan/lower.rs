//! Graph nodes to launches: one function an op.

use std::collections::HashMap;

use rabitc_ir::ops::gate::Activation;
use rabitc_ir::{Dim, Graph, NodeId, Op};
use rabitc_rbx::{Items, Scalar};

use super::launch::{Buffer, BufferId, Launch, LaunchWork, Operand, View, per_row, row_scalar};
use super::{PlanOptions, nodes};
use crate::CodegenError;
use crate::kernels::elementwise::{Elementwise, Function};
use crate::kernels::embed::Embed;
use crate::kernels::linear::{Linear, Weight};
use crate::kernels::rms_norm::RmsNorm;
use crate::kernels::select_rows::SelectRows;
use crate::kernels::{Float, Spec, shape};

/// A graph as launches over buffers.
pub struct Lowered {
    /// The launches, each after those it depends on.
    pub launches: Vec<Launch>,
    /// The buffers.
    pub buffers: Vec<Buffer>,
    /// The buffer that holds the logits.
    pub logits: BufferId,
}

/// Lowers every run-time node of `graph`.
pub fn lower(graph: &Graph, options: PlanOptions) -> Result<Lowered, CodegenError> {
    let mut l = Lowering {
        graph,
        options,
        launches: Vec::new(),
        buffers: Vec::new(),
        views: HashMap::new(),
    };
    for id in graph.order() {
        if !graph.op(id).compile_time() {
            l.node(id)?;
        }
    }
    let logits = nodes::logits(graph, &l.views, |view| (view.column, view.stride))?;
    Ok(Lowered {
        logits: logits.buffer,
        launches: l.launches,
        buffers: l.buffers,
    })
}

pub(super) struct Lowering<'a> {
    pub graph: &'a Graph,
    pub options: PlanOptions,
    pub launches: Vec<Launch>,
    buffers: Vec<Buffer>,
    views: HashMap<NodeId, View>,
}

/// What the lowering functions need to know of the node in hand.
pub(super) struct Here {
    pub id: NodeId,
    pub operands: Vec<NodeId>,
    pub rows: Dim,
    /// Columns of the result.
    pub d: usize,
}

impl Lowering<'_> {
    fn node(&mut self, id: NodeId) -> Result<(), CodegenError> {
        let (graph, ty) = (self.graph, self.graph.ty(id));
        let here = Here {
            id,
            operands: graph.operands(id),
            rows: ty.shape.first().copied().unwrap_or(Dim::Fixed(1)),
            d: ty.last().unwrap_or(1),
        };
        let act = |act| Function::Act(act);
        match graph.op(id) {
            Op::Input(_) => Ok(()),
            Op::Slice(s) => {
                let mut view = self.view(here.operands[0])?;
                view.column += s.start;
                self.views.insert(id, view);
                Ok(())
            }
            Op::Embed(op) => self.embed(&here, op.scale),
            Op::SelectRows(_) => self.select_rows(&here),
            Op::RmsNorm(op) => self.rms_norm(&here, op.eps, op.unit_offset),
            Op::Linear(_) => {
                let float = self.float(here.operands[1])?;
                self.linear(&here, Weight::Float(float))
            }
            Op::LinearInt8(_) => self.linear(&here, Weight::Int8),
            Op::AddBias(_) => {
                let bias = self.float(here.operands[1])?;
                self.elementwise(&here, Function::AddBias(bias))
            }
            Op::Add(_) => self.elementwise(&here, Function::Add),
            Op::Mul(_) => self.elementwise(&here, Function::Mul),
            Op::Gate(op) => self.elementwise(&here, Function::Gate(op.act)),
            Op::Silu(_) => self.elementwise(&here, act(Activation::Silu)),
            Op::GeluTanh(_) => self.elementwise(&here, act(Activation::GeluTanh)),
            Op::Softcap(op) => self.elementwise(&here, Function::Softcap(op.cap)),
            Op::RopeTable(op) => self.rope_table(&here, op.attention_factor),
            Op::Rope(_) => self.rope(&here),
            Op::Attention(op) => self.attention(&here, op),
            Op::ResidualBinary(op) => self.residual_binary(&here, op),
            Op::Scale(_) | Op::BinaryMatmul(_) => {
                Err(self.unsupported(id, "paths must be fused before code is generated"))
            }
            // Training graphs.
            rabitc_ir::training_ops!() => {
                let name = graph.op(id).name();
                Err(self.unsupported(id, &format!("{name} has no kernel on this target")))
            }
            // Evaluated when the artifact is written.
            rabitc_ir::compile_time_ops!() => Ok(()),
        }
    }

    pub(super) fn unsupported(&self, id: NodeId, reason: &str) -> CodegenError {
        nodes::unsupported(self.graph, id, reason)
    }

    pub(super) fn view(&self, id: NodeId) -> Result<View, CodegenError> {
        nodes::place(self.graph, &self.views, id)
    }

    pub(super) fn float(&self, id: NodeId) -> Result<Float, CodegenError> {
        nodes::float(self.graph, id)
    }

    /// A named tensor of the artifact.
    pub(super) fn weight(&self, id: NodeId) -> Result<Operand, CodegenError> {
        nodes::weight(self.graph, id).map(|name| Operand::Weight(name.into()))
    }

    pub(super) fn buffer(&mut self, row_bytes: usize) -> BufferId {
        self.buffers.push(Buffer { row_bytes });
        self.buffers.len() - 1
    }

    /// A new buffer for the result of the node in hand.
    pub(super) fn result(&mut self, here: &Here) -> Operand {
        let buffer = self.buffer(here.d * 4);
        let view = View {
            buffer,
            column: 0,
            stride: here.d,
        };
        self.views.insert(here.id, view);
        Operand::Write(buffer, 0)
    }

    pub(super) fn launch(
        &mut self,
        here: &Here,
        spec: impl Spec + 'static,
        args: Vec<Operand>,
        scalars: Vec<Scalar>,
        items: Items,
    ) {
        self.launches.push(Launch {
            node: self.graph.node(here.id).name.clone(),
            work: LaunchWork::Kernel {
                spec: Box::new(spec),
                args,
                scalars,
                items,
            },
        });
    }

    fn embed(&mut self, here: &Here, scale: f32) -> Result<(), CodegenError> {
        let table = here.operands[0];
        let spec = Embed {
            d: here.d,
            table: self.float(table)?,
            scale,
        };
        let args = vec![Operand::Ids, self.weight(table)?, self.result(here)];
        self.launch(here, spec, args, vec![], per_row(here.rows, 1));
        Ok(())
    }

    fn select_rows(&mut self, here: &Here) -> Result<(), CodegenError> {
        let x = self.view(here.operands[0])?;
        let spec = SelectRows {
            d: here.d,
            x_stride: x.stride,
        };
        let args = vec![x.read(), Operand::Rows, self.result(here)];
        self.launch(here, spec, args, vec![], per_row(here.rows, 1));
        Ok(())
    }

    fn rms_norm(&mut self, here: &Here, eps: f32, unit_offset: bool) -> Result<(), CodegenError> {
        let x = self.view(here.operands[0])?;
        let spec = RmsNorm {
            d: here.d,
            group: self.graph.ty(here.operands[1]).last().unwrap_or(here.d),
            x_stride: x.stride,
            weight: self.float(here.operands[1])?,
            eps,
            unit_offset,
        };
        let args = vec![x.read(), self.weight(here.operands[1])?, self.result(here)];
        self.launch(here, spec, args, vec![], per_row(here.rows, 1));
        Ok(())
    }

    fn linear(&mut self, here: &Here, weight: Weight) -> Result<(), CodegenError> {
        let x = self.view(here.operands[0])?;
        let row_tile = self.options.row_tile;
        let spec = Linear {
            d_in: self.graph.ty(here.operands[1]).last().unwrap_or(0),
            d_out: here.d,
            x_stride: x.stride,
            weight,
            row_tile,
            token_tile: self.options.token_tile,
        };
        let mut args = vec![x.read()];
        for operand in &here.operands[1..] {
            args.push(self.weight(*operand)?);
        }
        args.push(self.result(here));
        let items = Items {
            constant: here.d.div_ceil(row_tile) as u64,
            ..Items::default()
        };
        self.launch(here, spec, args, vec![row_scalar(here.rows)], items);
        Ok(())
    }

    fn elementwise(&mut self, here: &Here, function: Function) -> Result<(), CodegenError> {
        let a = self.view(here.operands[0])?;
        let mut args = vec![a.read()];
        let mut b_stride = 0;
        if let Some(&second) = here.operands.get(1) {
            if let Function::AddBias(_) = function {
                args.push(self.weight(second)?);
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
        let items = per_row(here.rows, shape::chunk_count(here.d));
        self.launch(here, spec, args, vec![], items);
        Ok(())
    }
}
