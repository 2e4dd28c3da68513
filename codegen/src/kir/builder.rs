//! Writes kernels: one method an instruction, types inferred, loops as closures.

mod instructions;

use super::types::{Block, Cache, Elem, Inst, Kernel, MemType, Param, Stmt, Ty, Val, Var};

/// Builds one [`Kernel`].
pub struct Builder {
    kernel: Kernel,
    blocks: Vec<Block>,
    width: usize,
}

impl Builder {
    /// A kernel with vectors of `width` bytes (16, 32 or 64).
    pub fn new(name: &str, width: usize) -> Self {
        Builder {
            kernel: Kernel {
                name: name.to_string(),
                params: Vec::new(),
                scalars: Vec::new(),
                values: Vec::new(),
                vars: Vec::new(),
                body: Vec::new(),
            },
            blocks: vec![Vec::new()],
            width,
        }
    }

    /// Bytes of a vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// f32 lanes of a vector.
    pub fn lanes(&self) -> usize {
        self.width / 4
    }

    /// The vector type of `elem`.
    pub fn vec(&self, elem: Elem) -> Ty {
        Ty::vector(elem, self.width)
    }

    /// The finished kernel.
    pub fn finish(mut self) -> Kernel {
        self.kernel.body = self.blocks.pop().expect("the outermost block");
        assert!(self.blocks.is_empty(), "a block was left open");
        self.kernel
    }

    /// Type of a value.
    pub fn ty(&self, v: Val) -> Ty {
        self.kernel.ty(v)
    }

    fn push(&mut self, stmt: Stmt) {
        self.blocks.last_mut().expect("an open block").push(stmt);
    }

    /// Emits an instruction with a result of type `ty`.
    pub fn emit(&mut self, ty: Ty, inst: Inst) -> Val {
        let val = self.fresh(ty);
        self.push(Stmt::Let(val, inst));
        val
    }

    fn fresh(&mut self, ty: Ty) -> Val {
        self.kernel.values.push(ty);
        Val(self.kernel.values.len() as u32 - 1)
    }

    /// Declares the next pointer parameter that is read, and gives its address.
    pub fn input(&mut self, name: &str) -> Val {
        self.param(name, false)
    }

    /// Declares the next pointer parameter that is written, and gives its address.
    pub fn output(&mut self, name: &str) -> Val {
        self.param(name, true)
    }

    fn param(&mut self, name: &str, written: bool) -> Val {
        self.kernel.params.push(Param {
            name: name.to_string(),
            written,
        });
        self.emit(Ty::I64, Inst::Param(self.kernel.params.len() - 1))
    }

    /// Declares the next scalar argument and gives its value.
    pub fn scalar(&mut self, name: &str) -> Val {
        self.kernel.scalars.push(name.to_string());
        self.emit(Ty::I64, Inst::Scalar(self.kernel.scalars.len() - 1))
    }

    /// `bytes` bytes of stack.
    pub fn stack(&mut self, bytes: usize) -> Val {
        self.emit(Ty::I64, Inst::Stack { bytes })
    }

    /// First and one past the last work item.
    pub fn range(&mut self) -> (Val, Val) {
        let begin = self.emit(Ty::I64, Inst::Begin);
        (begin, self.emit(Ty::I64, Inst::End))
    }

    /// Number of the worker.
    pub fn worker(&mut self) -> Val {
        self.emit(Ty::I64, Inst::Worker)
    }

    /// An i64 constant.
    pub fn int(&mut self, x: i64) -> Val {
        self.emit(Ty::I64, Inst::Int(x))
    }

    /// An integer in every lane of `ty`.
    pub fn int_of(&mut self, ty: Ty, x: i64) -> Val {
        self.emit(ty, Inst::Int(x))
    }

    /// A float in every lane of `ty`.
    pub fn float_of(&mut self, ty: Ty, x: f32) -> Val {
        self.emit(ty, Inst::Float(x))
    }

    /// A float in every lane of a full vector.
    pub fn float(&mut self, x: f32) -> Val {
        let ty = self.vec(Elem::F32);
        self.float_of(ty, x)
    }

    /// A full vector of constant bytes: as many as it has, or sixteen, repeated.
    pub fn bytes(&mut self, elem: Elem, bytes: &[u8]) -> Val {
        let ty = self.vec(elem);
        self.emit(ty, Inst::Bytes(bytes.to_vec()))
    }

    /// A scalar in every lane of a full vector.
    pub fn splat(&mut self, v: Val) -> Val {
        let ty = self.vec(self.ty(v).elem);
        self.emit(ty, Inst::Splat(v))
    }

    /// Declares a variable with its first value.
    pub fn var(&mut self, init: Val) -> Var {
        self.kernel.vars.push(self.ty(init));
        let var = Var(self.kernel.vars.len() as u32 - 1);
        self.set(var, init);
        var
    }

    /// Sets a variable.
    pub fn set(&mut self, var: Var, value: Val) {
        self.push(Stmt::Set(var, value));
    }

    /// Reads a variable.
    pub fn get(&mut self, var: Var) -> Val {
        let ty = self.kernel.vars[var.0 as usize];
        self.emit(ty, Inst::Get(var))
    }

    /// Loads a value of type `ty`.
    pub fn load(&mut self, ty: Ty, ptr: Val, offset: i32) -> Val {
        let mem = MemType::Same;
        self.emit(ty, Inst::Load { ptr, offset, mem })
    }
    /// Loads f32 lanes from another form in memory.
    pub fn load_as(&mut self, ty: Ty, mem: MemType, ptr: Val, offset: i32) -> Val {
        self.emit(ty, Inst::Load { ptr, offset, mem })
    }
    /// Stores a value.
    pub fn store(&mut self, ptr: Val, offset: i32, value: Val) {
        self.push(Stmt::Store { ptr, offset, value });
    }
    /// Asks for a cache line.
    pub fn prefetch(&mut self, cache: Cache, ptr: Val, offset: i32) {
        self.push(Stmt::Prefetch { cache, ptr, offset });
    }

    /// `for iv in (start..end).step_by(step)`
    pub fn for_range(
        &mut self,
        start: Val,
        end: Val,
        step: i64,
        body: impl FnOnce(&mut Self, Val),
    ) {
        let iv = self.fresh(Ty::I64);
        self.blocks.push(Vec::new());
        body(self, iv);
        let body = self.blocks.pop().expect("the loop's block");
        self.push(Stmt::For {
            iv,
            start,
            end,
            step,
            body,
        });
    }

    /// `for iv in (0..n).step_by(step)` with constants; a single turn is emitted in line.
    pub fn for_const(&mut self, n: i64, step: i64, body: impl FnOnce(&mut Self, Val)) {
        let start = self.int(0);
        if n > 0 && n <= step {
            return body(self, start);
        }
        let end = self.int(n);
        self.for_range(start, end, step, body);
    }

    /// Runs `then` where the integer scalar `cond` is not 0.
    pub fn if_then(&mut self, cond: Val, then: impl FnOnce(&mut Self)) {
        self.if_else(cond, then, |_| {});
    }

    /// Runs one of two blocks.
    pub fn if_else(
        &mut self,
        cond: Val,
        then: impl FnOnce(&mut Self),
        otherwise: impl FnOnce(&mut Self),
    ) {
        self.blocks.push(Vec::new());
        then(self);
        let then = self.blocks.pop().expect("the block");
        self.blocks.push(Vec::new());
        otherwise(self);
        let otherwise = self.blocks.pop().expect("the block");
        self.push(Stmt::If {
            cond,
            then,
            otherwise,
        });
    }
}
