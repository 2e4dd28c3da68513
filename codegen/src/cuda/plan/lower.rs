//! Graph nodes to launches: one function an op.

use std::collections::HashMap;

use rabitc_ir::ops::gate::Activation;
use rabitc_ir::{Dim, Graph, NodeId, Op};
use rabitc_rbx::gpu::{Blocks, GpuArg};

use super::fuse::Fusions;
use super::lowered::{Here, Launch, Lowered, Operand, RowBuffer, View};
use super::table::Table;
use super::{GpuOptions, Mode};
use crate::CodegenError;
use crate::cuda::kernels::elementwise::Function;
use crate::cuda::kernels::linear::{Linear, Norm, Weight};
use crate::cuda::kernels::linear_tokens::LinearTokens;
use crate::cuda::source::CudaSpec;
use crate::kernels::Float;
use crate::plan::launch::BufferId;
use crate::plan::nodes;

/// The state of lowering one program.
pub struct Lowering<'a, 'm> {
    pub(super) graph: &'a Graph,
    pub(super) mode: Mode,
    pub(super) options: GpuOptions,
    pub(super) fusions: &'a Fusions,
    pub(super) table: &'a mut Table<'m>,
    launches: Vec<Launch>,
    buffers: Vec<RowBuffer>,
    /// Whether the node in hand works on the rows whose logits are asked for.
    by_rows: bool,
    views: HashMap<NodeId, View>,
}

