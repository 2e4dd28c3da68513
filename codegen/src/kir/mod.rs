//! The kernel IR: what a CPU kernel is before a backend turns it into machine code.
//!
//! A [`Kernel`] is a structured program (loops, conditionals, typed values, a few mutable
//! variables) over scalars and vectors. It knows neither models nor graphs; backends know
//! neither either. Kernels are written once, against [`builder::Builder`], with the vector width
//! as a parameter, and lowered by every backend.
//!
//! Every kernel has the same entry point:
//!
//! ```text
//! extern "C" fn(ptrs: *const *mut u8, scalars: *const i64, begin: i64, end: i64, worker: i64)
//! ```
//!
//! `ptrs[i]` is the base address of parameter `i`, `scalars[i]` the value of scalar `i`. The call
//! does the work items `begin..end`; calls with disjoint ranges may run at the same time, each
//! with its own `worker` number.
//!
//! [`types`] says what there is, [`check`] what is legal, [`interp`] what it means, [`mod@print`] how
//! it reads.

pub mod builder;
pub mod check;
mod elem;
pub mod interp;
pub mod print;
pub mod types;
pub mod visit;

mod typing;

pub use builder::Builder;
pub use types::{
    BinOp, Block, Cache, CmpOp, Elem, Inst, Kernel, MemType, Param, Stmt, Ty, UnOp, Val, Var,
};
