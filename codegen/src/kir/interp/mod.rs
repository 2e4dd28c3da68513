//! The reference interpreter of kernels: slow, and the definition of what every backend must
//! compute.
//!
//! It checks every access to memory, so that running a kernel here shows whether it stays within
//! its buffers.

mod memory;
mod value;

use super::types::{Block, Elem, Inst, Kernel, MemType, Stmt, Ty, Val};
use super::visit::each_statement;
use half::{bf16, f16};
use memory::Memory;
use std::ops::Range;
use value::Value;

/// What fresh stack areas are filled with: kernels that read what they have not written show.
const STACK_FILL: u8 = 0xa5;

/// The arguments of a call.
pub struct Call<'a> {
    /// The buffer of each parameter, in order. They do not overlap.
    pub buffers: Vec<&'a mut [u8]>,
    /// The value of each scalar, in order.
    pub scalars: &'a [i64],
    /// The work items.
    pub range: Range<i64>,
    /// Number of the worker.
    pub worker: i64,
    /// Whether `Fma` rounds once; see [`crate::level::Level::has_fma`].
    pub fused: bool,
}

/// Runs a kernel.
///
/// # Errors
/// A kernel that [`super::check::check`] refuses, arguments that are not as many as the kernel
/// has, an access outside all buffers, a store to an input.
pub fn run(kernel: &Kernel, call: Call<'_>) -> Result<(), String> {
    super::check::check(kernel)?;
    let (params, scalars) = (kernel.params.len(), kernel.scalars.len());
    if (call.buffers.len(), call.scalars.len()) != (params, scalars) {
        return Err(format!("{params} buffers and {scalars} scalars are wanted"));
    }
    let mut stack = stack_areas(kernel);
    let mut memory = Memory::new();
    let params = kernel.params.iter().zip(call.buffers);
    let params = params.map(|(p, bytes)| memory.add(&p.name, bytes, p.written));
    let params = params.collect();
    let stack = stack.iter_mut();
    let stack = stack.map(|(v, bytes)| (*v, memory.add("the stack", bytes, true)));
    let stack = stack.collect();
    let mut machine = Machine {
        kernel,
        memory,
        params,
        stack,
        scalars: call.scalars,
        range: call.range,
        worker: call.worker,
        fused: call.fused,
        values: vec![None; kernel.values.len()],
        vars: vec![None; kernel.vars.len()],
    };
    machine.block(&kernel.body)
}

fn stack_areas(kernel: &Kernel) -> Vec<(Val, Vec<u8>)> {
    let mut areas = Vec::new();
    each_statement(&kernel.body, &mut |stmt| {
        if let Stmt::Let(v, Inst::Stack { bytes }) = stmt {
            areas.push((*v, vec![STACK_FILL; *bytes]));
        }
    });
    areas
}

struct Machine<'a> {
    kernel: &'a Kernel,
    memory: Memory<'a>,
    params: Vec<i64>,
    stack: Vec<(Val, i64)>,
    scalars: &'a [i64],
    range: Range<i64>,
    worker: i64,
    fused: bool,
    values: Vec<Option<Value>>,
    vars: Vec<Option<Value>>,
}

