//! Running on NVIDIA GPUs.
//!
//! - [`driver`]: the CUDA driver, found at run time: devices, memory, modules, launches, graphs.
//! - [`launch`]: kernels; [`graph`]: launches recorded once and replayed.
//! - [`model`]: an artifact's weights and kernels on a device.
//! - [`profile`]: where the time of a step goes.
//! - [`session`]: one sequence on a device.
//! - [`workbench`]: kernels outside any model, timed.

mod choose;
pub mod driver;
pub mod graph;
pub mod launch;
mod memory;
pub mod model;
mod places;
pub mod profile;
pub mod session;
pub mod workbench;