/// Lowers every run-time node of `graph` for one program.
pub fn lower(
    graph: &Graph,
    mode: Mode,
    options: GpuOptions,
    fusions: &Fusions,
    table: &mut Table<'_>,
) -> Result<Lowered, CodegenError> {
    let mut l = Lowering {
        graph,
        mode,
        options,
        fusions,
        table,
        launches: Vec::new(),
        buffers: Vec::new(),
        by_rows: false,
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

impl Lowering<'_, '_> {
    fn node(&mut self, id: NodeId) -> Result<(), CodegenError> {
        let (graph, ty) = (self.graph, self.graph.ty(id));
        let here = Here {
            id,
            operands: graph.operands(id),
            rows: ty.shape.first().copied().unwrap_or(Dim::Fixed(1)),
            d: ty.last().unwrap_or(1),
        };
        self.by_rows = here.by_rows();
        let taken = self.fusions.heads.contains(&id)
            || self.fusions.norm_add.contains_key(&id)
            || self.single() && self.fusions.before_linear.contains(&id);
        if taken {
            return Ok(());
        }
        match graph.op(id) {
            Op::Slice(s) => self.slice(&here, s.start),
            Op::Embed(op) => self.embed(&here, op.scale),
            Op::SelectRows(_) => self.select_rows(&here),
            Op::RmsNorm(op) => self.rms_norm(&here, &here.operands, op, None),
            Op::Linear(_) => {
                let float = self.float(here.operands[1])?;
                self.linear(&here, Weight::Float(float))
            }
            Op::LinearInt8(_) => self.linear(&here, Weight::Int8),
            Op::AddBias(_) => {
                let bias = self.float(here.operands[1])?;
                self.elementwise(&here, Function::AddBias(bias))
            }
            Op::Add(_) => self.add(&here),
            Op::Mul(_) => self.elementwise(&here, Function::Mul),
            Op::Gate(op) => self.elementwise(&here, Function::Gate(op.act)),
            Op::Silu(_) => self.elementwise(&here, Function::Act(Activation::Silu)),
            Op::GeluTanh(_) => self.elementwise(&here, Function::Act(Activation::GeluTanh)),
            Op::Softcap(op) => self.elementwise(&here, Function::Softcap(op.cap)),
            Op::Attention(op) => self.attention(&here, op),
            Op::ResidualBinary(op) => self.residual_binary(&here, op),
            Op::Rope(_) => Err(self.unsupported(
                id,
                "only heads on their way into attention are rotated on a GPU",
            )),
            Op::Scale(_) | Op::BinaryMatmul(_) => {
                Err(self.unsupported(id, "paths must be fused before code is generated"))
            }
            // Tables are made when a model is loaded.
            Op::RopeTable(_) | Op::Input(_) => Ok(()),
            // There before a step.
            op if op.compile_time() => Ok(()),
            op => {
                let name = op.name();
                Err(self.unsupported(id, &format!("{name} has no kernel on a GPU")))
            }
        }
    }

    /// Whether a product of two halves computes the gate itself and leaves no halves.
    pub(super) fn gates_in_product(&self) -> bool {
        !self.mode.many || self.options.arch.has_clusters()
    }

    /// Whether the program is for one token.
    fn single(&self) -> bool {
        self.mode.max_tokens == 1
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
    pub(super) fn weight(&self, id: NodeId) -> Result<GpuArg, CodegenError> {
        nodes::weight(self.graph, id).map(|name| GpuArg::Weight(name.into()))
    }

    pub(super) fn buffer(&mut self, row_bytes: usize) -> BufferId {
        let by_rows = self.by_rows;
        self.buffers.push(RowBuffer { row_bytes, by_rows });
        self.buffers.len() - 1
    }

    /// A new buffer of `columns` f32 a row for the result of a node.
    pub(super) fn result_of(&mut self, id: NodeId, columns: usize) -> Operand {
        let buffer = self.buffer(columns * 4);
        self.views.insert(
            id,
            View {
                buffer,
                column: 0,
                stride: columns,
            },
        );
        Operand::to(buffer)
    }

    /// A new buffer for the result of the node in hand.
    pub(super) fn result(&mut self, here: &Here) -> Operand {
        self.result_of(here.id, here.d)
    }

    pub(super) fn launch(
        &mut self,
        here: &Here,
        spec: impl CudaSpec + 'static,
        grid: [Blocks; 3],
        args: Vec<Operand>,
    ) {
        let kernel = self.table.kernel(spec);
        self.launch_kernel(here, kernel, grid, args);
    }

    /// Launches a kernel by its number.
    pub(super) fn launch_kernel(
        &mut self,
        here: &Here,
        kernel: usize,
        grid: [Blocks; 3],
        args: Vec<Operand>,
    ) {
        let node = self.graph.node(here.id).name.clone();
        self.launches.push(Launch {
            node,
            kernel,
            grid,
            args,
            by_rows: here.by_rows(),
        });
    }

    fn slice(&mut self, here: &Here, start: usize) -> Result<(), CodegenError> {
        let source = here.operands[0];
        if self.gates_in_product() && self.fusions.gated.contains_key(&source) {
            return Ok(());
        }
        let mut view = self.view(source)?;
        view.column += start;
        self.views.insert(here.id, view);
        Ok(())
    }

    /// Form and weight of a norm; `None` for another node.
    fn norm(&self, id: NodeId) -> Result<Option<(Norm, GpuArg)>, CodegenError> {
        let Op::RmsNorm(op) = self.graph.op(id) else {
            return Ok(None);
        };
        let weight = self.graph.operands(id)[1];
        let form = Norm {
            weight: self.float(weight)?,
            eps: op.eps,
            unit_offset: op.unit_offset,
        };
        Ok(Some((form, self.weight(weight)?)))
    }

    fn linear(&mut self, here: &Here, weight: Weight) -> Result<(), CodegenError> {
        let before = here.operands[0];
        let taken = self.single() && self.fusions.before_linear.contains(&before);
        let norm = match taken {
            true => self.norm(before)?,
            false => None,
        };
        // The rows that are asked for are selected by the kernel that takes the norm, too.
        let source = match norm {
            Some(_) => self.graph.operands(self.graph.operands(before)[0])[0],
            None => before,
        };
        let x = self.view(source)?;
        let mut args = vec![x.read()];
        args.extend(norm.as_ref().map(|(_, w)| Operand::Arg(w.clone())));
        for operand in &here.operands[1..] {
            args.push(Operand::Arg(self.weight(*operand)?));
        }
        args.extend(taken.then_some(Operand::Arg(GpuArg::Rows)));
        args.extend([self.result(here), Operand::Arg(GpuArg::State)]);
        let d_in = self.graph.ty(here.operands[1]).last().unwrap_or(0);
        let tokens = here.most(self.mode);
        if !self.single() && LinearTokens::takes(d_in, x.aligned(4)) {
            let spec = LinearTokens {
                d_in,
                d_out: here.d,
                x_stride: x.stride,
                weight,
                tokens: tokens.min(16),
                by_rows: here.by_rows(),
            };
            let (blocks, each) = (spec.grid(), spec.tokens);
            let grid = [
                Blocks::Fixed(blocks as u32),
                here.blocks(each as u32),
                Blocks::ONE,
            ];
            self.launch(here, spec, grid, args);
            return Ok(());
        }
        let spec = Linear {
            d_in,
            d_out: here.d,
            x_stride: x.stride,
            weight,
            tokens: tokens.min(8),
            norm: norm.map(|(form, _)| form),
            select: taken,
            by_rows: here.by_rows(),
        };
        let grid = [
            Blocks::Fixed(spec.grid() as u32),
            here.blocks(spec.tokens as u32),
            Blocks::ONE,
        ];
        self.launch(here, spec, grid, args);
        Ok(())
    }
}
