//! Kernel IR to LLVM IR: statements and control flow.
//!
//! Variables become stack slots, which LLVM's first pass makes values of.

use super::target;
use super::text::{elem_name, type_name};
use crate::kir::{Block, Kernel, Stmt, Ty, Val};
use crate::level::{Arch, Level};
use std::collections::BTreeSet;
use std::fmt::{Display, Write};

/// The kernel as the text of an LLVM module. The kernel has passed the verifier, and its vectors
/// are no wider than the level's.
pub(super) fn lower(kernel: &Kernel, level: Level) -> String {
    let mut lower = Lower {
        kernel,
        level,
        body: String::new(),
        entry: String::new(),
        declarations: BTreeSet::new(),
        values: vec![None; kernel.values.len()],
        flags: vec![None; kernel.values.len()],
        names: 0,
        current: "start".to_owned(),
    };
    for (i, &ty) in kernel.vars.iter().enumerate() {
        lower.slot(format_args!("%x{i} = alloca {}", type_name(ty)));
    }
    lower.block(&kernel.body);
    lower.finish()
}

/// The state of lowering one kernel.
pub(super) struct Lower<'a> {
    pub kernel: &'a Kernel,
    pub level: Level,
    /// Text of the blocks after the entry block.
    body: String,
    /// Text of the entry block: stack slots.
    entry: String,
    /// Intrinsics in use.
    declarations: BTreeSet<String>,
    /// The LLVM operand that each value has become.
    values: Vec<Option<String>>,
    /// For masks that come from comparisons: the comparison's own result, one bit a lane.
    flags: Vec<Option<String>>,
    /// How many names have been made.
    names: usize,
    /// Label of the block that is being written.
    current: String,
}

