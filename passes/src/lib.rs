//! The passes over the graph IR, in one ordered list.
//!
//! [`PASSES`] is the list; [`run`] runs it. A pass is one file under `pass/` and one row here.

pub mod autodiff;
mod error;
pub mod fitted;
pub mod materialize;
pub mod options;
pub mod pass;
pub mod svid;
pub mod tiles;

use std::time::{Duration, Instant};

use rabitc_ir::Graph;

pub use error::PassError;
pub use options::{HeadForm, Options, Pattern};

/// One pass.
pub struct Pass {
    /// Name on the command line.
    pub name: &'static str,
    /// One line of what it does.
    pub description: &'static str,
    run: fn(&mut Graph, &Options) -> Result<(), PassError>,
}

/// Every pass, in the order they run in.
pub const PASSES: &[Pass] = &[
    Pass {
        name: "head",
        description: "gives the LM head the form that was asked for",
        run: pass::head::run,
    },
    Pass {
        name: "binarize",
        description: "turns dense linear layers into residual-binary paths",
        run: pass::binarize::run,
    },
    Pass {
        name: "fuse-paths",
        description: "gathers the paths of a layer into one residual_binary op",
        run: pass::fuse_paths::run,
    },
    Pass {
        name: "fuse-siblings",
        description: "joins residual_binary ops that share their input (q/k/v, gate/up)",
        run: pass::fuse_siblings::run,
    },
    Pass {
        name: "fuse-gate",
        description: "joins an activation function and the product that it gates",
        run: pass::fuse_gate::run,
    },
    Pass {
        name: "fuse-prologue",
        description: "moves norms and gates into the residual_binary ops that read them",
        run: pass::fuse_prologue::run,
    },
    Pass {
        name: "fuse-residual",
        description: "moves residual additions into the residual_binary ops before them",
        run: pass::fuse_residual::run,
    },
    Pass {
        name: "tile",
        description: "chooses tile and activation format of every residual_binary op",
        run: pass::tile::run,
    },
    Pass {
        name: "pack",
        description: "puts signs and scales into the layout that the kernels read",
        run: pass::pack::run,
    },
];

/// Runs every pass in order and verifies the graph after each. `observe` sees the graph after
/// every pass and how long the pass took.
pub fn run(
    graph: &mut Graph,
    options: &Options,
    observe: &mut dyn FnMut(&Pass, &Graph, Duration) -> Result<(), String>,
) -> Result<(), PassError> {
    for pass in PASSES {
        let start = Instant::now();
        run_one(pass, graph, options)?;
        observe(pass, graph, start.elapsed()).map_err(PassError::Other)?;
    }
    Ok(())
}

/// Runs one pass and verifies the graph after it.
pub fn run_one(pass: &Pass, graph: &mut Graph, options: &Options) -> Result<(), PassError> {
    (pass.run)(graph, options)?;
    graph.remove_dead();
    rabitc_ir::verify::verify(graph).map_err(|error| PassError::Broken {
        pass: pass.name,
        error,
    })
}

/// The pass of that name.
pub fn find(name: &str) -> Option<&'static Pass> {
    PASSES.iter().find(|p| p.name == name)
}
