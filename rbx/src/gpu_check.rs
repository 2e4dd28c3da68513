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
    check_code(
        &target.cubin_section,
        target.kernels.iter().map(|k| k.cubin),
        section,
    )
    .map_err(at)?;
    check_code(
        &target.ptx_section,
        target.kernels.iter().map(|k| k.ptx),
        section,
    )
    .map_err(at)?;
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

/// Checks that all code, first bytes and lengths, is in the section `name`.
fn check_code(
    name: &str,
    ranges: impl Iterator<Item = (usize, usize)>,
    section: &dyn Fn(&str) -> Option<Range<usize>>,
) -> Result<(), String> {
    let bytes = section(name).ok_or_else(|| format!("has no code section `{name}`"))?;
    for (start, length) in ranges {
        let end = start.checked_add(length);
        if end.is_none_or(|end| end > bytes.len()) {
            return Err(format!("code at {start} is outside `{name}`"));
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Blocks, GpuKernel, Resources};

    fn step() -> GpuStep {
        GpuStep {
            node: "lm_head".into(),
            kernel: 0,
            grid: [Blocks::ONE; 3],
            args: vec![GpuArg::Ids, GpuArg::Rows, GpuArg::Arena(0)],
        }
    }

    fn target() -> GpuTarget {
        let kernel = GpuKernel {
            name: "linear".into(),
            params: ["x", "rows", "out"].map(String::from).to_vec(),
            threads: 128,
            cluster: 1,
            shared: 0,
            overlaps: false,
            cubin: (0, 8),
            ptx: (0, 8),
            resources: Resources::default(),
            chosen_by: None,
        };
        GpuTarget {
            arch: "sm_90".parse().expect("an architecture"),
            planes: 16,
            compiler: String::new(),
            cubin_section: "code".into(),
            ptx_section: "code".into(),
            kernels: vec![kernel],
            derived: Vec::new(),
            rope_tables: Vec::new(),
            setup: Vec::new(),
            programs: vec![GpuProgram {
                name: "prompt".into(),
                max_tokens: 8,
                max_rows: 2,
                head: 0,
                arena_bytes: 4 * 10 * 2,
                logits: 0,
                steps: vec![step()],
            }],
            next: step(),
            sample: step(),
            probe: 0,
            ring: 16,
        }
    }

    /// What is wrong with a target that was changed.
    fn fault(change: impl FnOnce(&mut GpuTarget)) -> Option<String> {
        let mut target = target();
        change(&mut target);
        let model = Model {
            architecture: String::new(),
            family: String::new(),
            vocab_size: 10,
            context_length: 16,
            hidden_size: 4,
            n_layers: 1,
            n_heads: 1,
            n_kv_heads: 1,
            head_dim: 4,
            bos: None,
            eos: Vec::new(),
        };
        check(&target, &model, &|name| (name == "code").then_some(0..8)).err()
    }

    #[test]
    fn rows_of_logits_must_fit() {
        assert_eq!(fault(|_| {}), None);
        let program = |change: fn(&mut GpuProgram)| fault(|t| change(&mut t.programs[0])).unwrap();
        for rows in [program(|p| p.max_rows = 0), program(|p| p.max_rows = 9)] {
            assert!(rows.contains("no such rows"), "{rows}");
        }
        assert!(program(|p| p.head = 2).contains("no such rows"));
        for place in [
            program(|p| p.max_rows = 3),
            program(|p| p.logits = 4),
            program(|p| p.logits = usize::MAX),
        ] {
            assert!(place.contains("logits lie outside"), "{place}");
        }
    }

    #[test]
    fn what_a_target_refers_to_must_exist() {
        let arg = |arg: GpuArg| fault(|t| t.programs[0].steps[0].args[0] = arg).unwrap();
        for missing in [
            GpuArg::Arena(80),
            GpuArg::Weight("none".into()),
            GpuArg::Derived(0),
            GpuArg::Keys(1),
            GpuArg::Rope(0),
        ] {
            assert!(arg(missing).contains("does not exist"));
        }
        let broken = |change: fn(&mut GpuTarget), words: &str| {
            let fault = fault(change).unwrap();
            assert!(fault.contains(words), "{fault}");
        };
        broken(|t| t.next.kernel = 1, "no such kernel");
        broken(|t| t.sample.args.clear(), "arguments do not fit");
        broken(|t| t.kernels[0].cubin = (1, 8), "outside `code`");
        broken(|t| t.kernels[0].ptx = (usize::MAX, 2), "outside `code`");
        broken(|t| t.kernels[0].threads = 2048, "cannot be launched");
        broken(|t| t.ptx_section = "other".into(), "no code section");
        broken(|t| t.probe = 7, "measure with");
        broken(|t| t.programs.clear(), "no program");
    }
}
