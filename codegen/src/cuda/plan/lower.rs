//! Graph nodes to launches: one function an op.

use std::collections::HashMap;

use rabitc_ir::ops::gate::Activation;
use rabitc_ir::ops::residual_binary::ResidualBinary;
use rabitc_ir::ops::rms_norm::RmsNorm as RmsNormOp;
use rabitc_ir::{Dim, Graph, NodeId, Op};
use rabitc_rbx::gpu::{Blocks, GpuArg};

use super::fuse::Fusions;
use super::table::Table;
use super::{GpuOptions, Mode};
use crate::CodegenError;
use crate::cuda::kernels::elementwise::{COLUMNS, Elementwise, Function};
use crate::cuda::kernels::embed::Embed;
use crate::cuda::kernels::linear::{Linear, Norm, Weight};
use crate::cuda::kernels::linear_tokens::LinearTokens;
use crate::cuda::kernels::rms_norm::RmsNorm;
use crate::cuda::kernels::select_rows::SelectRows;
use crate::cuda::source::CudaSpec;
use crate::kernels::Float;
use crate::plan::launch::{Buffer, BufferId};

/// A pointer argument before buffers have places.
#[derive(Clone, Debug)]
pub enum Operand {
    /// A byte offset into a buffer.
    Buffer {
        /// The buffer.
        id: BufferId,
        /// The offset.
        offset: usize,
    },
    /// Anything else.
    Arg(GpuArg),
}

impl Operand {
    /// The beginning of a buffer.
    pub fn to(id: BufferId) -> Operand {
        Operand::Buffer { id, offset: 0 }
    }
}

/// A launch before buffers have places.
pub struct Launch {
    /// The graph node.
    pub node: String,
    /// Number of the kernel.
    pub kernel: usize,
    /// Blocks.
    pub grid: [Blocks; 3],
    /// Pointers.
    pub args: Vec<Operand>,
}

/// A graph as launches over buffers.
pub struct Lowered {
    /// The launches in order.
    pub launches: Vec<Launch>,
    /// The buffers.
    pub buffers: Vec<Buffer>,
    /// The buffer that holds the logits.
    pub logits: BufferId,
}

/// A value's place: columns of a buffer.
#[derive(Clone, Copy, Debug)]
pub struct View {
    buffer: BufferId,
    column: usize,
    /// f32 elements a row.
    pub stride: usize,
}

impl View {
    /// The pointer to row 0.
    pub fn read(&self) -> Operand {
        Operand::Buffer {
            id: self.buffer,
            offset: self.column * 4,
        }
    }

    /// Whether every row starts at a multiple of `n` elements and has a multiple of `n` of them.
    pub fn aligned(&self, n: usize) -> bool {
        self.column.is_multiple_of(n) && self.stride.is_multiple_of(n)
    }
}

/// What the lowering functions need to know of the node in hand.
pub struct Here {
    /// The node.
    pub id: NodeId,
    /// Its operands.
    pub operands: Vec<NodeId>,
    rows: Dim,
    d: usize,
}

impl Here {
    /// Whether its rows are those asked for, not all tokens.
    pub fn by_rows(&self) -> bool {
        self.rows == Dim::Rows
    }

    /// One block for every `each` of its rows.
    pub fn blocks(&self, each: u32) -> Blocks {
        match self.rows {
            Dim::Rows => Blocks::PerRows(each),
            _ => Blocks::PerTokens(each),
        }
    }
}

/// The state of lowering one program.
pub struct Lowering<'a> {
    pub(super) graph: &'a Graph,
    pub(super) mode: Mode,
    pub(super) options: GpuOptions,
    pub(super) fusions: &'a Fusions,
    pub(super) table: &'a mut Table,
    launches: Vec<Launch>,
    buffers: Vec<Buffer>,
    views: HashMap<NodeId, View>,
}

