//! Kernel IR to CLIF: statements and control flow.

use super::prefetch;
use crate::kir::visit::use_counts;
use crate::kir::{Block, Elem, Inst, Kernel, Stmt, Ty, Val, Var};
use crate::level::{Arch, Level};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    AbiParam, BlockArg, Function, InstBuilder, Signature, Type, UserFuncName, Value, types,
};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable};

/// The kernel as a CLIF function. The kernel has passed the verifier, and its vectors are 16 bytes.
pub(super) fn lower(kernel: &Kernel, level: Level, isa: &dyn TargetIsa) -> Function {
    let mut signature = Signature::new(isa.default_call_conv());
    signature.params = vec![AbiParam::new(types::I64); 5];
    let mut func = Function::with_name_signature(UserFuncName::testcase(&kernel.name), signature);
    let mut context = FunctionBuilderContext::new();
    let mut builder = FunctionBuilder::new(&mut func, &mut context);
    let entry = builder.create_block();
    builder.append_block_params_for_function_params(entry);
    builder.switch_to_block(entry);
    builder.seal_block(entry);
    let arguments = builder.block_params(entry).to_vec();
    let vars = kernel.vars.iter().map(|&ty| clif_type(ty));
    let vars = vars.map(|ty| builder.declare_var(ty)).collect();
    let mut lower = Lower {
        builder,
        kernel,
        level,
        arguments,
        vars,
        values: vec![None; kernel.values.len()],
        constants: vec![None; kernel.values.len()],
        flags: vec![None; kernel.values.len()],
        uses: use_counts(kernel),
    };
    lower.block(&kernel.body);
    lower.builder.ins().return_(&[]);
    lower.builder.finalize(isa.frontend_config());
    func
}

/// The CLIF type of a KIR type.
pub(super) fn clif_type(ty: Ty) -> Type {
    let lane = match ty.elem {
        Elem::I8 => types::I8,
        Elem::I16 => types::I16,
        Elem::I32 => types::I32,
        Elem::I64 => types::I64,
        Elem::F32 => types::F32,
    };
    // `by` refuses only types beyond CLIF's vectors, which the verifier does not let pass.
    lane.by(ty.lanes.into()).unwrap_or(types::INVALID)
}

/// The state of lowering one kernel.
pub(super) struct Lower<'a> {
    pub builder: FunctionBuilder<'a>,
    pub kernel: &'a Kernel,
    pub level: Level,
    /// The function's arguments: ptrs, scalars, begin, end, worker.
    pub arguments: Vec<Value>,
    vars: Vec<Variable>,
    values: Vec<Option<Value>>,
    /// Scalar integer constants. They have no CLIF value of their own: each use gets a new one, so
    /// that none holds a register between uses.
    constants: Vec<Option<i64>>,
    /// How often each value is used.
    uses: Vec<u32>,
    /// For masks of scalars that come from a comparison: the comparison's own result, 0 or 1.
    /// Branches and selections use it instead of the mask.
    flags: Vec<Option<Value>>,
}

