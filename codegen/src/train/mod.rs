//! The plan of a training graph, for any device: which values are stored and as what, in which
//! order they are computed and by which kind of step, and where they lie in memory.
//!
//! A training step runs for one number of tokens, so everything has a known size. Nothing here
//! knows a device: an engine brings a kernel for each [`Step`]. The plan alone says how much
//! memory a step needs.
//!
//! - [`plan`](mod@plan): from a graph to steps.
//! - [`fuse`]: which elementwise nodes are computed inside the step that reads them.
//! - `merge`: elementwise steps over the same operands become one.
//! - `norms`: norms and the elementwise steps around them become one.
//! - [`precision`]: the element type of every stored value.
//! - [`memory`]: lifetimes and places.
//! - [`reference`]: what each step must compute.
//! - [`step`]: what a plan is made of.

mod expand;
pub mod fuse;
mod lower;
pub mod memory;
mod merge;
mod norms;
mod pairs;
pub mod plan;
pub mod precision;
mod print;
pub mod reference;
pub mod step;

pub use plan::{Options, plan};
pub use step::{Gemm, Kernel, KernelStep, Map, Place, Plan, Step, Store, Term, Value, View};
