//! The text form of kernels, for people and for snapshots.
//!
//! ```text
//! kernel scale {
//!   input x
//!   output y
//!   scalar n
//!   var $0: f32x4
//!
//!   v0: i64 = param x
//!   v3: f32x4 = load f16 [v0 + 32]
//!   $0 = v3
//!   for v5 in v1..v2 step 16 {
//!     v6: f32x4 = get $0
//!     v7: f32x4 = add v6, v3
//!     $0 = v7
//!     store [v4], v7
//!   }
//! }
//! ```

use super::types::{
    BinOp, Block, Cache, CmpOp, Elem, Inst, Kernel, MemType, Stmt, Ty, UnOp, Val, Var,
};
use std::fmt::{self, Write};

/// The text of a kernel; ends in a newline. Equal kernels have equal texts.
pub fn print(kernel: &Kernel) -> String {
    let mut text = String::new();
    for param in &kernel.params {
        let kind = if param.written { "output" } else { "input" };
        line(&mut text, 1, &format!("{kind} {}", param.name));
    }
    for scalar in &kernel.scalars {
        line(&mut text, 1, &format!("scalar {scalar}"));
    }
    for (number, ty) in kernel.vars.iter().enumerate() {
        line(&mut text, 1, &format!("var ${number}: {ty}"));
    }
    if !text.is_empty() && !kernel.body.is_empty() {
        text.push('\n');
    }
    print_block(&mut text, kernel, &kernel.body, 1);
    format!("kernel {} {{\n{text}}}\n", kernel.name)
}

/// The text of one statement without the blocks inside it, in one line.
pub fn print_stmt(kernel: &Kernel, stmt: &Stmt) -> String {
    match stmt {
        Stmt::Let(v, inst) => {
            let ty = kernel.values.get(v.0 as usize);
            let ty = ty.map_or("?".to_string(), Ty::to_string);
            format!("{v}: {ty} = {}", print_inst(kernel, inst))
        }
        Stmt::Set(var, v) => format!("{var} = {v}"),
        Stmt::Store { ptr, offset, value } => format!("store {}, {value}", address(*ptr, *offset)),
        Stmt::Prefetch { cache, ptr, offset } => {
            let cache = match cache {
                Cache::L1 => "l1",
                Cache::L2 => "l2",
            };
            format!("prefetch {cache} {}", address(*ptr, *offset))
        }
        Stmt::For {
            iv,
            start,
            end,
            step,
            ..
        } => format!("for {iv} in {start}..{end} step {step}"),
        Stmt::If { cond, .. } => format!("if {cond}"),
    }
}

fn print_block(text: &mut String, kernel: &Kernel, block: &Block, depth: usize) {
    for stmt in block {
        let head = print_stmt(kernel, stmt);
        match stmt {
            Stmt::For { body, .. } => {
                line(text, depth, &format!("{head} {{"));
                print_block(text, kernel, body, depth + 1);
                line(text, depth, "}");
            }
            Stmt::If {
                then, otherwise, ..
            } => {
                line(text, depth, &format!("{head} {{"));
                print_block(text, kernel, then, depth + 1);
                if !otherwise.is_empty() {
                    line(text, depth, "} else {");
                    print_block(text, kernel, otherwise, depth + 1);
                }
                line(text, depth, "}");
            }
            Stmt::Let(..) | Stmt::Set(..) | Stmt::Store { .. } | Stmt::Prefetch { .. } => {
                line(text, depth, &head);
            }
        }
    }
}

fn line(text: &mut String, depth: usize, content: &str) {
    for _ in 0..depth {
        text.push_str("  ");
    }
    text.push_str(content);
    text.push('\n');
}

fn print_inst(kernel: &Kernel, inst: &Inst) -> String {
    let half = |high: &bool| if *high { "high" } else { "low" };
    match inst {
        Inst::Param(i) => match kernel.params.get(*i) {
            Some(param) => format!("param {}", param.name),
            None => format!("param #{i}"),
        },
        Inst::Scalar(i) => match kernel.scalars.get(*i) {
            Some(name) => format!("scalar {name}"),
            None => format!("scalar #{i}"),
        },
        Inst::Stack { bytes } => format!("stack {bytes}"),
        Inst::Int(x) => format!("int {x}"),
        Inst::Float(x) if x.is_nan() => format!("float nan:0x{:08x}", x.to_bits()),
        Inst::Float(x) => format!("float {x:?}"),
        Inst::Bytes(bytes) => format!("bytes {}", hex(bytes)),
        Inst::Get(var) => format!("get {var}"),
        Inst::Shl(a, by) => format!("shl {a}, {by}"),
        Inst::Shr(a, by) => format!("shr {a}, {by}"),
        Inst::Sar(a, by) => format!("sar {a}, {by}"),
        Inst::WidenU(a, high) => format!("widen_u {} {a}", half(high)),
        Inst::WidenS(a, high) => format!("widen_s {} {a}", half(high)),
        Inst::Interleave(a, b, high) => format!("interleave {} {a}, {b}", half(high)),
        Inst::Extract(a, lane) => format!("extract {a}, {lane}"),
        Inst::Load { ptr, offset, mem } => {
            format!("load {}{}", mem_name(*mem), address(*ptr, *offset))
        }
        _ => with_operands(inst),
    }
}