impl Lower<'_> {
    fn block(&mut self, block: &Block) {
        for stmt in block {
            self.stmt(stmt);
        }
    }

    fn stmt(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::Let(v, Inst::Int(x)) if self.kernel.ty(*v).lanes == 1 => {
                self.constants[v.0 as usize] = Some(*x);
            }
            Stmt::Let(v, inst) => {
                let value = self.inst(*v, inst);
                self.values[v.0 as usize] = Some(value);
            }
            Stmt::Set(var, v) => {
                let value = self.value(*v);
                self.builder.def_var(self.vars[var.0 as usize], value);
            }
            Stmt::Store { ptr, offset, value } => self.store(*ptr, *offset, *value),
            Stmt::Prefetch { cache, ptr, offset } => {
                let ptr = self.value(*ptr);
                prefetch::mark(&mut self.builder, *cache, ptr, *offset);
            }
            Stmt::For {
                iv,
                start,
                end,
                step,
                body,
            } => self.for_loop(*iv, *start, *end, *step, body),
            Stmt::If {
                cond,
                then,
                otherwise,
            } => self.if_else(*cond, then, otherwise),
        }
    }

    /// A test before the loop, and one after each turn.
    fn for_loop(&mut self, iv: Val, start: Val, end: Val, step: i64, body: &Block) {
        let turn = self.builder.create_block();
        let done = self.builder.create_block();
        let counter = self.builder.append_block_param(turn, types::I64);
        let bounds = [start, end].map(|v| self.constants[v.0 as usize]);
        let start = self.value(start);
        match bounds {
            [Some(first), Some(last)] if first < last => {
                self.builder.ins().jump(turn, &[BlockArg::Value(start)]);
            }
            _ => self.turn_or_leave(start, end, turn, done),
        }

        self.builder.switch_to_block(turn);
        self.values[iv.0 as usize] = Some(counter);
        self.block(body);
        let step = self.builder.ins().iconst(types::I64, step);
        let next = self.builder.ins().iadd(counter, step);
        self.turn_or_leave(next, end, turn, done);

        self.builder.seal_block(turn);
        self.builder.switch_to_block(done);
        self.builder.seal_block(done);
    }

    fn turn_or_leave(
        &mut self,
        next: Value,
        end: Val,
        turn: cranelift_codegen::ir::Block,
        done: cranelift_codegen::ir::Block,
    ) {
        let end = self.value(end);
        let more = self.builder.ins().icmp(IntCC::SignedLessThan, next, end);
        let turn_args = [BlockArg::Value(next)];
        self.builder.ins().brif(more, turn, &turn_args, done, &[]);
    }

    fn if_else(&mut self, cond: Val, then: &Block, otherwise: &Block) {
        let cond = match self.flag(cond) {
            Some(flag) => flag,
            None => self.value(cond),
        };
        let [then_block, else_block, join] = std::array::from_fn(|_| self.builder.create_block());
        self.builder
            .ins()
            .brif(cond, then_block, &[], else_block, &[]);
        for (clif_block, body) in [(then_block, then), (else_block, otherwise)] {
            self.builder.switch_to_block(clif_block);
            self.builder.seal_block(clif_block);
            self.block(body);
            self.builder.ins().jump(join, &[]);
        }
        self.builder.switch_to_block(join);
        self.builder.seal_block(join);
    }

    /// The CLIF value of a KIR value.
    pub fn value(&mut self, v: Val) -> Value {
        match self.constants[v.0 as usize] {
            Some(x) => self.int(self.kernel.ty(v), x),
            None => self.values[v.0 as usize].expect("the verifier has seen the definition"),
        }
    }

    /// The 0 or 1 behind a scalar mask, if it comes from a comparison.
    pub fn flag(&self, v: Val) -> Option<Value> {
        self.flags[v.0 as usize]
    }

    /// How often a value is used in the kernel.
    pub fn use_count(&self, v: Val) -> u32 {
        self.uses[v.0 as usize]
    }

    /// Remembers the 0 or 1 behind a scalar mask.
    pub fn set_flag(&mut self, v: Val, flag: Value) {
        self.flags[v.0 as usize] = Some(flag);
    }

    /// The current value of a variable.
    pub fn variable(&mut self, var: Var) -> Value {
        self.builder.use_var(self.vars[var.0 as usize])
    }

    pub fn is_x86(&self) -> bool {
        self.level.arch() == Arch::X86_64
    }

    fn inst(&mut self, result: Val, inst: &Inst) -> Value {
        let ty = self.kernel.ty(result);
        match *inst {
            Inst::Param(i) => self.argument_entry(0, i),
            Inst::Scalar(i) => self.argument_entry(1, i),
            Inst::Begin => self.arguments[2],
            Inst::End => self.arguments[3],
            Inst::Worker => self.arguments[4],
            Inst::Stack { bytes } => self.stack(bytes),
            Inst::Int(x) => self.int(ty, x),
            Inst::Float(x) => self.float(ty, x),
            Inst::Bytes(ref bytes) => self.constant(clif_type(ty), bytes),
            Inst::Splat(a) => {
                let a = self.value(a);
                self.builder.ins().splat(clif_type(ty), a)
            }
            Inst::Get(var) => self.variable(var),
            Inst::Load { ptr, offset, mem } => self.load(ty, ptr, offset, mem),
            Inst::Cmp(op, a, b) => self.compare(result, op, a, b),
            Inst::Select(mask, a, b) => self.select(mask, a, b),
            Inst::Bin(op, a, b) => self.bin(op, a, b),
            Inst::Un(op, a) => self.un(op, a),
            Inst::Fma(a, b, c) => self.fma(a, b, c),
            Inst::Shl(a, by) => self.shift(a, by, |ins, a, by| ins.ishl(a, by)),
            Inst::Shr(a, by) => self.shift(a, by, |ins, a, by| ins.ushr(a, by)),
            Inst::Sar(a, by) => self.shift(a, by, |ins, a, by| ins.sshr(a, by)),
            Inst::ToInt(a) => self.round_to_int(a),
            Inst::ToFloat(a) => {
                let a = self.value(a);
                self.builder.ins().fcvt_from_sint(clif_type(ty), a)
            }
            Inst::Bitcast(a) => {
                let a = self.value(a);
                self.cast(a, clif_type(ty))
            }
            Inst::WidenU(a, high) => self.widen(a, false, high),
            Inst::WidenS(a, high) => self.widen(a, true, high),
            Inst::Narrow(a, b) => {
                let (a, b) = (self.value(a), self.value(b));
                self.builder.ins().snarrow(a, b)
            }
            Inst::Extend(a) => self.extend(a),
            Inst::Trunc(a) => {
                let a = self.value(a);
                self.builder.ins().ireduce(types::I32, a)
            }
            // Sixteen bytes are the whole vector here.
            Inst::Lookup16 { table, index } | Inst::Permute { table, index } => {
                self.lookup16(table, index)
            }
            Inst::AddBytes(sums, bytes) => self.add_bytes(sums, bytes),
            Inst::Interleave(a, b, high) => self.interleave(a, b, high),
            Inst::Extract(a, lane) => {
                let a = self.value(a);
                self.builder.ins().extractlane(a, lane)
            }
            Inst::Sum(a) => self.reduce(a, |lower, x, y| lower.builder.ins().fadd(x, y)),
            Inst::MaxLane(a) => self.reduce(a, |lower, x, y| lower.float_max(x, y)),
        }
    }
}
