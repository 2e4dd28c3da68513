//! Everything that a GPU target refers to exists and fits.

use std::ops::Range;

use crate::gpu::{GpuArg, GpuProgram, GpuStep, GpuTarget};
use crate::manifest::Model;

/// Threads of a block that any GPU allows.
const MOST_THREADS: u32 = 1024;
/// Parameters of a kernel at most.
const MOST_PARAMS: usize = 24;

/// Checks one target; `section` gives the bytes that a tensor takes, if there is one.
///
/// # Errors
/// The first reference that leads nowhere.
pub fn check(
    target: &GpuTarget,
    model: &Model,
    section: &dyn Fn(&str) -> Option<Range<usize>>,
) -> Result<(), String> {
    let at = |reason: String| format!("{}: {reason}", target.arch);
    for (name, ranges) in [
        (
            &target.cubin_section,
            target.kernels.iter().map(|k| k.cubin).collect::<Vec<_>>(),
        ),
        (
            &target.ptx_section,
            target.kernels.iter().map(|k| k.ptx).collect(),
        ),
    ] {
        let bytes = section(name).ok_or_else(|| at(format!("has no code section `{name}`")))?;
        for (start, length) in ranges {
            if start
                .checked_add(length)
                .is_none_or(|end| end > bytes.len())
            {
                return Err(at(format!("code at {start} is outside `{name}`")));
            }
        }
    }
    for kernel in &target.kernels {
        let fits =
            (1..=MOST_THREADS).contains(&kernel.threads) && (1..=8).contains(&kernel.cluster);
        if !fits || kernel.params.len() > MOST_PARAMS {
            return Err(at(format!("kernel {} cannot be launched", kernel.name)));
        }
    }
    let probe = target.kernels.get(target.probe).map(|k| k.params.len());
    if probe != Some(3) {
        return Err(at("has no kernel to measure with".into()));
    }
    if target.ring == 0 || target.programs.is_empty() {
        return Err(at("has no program".into()));
    }
    for step in &target.setup {
        check_step(target, step, 0, model, section).map_err(at)?;
    }
    for program in &target.programs {
        check_program(target, program, model, section).map_err(at)?;
    }
    let arena = target.programs[0].arena_bytes;
    for step in [&target.next, &target.sample] {
        check_step(target, step, arena, model, section).map_err(at)?;
    }
    Ok(())
}

fn check_program(
    target: &GpuTarget,
    program: &GpuProgram,
    model: &Model,
    section: &dyn Fn(&str) -> Option<Range<usize>>,
) -> Result<(), String> {
    for step in &program.steps {
        check_step(target, step, program.arena_bytes, model, section)
            .map_err(|reason| format!("{} step `{}`: {reason}", program.name, step.node))?;
    }
    let rows = 1..=program.max_tokens;
    if !rows.contains(&program.max_rows) || program.head > program.steps.len() {
        return Err(format!("{}: no such rows", program.name));
    }
    let logits = program
        .max_rows
        .checked_mul(model.vocab_size)
        .and_then(|n| n.checked_mul(4));
    let end = logits.and_then(|n| n.checked_add(program.logits));
    match end.is_none_or(|end| end > program.arena_bytes) {
        true => Err(format!("{}: logits lie outside the arena", program.name)),
        false => Ok(()),
    }
}

fn check_step(
    target: &GpuTarget,
    step: &GpuStep,
    arena: usize,
    model: &Model,
    section: &dyn Fn(&str) -> Option<Range<usize>>,
) -> Result<(), String> {
    let kernel = target.kernels.get(step.kernel).ok_or("no such kernel")?;
    if kernel.params.len() != step.args.len() {
        return Err(format!("arguments do not fit kernel {}", kernel.name));
    }
    let exists = |arg: &GpuArg| match arg {
        GpuArg::Arena(offset) => *offset < arena.max(1),
        GpuArg::Weight(name) => section(name).is_some(),
        GpuArg::Derived(number) => *number < target.derived.len(),
        GpuArg::Keys(layer) | GpuArg::Values(layer) => *layer < model.n_layers,
        GpuArg::Rope(number) => *number < target.rope_tables.len(),
        GpuArg::Ids | GpuArg::Rows | GpuArg::Ring => true,
        GpuArg::State | GpuArg::Seen | GpuArg::Sampling => true,
    };
    match step.args.iter().find(|a| !exists(a)) {
        Some(arg) => Err(format!("refers to {arg:?}, which does not exist")),
        None => Ok(()),
    }
}
