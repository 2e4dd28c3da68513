//! What `verify` finds: every kernel once, and a kernel that computes something else than the graph
//! says.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use rabitc::compile::{Options, Targets, compile};
use rabitc::verify::{Check, verify};
use rabitc_ir::Graph;
use rabitc_rbx::Level;
use rabitc_runtime::pool::Pool;
use rabitc_runtime::{Model, Session};

use crate::Silent;

/// A model with all kinds of attention and norms, compiled for this machine, in a folder.
fn fixture() -> (tempfile::TempDir, Arc<Model>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.rbx");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fixtures/gemma3");
    let targets = Targets {
        levels: vec![Level::native().expect("this machine has a CPU level")],
        gpus: Vec::new(),
    };
    let options = Options {
        output: Some(path.clone()),
        ..Options::new(fixture, targets)
    };
    compile(&options, &mut Silent).expect("the fixture compiles");
    let model = Model::open(&path).expect("the artifact opens");
    (folder, Arc::new(model))
}

/// Checks the model against `graph` in runs of so many tokens.
fn checks(model: &Arc<Model>, graph: &Graph, runs: &[u32]) -> Vec<Check> {
    let pool = Arc::new(Pool::new(2).expect("a pool"));
    let mut session = Session::new(model.clone(), pool, 64).expect("a session");
    let runs: Vec<Vec<u32>> = runs.iter().map(|n| (5..5 + n).collect()).collect();
    verify(&mut session, graph, &runs, &mut |_| {}).expect("it runs")
}

fn parsed(text: &str) -> Graph {
    rabitc_ir::text::parse(text).expect("the graph parses")
}

#[test]
fn every_kernel_is_checked_once_at_each_number_of_tokens() {
    let (_folder, model) = fixture();
    let graph = parsed(model.artifact().graph().expect("a graph"));
    let once = checks(&model, &graph, &[1, 7]);
    let key = |c: &Check| (c.kernels.clone(), c.program.clone(), c.tokens);
    let keys: BTreeSet<_> = once.iter().map(key).collect();
    assert_eq!(keys.len(), once.len(), "something was checked twice");
    for program in 0..2 {
        let name = model.program_name(program);
        let checks = once.iter().filter(|c| c.program == name);
        let checked: BTreeSet<_> = checks.flat_map(|c| c.kernels.clone()).collect();
        let steps = model.steps(program).into_iter();
        let launched: BTreeSet<_> = steps.map(|step| step.kernel).collect();
        assert_eq!(checked, launched, "{name}");
    }
    // Attention reads what the runs before have left; the others have nothing new to show.
    let twice = checks(&model, &graph, &[1, 7, 1, 7]);
    assert_eq!(twice.len(), once.len());
    assert!(twice.iter().all(|c| c.worst <= 1.0), "{twice:#?}");
}

/// The node itself, and no other: those that follow are computed from what the kernel found.
#[test]
fn a_kernel_that_computes_something_else_is_found() {
    let (_folder, model) = fixture();
    let text = model.artifact().graph().expect("a graph");
    for (node, from, to) in [
        (
            "model.layers.0.post_attention_layernorm",
            "eps=1e-6",
            "eps=1e-2",
        ),
        (
            "model.layers.0.self_attn.attention",
            "window=16",
            "window=3",
        ),
        ("model.layers.0.mlp.down_proj", "act=gelu_tanh", "act=silu"),
        ("model.embed_tokens", "scale=9.8125", "scale=9.875"),
    ] {
        let line = format!("  %{node} = ");
        let line = text.lines().find(|l| l.starts_with(&line)).expect(node);
        assert!(line.contains(from), "{line}");
        let graph = parsed(&text.replace(line, &line.replace(from, to)));
        let checks = checks(&model, &graph, &[1, 7]);
        let wrong = checks.iter().filter(|c| c.worst > 1.0);
        let wrong: BTreeSet<_> = wrong.map(|c| c.node.as_str()).collect();
        assert_eq!(wrong, BTreeSet::from([node]));
    }
}
