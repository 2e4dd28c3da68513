//! The CUDA engine on this machine: its speed, and whether a large step fits.
//!
//!     cuda_bench speed MODEL [SEQ [SEQUENCES]]
//!     cuda_bench fit MODEL [SEQ]          one step with bf16 weights and recomputation; of MODEL
//!                                         only the configuration is read
//!     cuda_bench plan MODEL [SEQ]         the memory of that step, without a device

#[path = "../tests/common/mod.rs"]
mod common;

use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use common::device::{engine, inputs, update};
use common::{Rng, Setup};
use rabitc_codegen::train::{Options, Place, Step as PlanStep, memory, plan};
use rabitc_ir::{DType, Graph, Op};
use rabitc_train::cuda::CudaEngine;
use rabitc_train::engine::{Engine, Trainable};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default| args.get(i).map_or(Ok(default), |a| a.parse::<usize>());
    match args.first().map(String::as_str) {
        Some("speed") if args.len() > 1 => {
            speed(Path::new(&args[1]), number(2, 512)?, number(3, 48)?)
        }
        Some("fit") if args.len() > 1 => fit(Path::new(&args[1]), number(2, 2048)?),
        Some("plan") if args.len() > 1 => planned(Path::new(&args[1]), number(2, 2048)?),
        _ => Err("say speed, fit or plan, and a model's folder".into()),
    }
}

fn speed(folder: &Path, seq_len: usize, sequences: usize) -> Result<(), Failure> {
    let setup = Setup {
        seq_len,
        sequences,
        ..Setup::default()
    };
    let step = common::step(folder, &setup);
    let start = Instant::now();
    let (mut engine, program) = engine(&step, setup.dtype)?;
    println!(
        "{}: ready in {:.1} s",
        engine.describe(),
        start.elapsed().as_secs_f64()
    );
    let (warm, timed) = (4, 20);
    let mut start = Instant::now();
    for n in 1..=warm + timed {
        if n == warm + 1 {
            start = Instant::now();
        }
        let out = engine.run(program, &inputs(&step))?;
        let norm = engine.gradient_norm()?;
        engine.update(&update(n))?;
        if n <= 2 || n == warm + timed {
            println!(
                "step {n}: loss {:?}, gradient norm {norm}",
                out["loss"].floats()
            );
        }
    }
    let seconds = start.elapsed().as_secs_f64() / timed as f64;
    println!(
        "{sequences} x {seq_len} tokens: {:.2} ms a step, {:.0} tokens/s",
        seconds * 1e3,
        step.tokens as f64 / seconds
    );
    println!("{:?}", engine.memory());
    for (kind, milliseconds, launches) in engine.profile(program, &inputs(&step))? {
        println!("{milliseconds:9.3} ms {launches:5} × {kind}");
    }
    Ok(())
}

/// The setup of a large step.
fn large(seq_len: usize) -> Setup {
    Setup {
        seq_len,
        sequences: 1,
        checkpoint: true,
        dtype: DType::BF16,
        ..Setup::default()
    }
}

