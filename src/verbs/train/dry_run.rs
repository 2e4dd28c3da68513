//! `rabitc train --dry-run`: how much memory a run would take.

use std::path::Path;

use anyhow::Result;
use rabitc_frontend::{graph_of_config, model_config};
use rabitc_ir::Graph;
use rabitc_train::job::Engines;
use rabitc_train::memory::{self, MemoryPlan};
use rabitc_train::recipe::{Method, Recipe};
use rabitc_train::teacher::Teacher;
use serde::Serialize;

use super::args::Args;
use super::engines::Chosen;
use super::window;
use crate::open;
use crate::ui::{self, Align, Table};

/// What `--json` prints. The field names are an interface.
#[derive(Serialize)]
struct Report<'a> {
    recipe: &'a Recipe,
    plan: &'a MemoryPlan,
    methods: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    method: Method,
    plan: &'a MemoryPlan,
}

/// Prints the plan.
pub fn run(args: &Args, recipe: &Recipe) -> Result<()> {
    let (graph, context) = model(args)?;
    let window = (!args.valid.is_empty()).then(|| window(args.measuring.window, context));
    recipe.check_lengths(window, context)?;
    let storage = Chosen::new(args)?.storage();
    let plan = MemoryPlan::new(&graph, recipe, storage, window)?;
    let methods = memory::by_method(&graph, recipe, storage, window)?;
    if args.measuring.json {
        let rows = methods.iter();
        let methods = rows.map(|(method, plan)| Row {
            method: *method,
            plan,
        });
        return ui::print_json(&Report {
            recipe,
            plan: &plan,
            methods: methods.collect(),
        });
    }
    ui::print(&format!("{}\n{}", parts(recipe, &plan), compared(&methods)))
}

/// The model's graph and the most tokens of its context: of a checkpoint, or of a configuration
/// alone.
fn model(args: &Args) -> Result<(Graph, usize)> {
    let json = |path: &Path| path.extension().is_some_and(|e| e == "json");
    if json(&args.teacher) && !args.teacher.to_string_lossy().ends_with(".index.json") {
        let graph = graph_of_config(&args.teacher)?;
        return Ok((graph, model_config(&args.teacher)?.context_length));
    }
    let teacher = Teacher::open(
        &args.teacher,
        open::buffers(&args.student_args.rope_precision),
    )?;
    Ok((teacher.graph, teacher.info.context_length))
}

fn parts(recipe: &Recipe, plan: &MemoryPlan) -> Table {
    let mut table = Table::new(&[("memory", Align::Left), ("size", Align::Right)]);
    let (batch, seq_len) = (recipe.batch, recipe.seq_len);
    let rows = [
        ("student's weights".to_string(), plan.weights),
        ("teacher's weights".to_string(), plan.teacher),
        ("gradients".to_string(), plan.gradients),
        ("optimizer".to_string(), plan.optimizer),
        (
            format!("activations of {batch}×{seq_len} tokens"),
            plan.activations,
        ),
        ("in all".to_string(), plan.total),
    ];
    for (what, bytes) in rows {
        table.row([what, ui::size(bytes)]);
    }
    table
}

fn compared(methods: &[(Method, MemoryPlan)]) -> Table {
    let mut table = Table::new(&[
        ("method", Align::Left),
        ("in all", Align::Right),
        ("optimizer", Align::Right),
        ("bytes a binarized weight", Align::Right),
    ]);
    for (method, plan) in methods {
        table.row([
            method.name().to_string(),
            ui::size(plan.total),
            ui::size(plan.optimizer),
            format!("{:.2}", plan.optimizer_per_binarized),
        ]);
    }
    table
}
