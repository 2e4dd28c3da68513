//! What is known of the processors that code is generated for.

use rabitc_codegen::backend::Backend;
use rabitc_ir::ops::residual_binary::Activations;
use rabitc_passes::tiles::Machine;
use rabitc_rbx::Level;

/// The processor that tiles are chosen for: the least of the targets, for all share the layout.
pub fn machine(backend: &dyn Backend, levels: &[Level]) -> Machine {
    let mut vectors = levels.iter().map(|level| backend.vectors(*level));
    Machine {
        permute: !levels.is_empty() && vectors.all(|v| v.permute),
    }
}

/// The most exact format of activations with which products still keep up with memory on all
/// targets: `docs/benchmarks.md` has the measurements.
pub fn activations(machine: &Machine) -> Activations {
    match machine.permute {
        true => Activations::Int16,
        false => Activations::Int8,
    }
}
