//! The GPU targets of an artifact: kernels with what they use, and how often they are launched.

use rabitc_rbx::{Artifact, GpuTarget};

use crate::ui::{self, Align, Table};

/// One table a target; empty if there is none.
pub fn gpus(artifact: &Artifact) -> String {
    let targets = artifact.manifest().gpus.iter();
    targets.map(|target| one(artifact, target)).collect()
}

fn one(artifact: &Artifact, target: &GpuTarget) -> String {
    let bytes = |name: &str| artifact.tensor(name).map_or(0, |(_, b)| b.len() as u64);
    let derived: usize = target.derived.iter().map(|d| d.bytes).sum();
    let mut table = Table::new(&[
        ("kernel", Align::Left),
        ("launches", Align::Left),
        ("threads", Align::Right),
        ("cluster", Align::Right),
        ("registers", Align::Right),
        ("shared", Align::Right),
        ("spilled", Align::Right),
        ("tile by", Align::Left),
    ]);
    for (number, kernel) in target.kernels.iter().enumerate() {
        let r = &kernel.resources;
        table.row([
            kernel.name.clone(),
            launches(target, number),
            kernel.threads.to_string(),
            kernel.cluster.to_string(),
            r.registers.to_string(),
            ui::size(u64::from(kernel.shared + r.shared)),
            ui::size(u64::from(r.spill_stores)),
            kernel.chosen_by.clone().unwrap_or_default(),
        ]);
    }
    let programs = programs(target);
    format!(
        "\n{}: {}, {} of machine code, {} of PTX, activations of {} bits, {} repacked at load\n{table}\n{programs}",
        target.arch,
        target.compiler,
        ui::size(bytes(&target.cubin_section)),
        ui::size(bytes(&target.ptx_section)),
        target.planes,
        ui::size(derived as u64),
    )
}

/// The programs with the memory that they need. A session has the largest arena of those that its
/// context can use.
fn programs(target: &GpuTarget) -> Table {
    let right = |name| (name, Align::Right);
    let mut table = Table::new(&[
        ("program", Align::Left),
        right("tokens a run"),
        right("rows of logits at once"),
        right("launches"),
        right("arena"),
    ]);
    for program in &target.programs {
        table.row([
            program.name.clone(),
            program.max_tokens.to_string(),
            program.max_rows.to_string(),
            program.steps.len().to_string(),
            ui::size(program.arena_bytes as u64),
        ]);
    }
    table
}

/// How often each program launches a kernel.
fn launches(target: &GpuTarget, kernel: usize) -> String {
    let count =
        |steps: &[rabitc_rbx::gpu::GpuStep]| steps.iter().filter(|s| s.kernel == kernel).count();
    let mut parts: Vec<_> = target
        .programs
        .iter()
        .map(|p| (p.name.as_str(), count(&p.steps)))
        .filter(|(_, n)| *n > 0)
        .map(|(name, n)| format!("{name} {n}"))
        .collect();
    if count(&target.setup) > 0 {
        parts.push(format!("load {}", count(&target.setup)));
    }
    parts.join(", ")
}