/// The memory of a large step, and what takes most of it at its peak.
fn planned(folder: &Path, seq_len: usize) -> Result<(), Failure> {
    let (graph, trained) = common::graph_of_config(folder, &large(seq_len));
    let options = Options {
        tokens: seq_len,
        storage: DType::BF16,
        trained: trained.into_iter().collect(),
        join_norms: true,
    };
    let plan = plan(&graph, &options)?;
    let lives = memory::lifetimes(&plan);
    let alive = |step: usize| {
        let values = plan.values.iter().zip(&lives);
        let here = values.filter(|(v, l)| {
            let arena = matches!(v.place, Place::Arena(_));
            arena && l.is_some_and(|l| l.first <= step && step <= l.last)
        });
        here.map(|(v, _)| v).collect::<Vec<_>>()
    };
    let bytes = |step: &usize| alive(*step).iter().map(|v| v.bytes()).sum::<usize>();
    let peak = (0..plan.steps.len()).max_by_key(bytes).ok_or("no steps")?;
    let (steps, node) = (plan.steps.len(), plan.steps[peak].node());
    println!(
        "{steps} steps, arena {}, most alive {} at %{node}",
        plan.arena,
        bytes(&peak)
    );
    let mut there = alive(peak);
    there.sort_by_key(|v| std::cmp::Reverse(v.bytes()));
    for value in there.iter().take(30) {
        println!(
            "{:12} {} {:?} {}",
            value.bytes(),
            value.dtype,
            value.shape,
            value.name
        );
    }
    let mut kinds = std::collections::BTreeMap::<&str, usize>::new();
    for step in &plan.steps {
        *kinds
            .entry(match step {
                PlanStep::Gemm(_) => "gemm",
                PlanStep::Map(_) => "map",
                PlanStep::Kernel(kernel) => kernel.kernel.name(),
            })
            .or_default() += 1;
    }
    println!("{kinds:?}");
    Ok(())
}

/// Weights of the right sizes, all from one buffer of small random bf16 numbers.
fn fit(folder: &Path, seq_len: usize) -> Result<(), Failure> {
    let setup = large(seq_len);
    let (graph, trained) = common::graph_of_config(folder, &setup);
    let options = Options {
        tokens: seq_len,
        storage: DType::BF16,
        trained: trained.iter().cloned().collect::<HashSet<_>>(),
        join_norms: true,
    };
    let planned = plan(&graph, &options)?.arena as u64;
    let mut engine = CudaEngine::new(0)?;
    let what = random_weights(&mut engine, &graph, &trained)?;
    engine.train(&what)?;
    let start = Instant::now();
    let program = engine.program(&graph, seq_len)?;
    println!("ready in {:.1} s", start.elapsed().as_secs_f64());
    let given = common::inputs(&graph, &setup);
    let given: Vec<_> = given
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_slice()))
        .collect();
    for n in 1..=3 {
        let start = Instant::now();
        let out = engine.run(program, &given)?;
        let norm = engine.gradient_norm()?;
        engine.update(&update(n))?;
        engine.gradient_norm()?;
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "step {n}: {seconds:.2} s, loss {:?}, norm {norm}",
            out["loss"].floats()
        );
    }
    let memory = engine.memory();
    let total = memory.weights + memory.gradients + memory.moments + planned;
    println!("{memory:?}");
    println!(
        "plan {total}, peak {}: {:.3}",
        memory.peak,
        memory.peak as f64 / total as f64
    );
    Ok(())
}

fn random_weights(
    engine: &mut CudaEngine,
    graph: &Graph,
    trained: &[String],
) -> Result<Vec<Trainable>, Failure> {
    let mut rng = Rng(11);
    let random: Vec<u8> = (0..1 << 20)
        .flat_map(|_| half::bf16::from_f32(rng.float() * 0.02).to_le_bytes())
        .collect();
    let mut what = Vec::new();
    let mut seen = HashSet::new();
    for id in graph.order() {
        let Op::Weight(weight) = graph.op(id) else {
            continue;
        };
        if !seen.insert(weight.name.clone()) {
            continue;
        }
        let shape = weight.ty.fixed_shape().ok_or("a weight's size")?;
        let elements: usize = shape.iter().product();
        let bytes: Vec<u8> = match weight.ty.dtype {
            DType::F32 => (0..elements).flat_map(|_| 0.1f32.to_le_bytes()).collect(),
            _ => {
                let mut bytes = random.repeat((elements * 2).div_ceil(random.len()));
                bytes.truncate(elements * 2);
                bytes
            }
        };
        engine.set_weight_bytes(&weight.name, weight.ty.dtype, &shape, &bytes)?;
        if trained.contains(&weight.name) {
            what.push(Trainable {
                name: weight.name.clone(),
                shape,
                dtype: weight.ty.dtype,
                group: usize::from(weight.ty.dtype == DType::F32),
                decay: 0.0,
            });
        }
    }
    Ok(what)
}
