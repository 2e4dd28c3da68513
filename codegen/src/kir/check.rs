//! The verifier of kernels. What every backend may rely on:
//!
//! - names are letters, digits and `_`, do not begin with a digit, and no two parameters or
//!   scalars share one;
//! - a type is a scalar or a vector of 16, 32 or 64 bytes, and all vectors of a kernel have one
//!   size;
//! - every value is defined once, before its uses, in the block of the use or one around it;
//! - operands and results have the types of the instruction's rule; shift amounts and lane
//!   numbers are in range;
//! - a variable has been set on every way to each of its reads;
//! - loops step forward, conditions are integer scalars;
//! - stack areas are not empty and have no more than [`MAX_STACK_BYTES`] together.

use super::print::print_stmt;
use super::types::{Block, Elem, Inst, Kernel, Stmt, Ty, Val, Var};
use super::typing::check_types;
use std::collections::BTreeSet;

/// The most that the stack areas of one kernel have together. It keeps a kernel within any
/// thread's stack, which it does not probe.
pub const MAX_STACK_BYTES: usize = 64 << 10;

/// Checks a kernel against the rules above.
///
/// # Errors
/// The first rule that is broken, with the statement that breaks it.
pub fn check(kernel: &Kernel) -> Result<(), String> {
    check_names(kernel)?;
    check_shapes(kernel)?;
    let mut scope = Scope {
        kernel,
        defined: vec![State::Undefined; kernel.values.len()],
        set: vec![false; kernel.vars.len()],
        stack_bytes: 0,
    };
    scope.block(&kernel.body)
}

fn check_names(kernel: &Kernel) -> Result<(), String> {
    let legal = |name: &str| {
        let mut chars = name.chars();
        chars
            .next()
            .is_some_and(|c| c == '_' || c.is_ascii_alphabetic())
            && chars.all(|c| c == '_' || c.is_ascii_alphanumeric())
    };
    if !legal(&kernel.name) {
        return Err(format!("{:?} is not a name", kernel.name));
    }
    let mut seen = BTreeSet::new();
    let params = kernel.params.iter().map(|p| &p.name);
    for name in params.chain(&kernel.scalars) {
        if !legal(name) {
            return Err(format!("{name:?} is not a name"));
        }
        if !seen.insert(name) {
            return Err(format!("two parameters are called {name}"));
        }
    }
    Ok(())
}