/// The name of an instruction that has nothing but operands, and these.
fn with_operands(inst: &Inst) -> String {
    let mut text = inst_name(inst).to_string();
    for (i, operand) in inst.operands().into_iter().enumerate() {
        let separator = if i == 0 { " " } else { ", " };
        let _ = write!(text, "{separator}{operand}");
    }
    text
}

fn inst_name(inst: &Inst) -> &'static str {
    match inst {
        Inst::Param(_) => "param",
        Inst::Scalar(_) => "scalar",
        Inst::Begin => "begin",
        Inst::End => "end",
        Inst::Worker => "worker",
        Inst::Stack { .. } => "stack",
        Inst::Int(_) => "int",
        Inst::Float(_) => "float",
        Inst::Bytes(_) => "bytes",
        Inst::Splat(_) => "splat",
        Inst::Get(_) => "get",
        Inst::Bin(op, ..) => bin_name(*op),
        Inst::Un(UnOp::Neg, _) => "neg",
        Inst::Un(UnOp::Abs, _) => "abs",
        Inst::Un(UnOp::Sqrt, _) => "sqrt",
        Inst::Un(UnOp::Nearest, _) => "nearest",
        Inst::Fma(..) => "fma",
        Inst::Shl(..) => "shl",
        Inst::Shr(..) => "shr",
        Inst::Sar(..) => "sar",
        Inst::Cmp(CmpOp::Eq, ..) => "cmp_eq",
        Inst::Cmp(CmpOp::Lt, ..) => "cmp_lt",
        Inst::Cmp(CmpOp::Le, ..) => "cmp_le",
        Inst::Select(..) => "select",
        Inst::ToInt(_) => "to_int",
        Inst::ToFloat(_) => "to_float",
        Inst::Bitcast(_) => "bitcast",
        Inst::WidenU(..) => "widen_u",
        Inst::WidenS(..) => "widen_s",
        Inst::Narrow(..) => "narrow",
        Inst::Extend(_) => "extend",
        Inst::Trunc(_) => "trunc",
        Inst::Lookup16 { .. } => "lookup16",
        Inst::Permute { .. } => "permute",
        Inst::AddBytes(..) => "add_bytes",
        Inst::Interleave(..) => "interleave",
        Inst::Extract(..) => "extract",
        Inst::Sum(_) => "sum",
        Inst::MaxLane(_) => "max_lane",
        Inst::Load { .. } => "load",
    }
}

fn bin_name(op: BinOp) -> &'static str {
    match op {
        BinOp::Add => "add",
        BinOp::Sub => "sub",
        BinOp::Mul => "mul",
        BinOp::Div => "div",
        BinOp::Min => "min",
        BinOp::Max => "max",
        BinOp::And => "and",
        BinOp::Or => "or",
        BinOp::Xor => "xor",
    }
}

fn mem_name(mem: MemType) -> &'static str {
    match mem {
        MemType::Same => "",
        MemType::F16 => "f16 ",
        MemType::BF16 => "bf16 ",
        MemType::I8 => "i8 ",
    }
}

/// Bytes in memory order, four to a group.
fn hex(bytes: &[u8]) -> String {
    let groups = bytes.chunks(4);
    let groups = groups.map(|group| group.iter().map(|b| format!("{b:02x}")).collect());
    groups.collect::<Vec<String>>().join("_")
}

fn address(ptr: Val, offset: i32) -> String {
    match offset {
        0 => format!("[{ptr}]"),
        1.. => format!("[{ptr} + {offset}]"),
        _ => format!("[{ptr} - {}]", offset.unsigned_abs()),
    }
}

impl fmt::Display for Val {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}", self.0)
    }
}

impl fmt::Display for Var {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${}", self.0)
    }
}

impl fmt::Display for Elem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Elem::I8 => "i8",
            Elem::I16 => "i16",
            Elem::I32 => "i32",
            Elem::I64 => "i64",
            Elem::F32 => "f32",
        })
    }
}

impl fmt::Display for Ty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lanes {
            1 => write!(f, "{}", self.elem),
            lanes => write!(f, "{}x{lanes}", self.elem),
        }
    }
}

#[cfg(test)]
#[path = "print_tests.rs"]
mod tests;