impl Lower<'_> {
    fn finish(self) -> String {
        let Lower { entry, body, .. } = &self;
        let name = &self.kernel.name;
        let mut text = format!(
            "define void @{name}(ptr %ptrs, ptr %scalars, i64 %begin, i64 %end, i64 %worker) #0 {{\n\
             entry:\n{entry}  br label %start\nstart:\n{body}  ret void\n}}\n\n"
        );
        for declaration in &self.declarations {
            text.push_str(declaration);
            text.push('\n');
        }
        text.push_str(&target::attributes(self.level));
        text
    }

    fn block(&mut self, block: &Block) {
        for stmt in block {
            self.stmt(stmt);
        }
    }

    fn stmt(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::Let(v, inst) => {
                let operand = self.inst(*v, inst);
                self.values[v.0 as usize] = Some(operand);
            }
            Stmt::Set(var, v) => {
                let (ty, value) = (self.ty_name(*v), self.value(*v));
                self.line(format_args!("store {ty} {value}, ptr %x{}", var.0));
            }
            Stmt::Store { ptr, offset, value } => self.store(*ptr, *offset, *value),
            Stmt::Prefetch { cache, ptr, offset } => self.prefetch(*cache, *ptr, *offset),
            Stmt::For {
                iv,
                start,
                end,
                step,
                body,
            } => self.for_loop(*iv, [*start, *end], *step, body),
            Stmt::If {
                cond,
                then,
                otherwise,
            } => self.if_else(*cond, then, otherwise),
        }
    }

    /// A test before the loop, and one after each turn.
    fn for_loop(&mut self, iv: Val, [start, end]: [Val; 2], step: i64, body: &Block) {
        let [turn, next, done] = ["turn", "next", "done"].map(|label| self.label(label));
        let (start, end) = (self.value(start), self.value(end));
        let before = self.current.clone();
        let enters = self.emit(format_args!("icmp slt i64 {start}, {end}"));
        self.branch(&enters, &turn, &done);

        self.open(&turn);
        let counter = self.emit(format_args!(
            "phi i64 [ {start}, %{before} ], [ %{next}.i, %{next} ]"
        ));
        self.values[iv.0 as usize] = Some(counter.clone());
        self.block(body);
        self.jump(&next);

        self.open(&next);
        // No counter that a turn runs with is beyond `end`, and `end + step` does not overflow.
        self.line(format_args!("%{next}.i = add nsw i64 {counter}, {step}"));
        let again = self.emit(format_args!("icmp slt i64 %{next}.i, {end}"));
        self.branch(&again, &turn, &done);
        self.open(&done);
    }

    fn if_else(&mut self, cond: Val, then: &Block, otherwise: &Block) {
        let [then_label, else_label, join] = ["then", "else", "join"].map(|l| self.label(l));
        let holds = match self.flag(cond) {
            Some(flag) => flag,
            None => {
                let (ty, cond) = (self.ty_name(cond), self.value(cond));
                self.emit(format_args!("icmp ne {ty} {cond}, 0"))
            }
        };
        self.branch(&holds, &then_label, &else_label);
        for (label, body) in [(then_label, then), (else_label, otherwise)] {
            self.open(&label);
            self.block(body);
            self.jump(&join);
        }
        self.open(&join);
    }

    fn branch(&mut self, cond: &str, holds: &str, fails: &str) {
        self.line(format_args!("br i1 {cond}, label %{holds}, label %{fails}"));
    }

    fn jump(&mut self, to: &str) {
        self.line(format_args!("br label %{to}"));
    }

    fn open(&mut self, label: &str) {
        self.put(format_args!("{label}:\n"));
        label.clone_into(&mut self.current);
    }

    fn put(&mut self, text: impl Display) {
        write!(self.body, "{text}").expect("a string takes all text");
    }

    /// Writes an instruction without a result, or one that names its result itself.
    pub fn line(&mut self, text: impl Display) {
        self.put(format_args!("  {text}\n"));
    }

    /// Writes an instruction into the entry block.
    pub fn slot(&mut self, text: impl Display) {
        writeln!(self.entry, "  {text}").expect("a string takes all text");
    }

    /// Writes an instruction and gives the name of its result.
    pub fn emit(&mut self, text: impl Display) -> String {
        let name = self.label("%t");
        self.line(format_args!("{name} = {text}"));
        name
    }

    /// A name that begins with `prefix` and that nothing else has.
    pub fn label(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }

    /// Calls an intrinsic. Types and values come in pairs.
    pub fn call(&mut self, result: &str, name: &str, args: &[(&str, &str)]) -> String {
        let text = self.call_text(result, name, args);
        self.emit(text)
    }

    /// The text of a call of an intrinsic, which is declared.
    pub fn call_text(&mut self, result: &str, name: &str, args: &[(&str, &str)]) -> String {
        let types: Vec<_> = args.iter().map(|(ty, _)| *ty).collect();
        let declaration = format!("declare {result} @{name}({})", types.join(", "));
        self.declarations.insert(declaration);
        let args: Vec<_> = args.iter().map(|(ty, v)| format!("{ty} {v}")).collect();
        format!("call {result} @{name}({})", args.join(", "))
    }

    /// The LLVM operand of a value.
    pub fn value(&self, v: Val) -> String {
        let value = self.values[v.0 as usize].as_ref();
        value.expect("the verifier has seen the definition").clone()
    }

    /// One bit a lane of a mask, if it comes from comparisons.
    pub fn flag(&self, v: Val) -> Option<String> {
        self.flags[v.0 as usize].clone()
    }

    /// Remembers the bits behind a mask.
    pub fn set_flag(&mut self, v: Val, flag: String) {
        self.flags[v.0 as usize] = Some(flag);
    }

    /// The KIR type of a value.
    pub fn ty(&self, v: Val) -> Ty {
        self.kernel.ty(v)
    }

    /// The LLVM type of a value.
    pub fn ty_name(&self, v: Val) -> String {
        type_name(self.ty(v))
    }

    /// The LLVM type of a value's elements.
    pub fn elem_name(&self, v: Val) -> &'static str {
        elem_name(self.ty(v).elem)
    }

    /// Whether the code is for x86-64.
    pub fn is_x86(&self) -> bool {
        self.level.arch() == Arch::X86_64
    }
}