impl Machine<'_> {
    fn block(&mut self, block: &Block) -> Result<(), String> {
        for stmt in block {
            self.stmt(stmt)
                .map_err(|reason| self.located(stmt, reason))?;
        }
        Ok(())
    }

    /// Adds the innermost statement to an error that names none yet.
    fn located(&self, stmt: &Stmt, reason: String) -> String {
        match reason.contains('`') {
            true => reason,
            false => format!(
                "{reason}, in `{}`",
                super::print::print_stmt(self.kernel, stmt)
            ),
        }
    }

    fn stmt(&mut self, stmt: &Stmt) -> Result<(), String> {
        match stmt {
            Stmt::Let(v, inst) => {
                let value = self.inst(*v, inst)?;
                self.values[v.0 as usize] = Some(value);
            }
            Stmt::Set(var, v) => self.vars[var.0 as usize] = Some(self.value(*v)?.clone()),
            Stmt::Store { ptr, offset, value } => {
                let bytes = self.value(*value)?.bytes();
                self.memory.write(self.address(*ptr, *offset)?, &bytes)?;
            }
            Stmt::Prefetch { .. } => {}
            Stmt::For {
                iv,
                start,
                end,
                step,
                body,
            } => {
                let mut i = self.value(*start)?.scalar();
                let end = self.value(*end)?.scalar();
                while i < end {
                    self.values[iv.0 as usize] = Some(Value::int(i));
                    self.block(body)?;
                    i = i.saturating_add(*step);
                }
            }
            Stmt::If {
                cond,
                then,
                otherwise,
            } => match self.value(*cond)?.scalar() {
                0 => self.block(otherwise)?,
                _ => self.block(then)?,
            },
        }
        Ok(())
    }

    fn value(&self, v: Val) -> Result<&Value, String> {
        let value = self.values[v.0 as usize].as_ref();
        value.ok_or_else(|| format!("{v} has no value"))
    }

    fn address(&self, ptr: Val, offset: i32) -> Result<i64, String> {
        Ok(self.value(ptr)?.scalar().wrapping_add(offset.into()))
    }

    fn inst(&self, result: Val, inst: &Inst) -> Result<Value, String> {
        let ty = self.kernel.ty(result);
        let get = |v: &Val| self.value(*v);
        Ok(match inst {
            Inst::Param(i) => Value::int(self.params[*i]),
            Inst::Scalar(i) => Value::int(self.scalars[*i]),
            Inst::Begin => Value::int(self.range.start),
            Inst::End => Value::int(self.range.end),
            Inst::Worker => Value::int(self.worker),
            Inst::Stack { .. } => {
                let area = self.stack.iter().find(|(v, _)| *v == result);
                Value::int(area.map_or(0, |(_, address)| *address))
            }
            Inst::Int(x) => Value::splat(ty, *x as u64),
            Inst::Float(x) => Value::splat(ty, x.to_bits().into()),
            Inst::Bytes(group) => {
                let bytes: Vec<u8> = group.iter().copied().cycle().take(ty.bytes()).collect();
                Value::from_bytes(ty, &bytes)
            }
            Inst::Splat(a) => Value::splat(ty, get(a)?.lanes[0]),
            Inst::Get(var) => self.vars[var.0 as usize]
                .clone()
                .ok_or_else(|| format!("{var} has no value"))?,
            Inst::Bin(op, a, b) => value::bin(*op, get(a)?, get(b)?),
            Inst::Un(op, a) => value::un(*op, get(a)?),
            Inst::Fma(a, b, c) => value::fma(get(a)?, get(b)?, get(c)?, self.fused),
            Inst::Shl(a, by) => {
                let a = get(a)?;
                Value::build(ty, |i| a.lanes[i] << by)
            }
            Inst::Shr(a, by) => {
                let a = get(a)?;
                Value::build(ty, |i| a.lanes[i] >> by)
            }
            Inst::Sar(a, by) => {
                let a = get(a)?;
                Value::build(ty, |i| (a.signed(i) >> by) as u64)
            }
            Inst::Cmp(op, a, b) => value::cmp(*op, get(a)?, get(b)?, ty),
            Inst::Select(mask, a, b) => value::select(get(mask)?, get(a)?, get(b)?),
            Inst::Load { ptr, offset, mem } => self.load(ty, *ptr, *offset, *mem)?,
            _ => self.conversion(ty, inst)?,
        })
    }

    /// The instructions whose result is of another kind than their operands, and lane movements.
    fn conversion(&self, ty: Ty, inst: &Inst) -> Result<Value, String> {
        let get = |v: &Val| self.value(*v);
        let lanes = ty.lanes as usize;
        let half = |high: bool| if high { lanes } else { 0 };
        Ok(match inst {
            Inst::ToInt(a) => {
                let a = get(a)?;
                Value::build(ty, |i| a.f32(i).round_ties_even() as i32 as u64)
            }
            Inst::ToFloat(a) => {
                let a = get(a)?;
                Value::build(ty, |i| (a.signed(i) as f32).to_bits().into())
            }
            Inst::Bitcast(a) => Value::from_bytes(ty, &get(a)?.bytes()),
            Inst::WidenU(a, high) => {
                let a = get(a)?;
                Value::build(ty, |i| a.lanes[half(*high) + i])
            }
            Inst::WidenS(a, high) => {
                let a = get(a)?;
                Value::build(ty, |i| a.signed(half(*high) + i) as u64)
            }
            Inst::Narrow(a, b) => value::narrow(get(a)?, get(b)?, ty),
            Inst::Extend(a) => Value::int(get(a)?.scalar()),
            Inst::Trunc(a) => Value::splat(ty, get(a)?.lanes[0]),
            Inst::Lookup16 { table, index } => {
                let (table, index) = (get(table)?, get(index)?);
                Value::build(ty, |i| {
                    table.lanes[i / 16 * 16 + index.lanes[i] as usize % 16]
                })
            }
            Inst::Permute { table, index } => {
                let (table, index) = (get(table)?, get(index)?);
                Value::build(ty, |i| table.lanes[index.lanes[i] as usize % lanes])
            }
            Inst::AddBytes(sums, bytes) => {
                let (sums, bytes) = (get(sums)?, get(bytes)?);
                let four = |i: usize| bytes.lanes[4 * i..4 * i + 4].iter().sum::<u64>();
                Value::build(ty, |i| sums.lanes[i].wrapping_add(four(i)))
            }
            Inst::Interleave(a, b, high) => value::interleave(get(a)?, get(b)?, *high),
            Inst::Extract(a, lane) => Value::splat(ty, get(a)?.lanes[*lane as usize]),
            Inst::Sum(a) => Value::float(value::reduce(get(a)?, |x, y| x + y)),
            Inst::MaxLane(a) => Value::float(value::reduce(get(a)?, f32::max)),
            _ => return Err("an instruction that the interpreter does not know".into()),
        })
    }

    fn load(&self, ty: Ty, ptr: Val, offset: i32, mem: MemType) -> Result<Value, String> {
        let elem = match mem {
            MemType::Same => ty.elem,
            MemType::F16 | MemType::BF16 => Elem::I16,
            MemType::I8 => Elem::I8,
        };
        let stored = Ty {
            elem,
            lanes: ty.lanes,
        };
        let bytes = self
            .memory
            .read(self.address(ptr, offset)?, stored.bytes())?;
        let raw = Value::from_bytes(stored, bytes);
        let convert = |i: usize| match mem {
            MemType::Same => raw.lanes[i],
            MemType::F16 => f16::from_bits(raw.lanes[i] as u16)
                .to_f32()
                .to_bits()
                .into(),
            MemType::BF16 => bf16::from_bits(raw.lanes[i] as u16)
                .to_f32()
                .to_bits()
                .into(),
            MemType::I8 => (raw.signed(i) as f32).to_bits().into(),
        };
        Ok(Value::build(ty, convert))
    }
}

#[cfg(test)]
mod tests;