/// Lowers every run-time node of `graph` for one program.
pub fn lower(
    graph: &Graph,
    mode: Mode,
    options: GpuOptions,
    fusions: &Fusions,
    table: &mut Table,
) -> Result<Lowered, CodegenError> {
    let mut l = Lowering {
        graph,
        mode,
        options,
        fusions,
        table,
        launches: Vec::new(),
        buffers: Vec::new(),
        views: HashMap::new(),
    };
    for id in graph.order() {
        if !graph.op(id).compile_time() {
            l.node(id)?;
        }
    }
    let logits = graph.outputs().iter().find(|(name, _)| name == "logits");
    let (_, id) = logits.ok_or_else(|| CodegenError::plan("the graph has no output `logits`"))?;
    let view = l.view(*id)?;
    if view.column != 0 || graph.ty(*id).last() != Some(view.stride) {
        return Err(CodegenError::plan("the logits must not be a slice"));
    }
    Ok(Lowered {
        logits: view.buffer,
        launches: l.launches,
        buffers: l.buffers,
    })
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

    /// Whether the program is for one token.
    fn single(&self) -> bool {
        self.mode.max_tokens == 1
    }

    pub(super) fn unsupported(&self, id: NodeId, reason: &str) -> CodegenError {
        CodegenError::plan(format!("%{}: {reason}", self.graph.node(id).name))
    }

    pub(super) fn view(&self, id: NodeId) -> Result<View, CodegenError> {
        let view = self.views.get(&id).copied();
        view.ok_or_else(|| self.unsupported(id, "is read but has no place in memory"))
    }

    /// Form of a float operand.
    pub(super) fn float(&self, id: NodeId) -> Result<Float, CodegenError> {
        let dtype = self.graph.ty(id).dtype;
        Float::of(dtype).ok_or_else(|| self.unsupported(id, &format!("{dtype} is no float type")))
    }

    /// A named tensor of the artifact.
    pub(super) fn weight(&self, id: NodeId) -> Result<GpuArg, CodegenError> {
        match self.graph.op(id) {
            Op::Weight(w) => Ok(GpuArg::Weight(w.name.clone())),
            _ => Err(self.unsupported(id, "is no tensor of the artifact")),
        }
    }

    pub(super) fn buffer(&mut self, row_bytes: usize) -> BufferId {
        self.buffers.push(Buffer { row_bytes });
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
        });
    }

    fn slice(&mut self, here: &Here, start: usize) -> Result<(), CodegenError> {
        let source = here.operands[0];
        // A gated product of a few tokens leaves no halves.
        if !self.mode.many && self.fusions.gated.contains_key(&source) {
            return Ok(());
        }
        let mut view = self.view(source)?;
        view.column += start;
        self.views.insert(here.id, view);
        Ok(())
    }

    fn embed(&mut self, here: &Here, scale: f32) -> Result<(), CodegenError> {
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

    fn select_rows(&mut self, here: &Here) -> Result<(), CodegenError> {
        let x = self.view(here.operands[0])?;
        let spec = SelectRows {
            d: here.d,
            x_stride: x.stride,
        };
        let args = vec![x.read(), Operand::Arg(GpuArg::Rows), self.result(here)];
        self.launch(here, spec, [here.blocks(1), Blocks::ONE, Blocks::ONE], args);
        Ok(())
    }

    fn rms_norm(
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
    fn add(&mut self, here: &Here) -> Result<(), CodegenError> {
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

    fn linear(&mut self, here: &Here, weight: Weight) -> Result<(), CodegenError> {
        let before = here.operands[0];
        let taken = self.single() && self.fusions.before_linear.contains(&before);
        let (mut source, mut norm) = (before, None);
        if let (true, Op::RmsNorm(op)) = (taken, self.graph.op(before)) {
            let operands = self.graph.operands(before);
            let form = Norm {
                weight: self.float(operands[1])?,
                eps: op.eps,
                unit_offset: op.unit_offset,
            };
            norm = Some((form, self.weight(operands[1])?));
            source = self.graph.operands(operands[0])[0];
        }
        let x = self.view(source)?;
        let mut args = vec![x.read()];
        args.extend(norm.as_ref().map(|(_, w)| Operand::Arg(w.clone())));
        for operand in &here.operands[1..] {
            args.push(Operand::Arg(self.weight(*operand)?));
        }
        args.extend(taken.then_some(Operand::Arg(GpuArg::Rows)));
        args.extend([self.result(here), Operand::Arg(GpuArg::State)]);
        let d_in = self.graph.ty(here.operands[1]).last().unwrap_or(0);
        let tokens = self.mode.max_tokens;
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

    fn elementwise(&mut self, here: &Here, function: Function) -> Result<(), CodegenError> {
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
