//! The launches of the programs for GPUs.

use rabitc_rbx::gpu::{Blocks, GpuArg, GpuProgram, GpuStep};
use rabitc_rbx::{GpuTarget, Manifest};

use crate::ui::{Align, Table};

/// The launches of every program of every architecture, in order.
pub fn plan(manifest: &Manifest) -> String {
    let programs = manifest
        .gpus
        .iter()
        .flat_map(|t| t.programs.iter().map(move |p| (t, p)));
    programs
        .map(|(t, p)| format!("{}, {}\n{}\n", t.arch, p.name, launches(t, p)))
        .collect()
}

fn launches(target: &GpuTarget, program: &GpuProgram) -> Table {
    let mut table = Table::new(&[
        ("node", Align::Left),
        ("kernel", Align::Left),
        ("blocks", Align::Left),
        ("arguments", Align::Left),
    ]);
    for step in &program.steps {
        let kernel = target.kernels.get(step.kernel);
        let arguments: Vec<_> = step.args.iter().map(|a| argument(target, a)).collect();
        table.row([
            step.node.as_str(),
            kernel.map_or("?", |k| k.name.as_str()),
            &grid(step),
            &arguments.join(" "),
        ]);
    }
    table
}

/// Blocks along x, y and z: `T` stands for the tokens of a run, `R` for its rows.
fn grid(step: &GpuStep) -> String {
    let blocks = step.grid.map(|blocks| match blocks {
        Blocks::Fixed(n) => n.to_string(),
        Blocks::PerTokens(1) => "T".to_owned(),
        Blocks::PerTokens(each) => format!("⌈T/{each}⌉"),
        Blocks::PerRows(1) => "R".to_owned(),
        Blocks::PerRows(each) => format!("⌈R/{each}⌉"),
    });
    blocks.join(" × ")
}

fn argument(target: &GpuTarget, argument: &GpuArg) -> String {
    let word = match argument {
        GpuArg::Arena(offset) => return format!("arena+{offset}"),
        GpuArg::Weight(name) => return name.clone(),
        GpuArg::Derived(n) => {
            let derived = target.derived.get(*n);
            return derived.map_or_else(|| "?".to_owned(), |d| d.name.clone());
        }
        GpuArg::Keys(layer) => return format!("keys[{layer}]"),
        GpuArg::Values(layer) => return format!("values[{layer}]"),
        GpuArg::Rope(n) => return format!("rope[{n}]"),
        GpuArg::Ids => "ids",
        GpuArg::Rows => "rows",
        GpuArg::Ring => "ring",
        GpuArg::State => "state",
        GpuArg::Seen => "seen",
        GpuArg::Sampling => "sampling",
    };
    word.to_owned()
}
