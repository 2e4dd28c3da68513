//! What a graph becomes on a GPU, as text.

use std::fmt::Write;

use rabitc_codegen::cuda::plan::product::unmeasured;
use rabitc_codegen::cuda::plan::{GpuOptions, GpuPlan, plan};
use rabitc_ir::Graph;
use rabitc_passes::materialize::materialize;
use rabitc_rbx::SmArch;
use rabitc_rbx::gpu::{Blocks, GpuStep};

/// The launches of every program, and the text of the kernels whose names begin with one of `show`.
///
/// # Errors
/// A graph that there are no kernels for.
pub fn cuda(graph: &Graph, arch: SmArch, show: &[String]) -> Result<String, String> {
    let (graph, _) = materialize(graph).map_err(|e| e.to_string())?;
    let options = GpuOptions { arch, planes: 16 };
    let plan = plan(&graph, options, &unmeasured).map_err(|e| e.to_string())?;
    let mut out = String::new();
    launches(&mut out, &plan, "load", &plan.setup);
    for program in &plan.programs {
        let (tokens, rows) = (program.max_tokens, program.max_rows);
        let (body, head) = program.steps.split_at(program.head);
        launches(
            &mut out,
            &plan,
            &format!("{}, up to {tokens} tokens", program.name),
            body,
        );
        launches(
            &mut out,
            &plan,
            &format!(" for every {rows} rows of logits"),
            head,
        );
    }
    for choice in [&plan.next, &plan.sample] {
        launches(&mut out, &plan, "choice", std::slice::from_ref(choice));
    }
    for kernel in &plan.kernels {
        if show.iter().any(|start| kernel.name().starts_with(start)) {
            out.push_str(&kernel.source(arch).text);
        }
    }
    Ok(out)
}

fn launches(out: &mut String, plan: &GpuPlan, name: &str, steps: &[GpuStep]) {
    writeln!(out, "{name}").expect("a String");
    for step in steps {
        let kernel = plan.kernels[step.kernel].name();
        let grid: Vec<String> = step.grid.iter().map(blocks).collect();
        let args: Vec<String> = step.args.iter().map(|a| format!("{a:?}")).collect();
        let (grid, args) = (grid.join(" × "), args.join(", "));
        writeln!(out, "  %{} = {kernel}\n    [{grid}] ({args})", step.node).expect("a String");
    }
}

fn blocks(blocks: &Blocks) -> String {
    match blocks {
        Blocks::Fixed(n) => n.to_string(),
        Blocks::PerTokens(n) => format!("T/{n}"),
        Blocks::PerRows(n) => format!("R/{n}"),
    }
}
