//! Every kernel against the reference interpreter, over random odd shapes.
//!
//! A random model of a few layers goes the whole way: passes, plan, code, artifact, runtime. Then
//! `verify` runs it launch by launch and compares every result with the interpreter's, within the
//! bound of its arithmetic.

mod detection;
mod model;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use model::{Shape, model, plain, shapes};
use proptest::prelude::*;
use rabitc::compile::{Input, Options, Progress, Targets, assemble};
use rabitc::verify::verify;
use rabitc_ir::ops::residual_binary::Activations;
use rabitc_passes::HeadForm;
use rabitc_runtime::pool::Pool;
use rabitc_runtime::{Device, Model, Session};

struct Silent;

impl Progress for Silent {
    fn phase(&mut self, _: &'static str, _: u64) {}
    fn advance(&mut self, _: u64) {}
}

fn check(s: &Shape) {
    let targets = Targets {
        levels: vec![s.level],
        gpus: Vec::new(),
    };
    check_on(s, targets, 16, Device::Cpu);
}

/// How many tokens the runs of a model have, one after the other.
const RUNS: [u32; 6] = [1, 5, 3, 32, 2, 13];

/// Compiles a random model and checks every kernel of it on a device.
fn check_on(s: &Shape, targets: Targets, planes: usize, device: Device) {
    check_runs(s, targets, planes, device, &RUNS);
}

/// The same with runs of so many tokens, one after the other.
fn check_runs(s: &Shape, targets: Targets, planes: usize, device: Device, runs: &[u32]) {
    let context = (runs.iter().sum::<u32>() as usize).next_multiple_of(64);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.rbx");
    build(s, targets, planes, context, &path);
    let model = Arc::new(Model::open_on(&path, device).expect("the artifact opens"));
    model.artifact().check().expect("its hashes match");
    let graph =
        rabitc_ir::text::parse(model.artifact().graph().expect("a graph")).expect("it parses");
    let pool = Arc::new(Pool::new(s.threads).expect("a pool"));
    let mut session = Session::new(model, pool, context).expect("a session");
    let ids = |n: u32| -> Vec<u32> { (0..n).map(|i| (i * 7 + 1) % s.vocab as u32).collect() };
    let runs: Vec<_> = runs.iter().map(|n| ids(*n)).collect();
    let checks = verify(&mut session, &graph, &runs, &mut |_| {}).expect("it runs");
    let least = 4 * runs.len();
    assert!(checks.len() > least, "only {} checks", checks.len());
    let failed: Vec<_> = checks
        .iter()
        .filter(|c| c.worst.is_nan() || c.worst > 1.0)
        .collect();
    assert!(failed.is_empty(), "{failed:#?}\n{s:?}");
}

fn build(s: &Shape, targets: Targets, planes: usize, context: usize, path: &Path) {
    let (graph, weights) = model(s);
    let options = Options {
        output: Some(path.to_path_buf()),
        planes,
        backend: s.backend,
        passes: rabitc_passes::Options {
            paths: s.paths,
            keep_dense: s.keep_dense,
            head: s.head,
            activations: s.activations,
            ..Default::default()
        },
        ..Options::new(Default::default(), targets)
    };
    let input = Input {
        graph,
        model: rabitc_rbx::Model {
            vocab_size: s.vocab,
            context_length: context,
            n_layers: 1,
            n_heads: s.kv_heads * s.group,
            n_kv_heads: s.kv_heads,
            head_dim: s.half_head * 2,
            ..Default::default()
        },
        store: &weights,
        sections: Vec::new(),
        provenance: BTreeMap::new(),
        source_bytes: 0,
    };
    assemble(input, &options, &mut Silent).expect("the model compiles");
}

/// The first GPU, or a word on why a test does nothing.
fn gpu() -> Option<Targets> {
    let found = rabitc_runtime::cuda::driver::installed().map_err(|e| e.to_string());
    let first = found.and_then(|i| {
        i.devices
            .first()
            .cloned()
            .ok_or("there is no device".into())
    });
    let compiler = rabitc_codegen::cuda::Compiler::new().map_err(|e| e.to_string());
    match (first, compiler) {
        (Ok(device), Ok(_)) => Some(Targets {
            levels: Vec::new(),
            gpus: vec![device.arch],
        }),
        (Err(reason), _) | (_, Err(reason)) => {
            println!("skipped: {reason}");
            None
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn kernels_equal_the_interpreter_within_their_bounds(shape in shapes()) {
        check(&shape);
    }

    #[test]
    fn gpu_kernels_equal_the_interpreter_within_their_tolerance(shape in shapes()) {
        if let Some(targets) = gpu() {
            let planes = if shape.activations == Activations::F32 { 16 } else { 8 };
            check_on(&shape, targets, planes, Device::Cuda(0));
        }
    }
}

/// A model of one block, on the card; tests of their own, since the interpreter takes most of the time
/// and tests run beside each other.
fn check_larger(shape: Shape, runs: &[u32]) {
    let Some(targets) = gpu() else { return };
    check_runs(&shape, targets, 16, Device::Cuda(0), runs);
}

#[test]
fn gpu_kernels_of_larger_shapes_work_too() {
    let shape = Shape {
        hidden: 2048,
        ffn: 5504,
        kv_heads: 4,
        group: 4,
        half_head: 32,
        paths: 2,
        ..plain()
    };
    check_larger(shape, &RUNS);
}

#[test]
fn gpu_kernels_of_larger_odd_shapes_work_too() {
    let shape = Shape {
        hidden: 1536,
        ffn: 4100,
        kv_heads: 2,
        group: 1,
        half_head: 128,
        paths: 3,
        ..plain()
    };
    check_larger(shape, &RUNS);
}

/// One run for each program: of one token, of up to 4 and 8, and of a prompt.
#[test]
fn gpu_kernels_of_the_shapes_of_large_models_work_too() {
    let shape = Shape {
        hidden: 4096,
        ffn: 11008,
        kv_heads: 8,
        group: 1,
        half_head: 64,
        paths: 2,
        ..plain()
    };
    check_larger(shape, &[1, 3, 6, 17]);
}

/// Prompts of more than one tile, in tiles of 128 and, where a layer has rows enough, of 256 tokens.
#[test]
fn gpu_kernels_of_long_prompts_work_too() {
    let Some(targets) = gpu() else { return };
    for (ffn, window, paths) in [(700, 0, 2), (90, 100, 3)] {
        let shape = Shape {
            hidden: 70,
            ffn,
            kv_heads: 1,
            group: 2,
            half_head: 16,
            window,
            paths,
            ..plain()
        };
        let runs = [150, 530];
        check_runs(&shape, targets.clone(), 16, Device::Cuda(0), &runs);
    }
}

/// Logits of more rows than are computed together are those of each row alone, in any order.
#[test]
fn gpu_logits_come_in_blocks_of_rows() {
    let Some(targets) = gpu() else { return };
    let shape = Shape {
        hidden: 70,
        ffn: 90,
        ..plain()
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.rbx");
    build(&shape, targets, 16, 640, &path);
    let model = Arc::new(Model::open_on(&path, Device::Cuda(0)).expect("the artifact opens"));
    let pool = Arc::new(Pool::new(1).expect("a pool"));
    let mut session = Session::new(model, pool, 640).expect("a session");
    let ids: Vec<u32> = (0..600).map(|i| (i * 7 + 1) % shape.vocab as u32).collect();
    assert!(session.max_rows(ids.len()) * 2 < ids.len());
    let mut step = |rows: &[u32]| {
        session.rewind(0);
        session.step(&ids, rows).expect("it runs").to_vec()
    };
    let rows: Vec<u32> = (0..600).rev().collect();
    let all = step(&rows);
    for (at, row) in rows.iter().enumerate().step_by(97) {
        let logits = &all[at * shape.vocab..][..shape.vocab];
        assert_eq!(step(&[*row]), logits, "row {row}");
        assert!(logits.iter().all(|x| x.is_finite()) && logits.iter().any(|x| *x != logits[0]));
    }
}

#[test]
fn random_models_compile_for_gpus() {
    if let Err(error) = rabitc_codegen::cuda::Compiler::new() {
        println!("skipped: {error}");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let gpus = ["sm_80", "sm_90"]
        .map(|a| a.parse().expect("an architecture"))
        .to_vec();
    let targets = Targets {
        levels: Vec::new(),
        gpus,
    };
    let path = folder.path().join("model.rbx");
    let shape = Shape {
        hidden: 301,
        ffn: 602,
        kv_heads: 3,
        half_head: 19,
        paths: 3,
        softcap: 9.0,
        head: HeadForm::AsStored,
        ..plain()
    };
    build(&shape, targets, 16, 64, &path);
    let artifact = rabitc_rbx::Artifact::open(&path).expect("the artifact opens");
    artifact.check().expect("its hashes match");
    for target in &artifact.manifest().gpus {
        assert_eq!(target.programs.len(), 6);
        for kernel in &target.kernels {
            assert_eq!(kernel.resources.spill_stores, 0, "{}", kernel.name);
        }
    }
}

#[test]
fn the_smallest_and_the_most_even_shapes_work_too() {
    let mut shape = plain();
    check(&shape);
    shape.activations = Activations::F32;
    check(&shape);
    (shape.hidden, shape.ffn, shape.half_head, shape.vocab) = (512, 2048, 32, 64);
    (shape.paths, shape.head) = (8, HeadForm::Int8);
    check(&shape);
    shape.activations = Activations::Int8;
    check(&shape);
}