fn check_shapes(kernel: &Kernel) -> Result<(), String> {
    let mut width = None;
    for &ty in kernel.values.iter().chain(&kernel.vars) {
        if ty.lanes == 1 {
            continue;
        }
        if !matches!(ty.bytes(), 16 | 32 | 64) {
            return Err(format!("{ty} is neither a scalar nor a vector"));
        }
        let first = *width.get_or_insert(ty.bytes());
        if ty.bytes() != first {
            return Err(format!(
                "{ty} is a vector of {} bytes in a kernel with vectors of {first}",
                ty.bytes()
            ));
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Undefined,
    /// Defined, and in scope.
    Live,
    /// Defined in a block that has ended.
    Ended,
}

struct Scope<'a> {
    kernel: &'a Kernel,
    defined: Vec<State>,
    set: Vec<bool>,
    stack_bytes: usize,
}

impl Scope<'_> {
    fn block(&mut self, block: &Block) -> Result<(), String> {
        let mut own = Vec::new();
        for stmt in block {
            let place = |reason| format!("{reason}, in `{}`", print_stmt(self.kernel, stmt));
            self.head(stmt, &mut own).map_err(place)?;
            match stmt {
                Stmt::For { iv, body, .. } => self.for_body(*iv, body)?,
                Stmt::If {
                    then, otherwise, ..
                } => self.branches(then, otherwise)?,
                Stmt::Let(..) | Stmt::Set(..) | Stmt::Store { .. } | Stmt::Prefetch { .. } => {}
            }
        }
        for v in own {
            self.defined[v.0 as usize] = State::Ended;
        }
        Ok(())
    }

    /// Checks a statement without the blocks inside it. What it defines is added to `own`.
    fn head(&mut self, stmt: &Stmt, own: &mut Vec<Val>) -> Result<(), String> {
        match stmt {
            Stmt::Let(v, inst) => {
                self.inst(*v, inst)?;
                own.push(*v);
                self.define(*v)
            }
            Stmt::Set(var, v) => {
                let ty = *self.variable(*var)?;
                self.expect(*v, ty)?;
                self.set[var.0 as usize] = true;
                Ok(())
            }
            Stmt::Store { ptr, value, .. } => {
                self.expect(*ptr, Ty::I64)?;
                self.used(*value).map(|_| ())
            }
            Stmt::Prefetch { ptr, .. } => self.expect(*ptr, Ty::I64),
            Stmt::For {
                start, end, step, ..
            } => {
                self.expect(*start, Ty::I64)?;
                self.expect(*end, Ty::I64)?;
                match step {
                    1.. => Ok(()),
                    _ => Err(format!("a step of {step}")),
                }
            }
            Stmt::If { cond, .. } => {
                let ty = self.used(*cond)?;
                match ty.lanes == 1 && ty.elem != Elem::F32 {
                    true => Ok(()),
                    false => Err(format!("a condition of type {ty}")),
                }
            }
        }
    }

    fn inst(&mut self, result: Val, inst: &Inst) -> Result<(), String> {
        for operand in inst.operands() {
            self.used(operand)?;
        }
        match inst {
            Inst::Get(var) => {
                self.variable(*var)?;
                if !self.set[var.0 as usize] {
                    return Err(format!("{var} may not have been set"));
                }
            }
            Inst::Stack { bytes } => self.stack(*bytes)?,
            _ => {}
        }
        check_types(self.kernel, inst, self.typed(result)?)
    }

    fn stack(&mut self, bytes: usize) -> Result<(), String> {
        self.stack_bytes = self.stack_bytes.saturating_add(bytes);
        match bytes {
            0 => Err("a stack area of no bytes".into()),
            _ if self.stack_bytes > MAX_STACK_BYTES => Err(format!(
                "stack areas of {} bytes together; {MAX_STACK_BYTES} are the most",
                self.stack_bytes
            )),
            _ => Ok(()),
        }
    }

    /// A loop may run no turn: what its body sets is not set after it.
    fn for_body(&mut self, iv: Val, body: &Block) -> Result<(), String> {
        let before = self.set.clone();
        self.expect_type(iv, Ty::I64)?;
        self.define(iv)?;
        self.block(body)?;
        self.defined[iv.0 as usize] = State::Ended;
        self.set = before;
        Ok(())
    }

    fn branches(&mut self, then: &Block, otherwise: &Block) -> Result<(), String> {
        let before = self.set.clone();
        self.block(then)?;
        let after_then = std::mem::replace(&mut self.set, before);
        self.block(otherwise)?;
        for (set, also) in self.set.iter_mut().zip(after_then) {
            *set &= also;
        }
        Ok(())
    }

    fn define(&mut self, v: Val) -> Result<(), String> {
        let state = self
            .defined
            .get_mut(v.0 as usize)
            .ok_or_else(|| format!("{v} has no type"))?;
        if *state != State::Undefined {
            return Err(format!("{v} is defined twice"));
        }
        *state = State::Live;
        Ok(())
    }

    fn typed(&self, v: Val) -> Result<Ty, String> {
        let ty = self.kernel.values.get(v.0 as usize).copied();
        ty.ok_or_else(|| format!("{v} has no type"))
    }

    fn expect_type(&self, v: Val, wanted: Ty) -> Result<(), String> {
        let ty = self.typed(v)?;
        match ty == wanted {
            true => Ok(()),
            false => Err(format!("{v} is {ty}, not {wanted}")),
        }
    }

    fn used(&self, v: Val) -> Result<Ty, String> {
        let ty = self.typed(v)?;
        match self.defined[v.0 as usize] {
            State::Live => Ok(ty),
            State::Undefined => Err(format!("{v} is used before it is defined")),
            State::Ended => Err(format!("{v} is used outside the block that defines it")),
        }
    }

    fn expect(&self, v: Val, wanted: Ty) -> Result<(), String> {
        self.used(v)?;
        self.expect_type(v, wanted)
    }

    fn variable(&self, var: Var) -> Result<&Ty, String> {
        let ty = self.kernel.vars.get(var.0 as usize);
        ty.ok_or_else(|| format!("{var} has no type"))
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
