//! What is known of the processors that code is generated for.

use rabitc_codegen::backend::Backend;
use rabitc_ir::ops::residual_binary::Activations;
use rabitc_passes::tiles::Machine;
use rabitc_rbx::Level;

/// The processor that tiles are chosen for: the least of the targets, for all share the layout.
pub fn machine(backend: &dyn Backend, levels: &[Level]) -> Machine {
    let vectors = levels.iter().map(|level| backend.vectors(*level));
    let least = vectors.min_by_key(|v| (v.permute, v.bytes));
    let default = Machine::default();
    Machine {
        vector_bytes: least.map_or(default.vector_bytes, |v| v.bytes),
        permute: least.is_some_and(|v| v.permute),
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
