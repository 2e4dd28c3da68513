//! The CUDA engine against the ops' definitions, the interpreter and AdamW in f64. Without a device
//! each test says why it does nothing.

#![cfg(feature = "cuda")]

mod common;

use common::device::{engine, inputs, trainable, update};
use common::{Setup, Step};
use rabitc_ir::ops::effective_weight::Derive;
use rabitc_ir::ops::sample::Sample;
use rabitc_ir::ops::source::{Input, Weight};
use rabitc_ir::ops::squared_error::Normalize;
use rabitc_ir::{DType, Graph, Interpreter, Tensor, Type};
use rabitc_train::adamw;
use rabitc_train::cuda::{CudaEngine, check};
use rabitc_train::engine::{Engine, Program, State};

/// Whether there is a device that tests can run on.
fn device() -> bool {
    match CudaEngine::new(0) {
        Ok(_) => true,
        Err(e) => {
            println!("skipped: {e}");
            false
        }
    }
}

const MODELS: [&str; 3] = [
    "models/fixtures/llama2",
    "models/fixtures/qwen2",
    "models/fixtures/variants/gemma3-softcap",
];

/// Setups that together have every kernel, in several shapes.
fn setups() -> [Setup; 3] {
    let plain = Setup::default();
    let odd = Setup {
        seq_len: 67,
        sequences: 2,
        derive: Derive::Independent,
        normalize: Normalize::Target,
        checkpoint: true,
        paths: 3,
        dtype: DType::BF16,
    };
    let long = Setup {
        seq_len: 160,
        sequences: 1,
        normalize: Normalize::Elements,
        ..plain
    };
    [plain, odd, long]
}

fn on_device(model: &str, setup: &Setup) -> (Step, CudaEngine, Program) {
    let step = common::step(&common::model(model), setup);
    let (engine, program) = engine(&step, setup.dtype).unwrap_or_else(|e| panic!("{model}: {e}"));
    (step, engine, program)
}

#[test]
fn every_step_agrees_with_its_definition() {
    if !device() {
        return;
    }
    for model in MODELS {
        for setup in setups() {
            let (step, mut engine, program) = on_device(model, &setup);
            let all = check(&mut engine, program, &inputs(&step)).unwrap();
            assert!(all.len() > 100, "{model}: {} results", all.len());
            let failed: Vec<_> = all.iter().filter(|c| !c.passed()).collect();
            assert!(failed.is_empty(), "{model} {setup:?}: {failed:#?}");
        }
    }
}

/// Heads of each size that kernels treat apart; the tiles of the widest fill most of the shared memory
/// that a block can have.
#[test]
fn wide_heads_agree_with_their_definition() {
    if !device() {
        return;
    }
    for (channels, seq_len) in [(64, 133), (96, 67), (128, 133), (256, 67)] {
        let folder = common::wide_heads(channels);
        let setup = Setup {
            seq_len,
            sequences: 2,
            ..Setup::default()
        };
        let step = common::step(&folder.path().join("model"), &setup);
        let (mut engine, program) = match engine(&step, setup.dtype) {
            Ok(found) => found,
            Err(e) if e.to_string().contains("bytes of shared memory") => {
                println!("skipped: {e}");
                continue;
            }
            Err(e) => panic!("{e}"),
        };
        let all = check(&mut engine, program, &inputs(&step)).unwrap();
        let failed: Vec<_> = all.iter().filter(|c| !c.passed()).collect();
        assert!(failed.is_empty(), "{channels}: {failed:#?}");
    }
}

/// A draw gives the class whose share of the probabilities it falls into, as far as f32 sums tell.
#[test]
fn draws_fall_into_the_shares_of_their_classes() {
    if !device() {
        return;
    }
    /// Terms of the longest sum, its last roundings, and those of an exponential, in units of 2⁻²⁴.
    const ROUNDINGS: usize = 256 + 64;
    for (rows, classes) in [(3, 1), (70, 23), (40, 2050), (300, 8192), (9, 50_001)] {
        let mut rng = common::Rng(classes as u64);
        let logits = (0..rows * classes).map(|_| 4.0 * rng.float()).collect();
        let logits = Tensor::f32(&[rows, classes], logits);
        let draw = |row: usize| match row % 5 {
            4 => -1,
            3 => i32::MAX,
            2 => 0,
            _ => (rng.next() >> 33) as i32,
        };
        let draws: Vec<i32> = (0..rows).map(draw).collect();
        let found = drawn(&logits, &draws);
        for ((row, draw), class) in logits.floats().chunks(classes).zip(&draws).zip(found) {
            if *draw < 0 {
                assert_eq!(class, -1);
                continue;
            }
            let weights: Vec<f64> = row.iter().map(|x| f64::from(*x).exp()).collect();
            let total: f64 = weights.iter().sum();
            let before = weights[..class as usize].iter().sum::<f64>() / total;
            let after = before + weights[class as usize] / total;
            let u = (f64::from(*draw) + 0.5) / f64::from(1u32 << 31);
            let slack = (ROUNDINGS + classes / 256) as f64 / f64::from(1u32 << 24);
            let share = before - slack..=after + slack;
            assert!(share.contains(&u), "{classes}: {class} for {u}: {share:?}");
        }
    }
}

/// What the device draws from logits.
fn drawn(logits: &Tensor, draws: &[i32]) -> Vec<i32> {
    let mut graph = Graph::new("draws");
    let (name, ty) = ("logits".to_string(), logits.ty());
    let weight = graph.add("logits", Weight { name, ty }, &[]).unwrap();
    let (name, ty) = ("draws".to_string(), Type::fixed(DType::I32, &[draws.len()]));
    let input = graph.add("draws", Input { name, ty }, &[]).unwrap();
    let classes = graph.add("classes", Sample {}, &[weight, input]).unwrap();
    graph.set_output("classes", classes);
    let mut engine = CudaEngine::new(0).unwrap();
    engine.set_weight("logits", logits).unwrap();
    let program = engine.program(&graph, draws.len()).unwrap();
    let outputs = engine.run(program, &[("draws", draws)]).unwrap();
    outputs["classes"].ints().to_vec()
}

/// Errors of single steps are bounded above; over a whole run they are those of numbers with 8
/// bits: losses agree to some of these, gradients, which are sums of many such numbers that partly
/// cancel, to a tenth of their norm.
#[test]
fn runs_agree_with_the_interpreter() {
    if !device() {
        return;
    }
    for model in MODELS {
        let (step, mut engine, program) = on_device(model, &Setup::default());
        let found = engine.run(program, &inputs(&step)).unwrap();
        let given = step.inputs.iter();
        let given = given.map(|(n, v)| (n.clone(), Tensor::i32(&[v.len()], v.clone())));
        let expected = Interpreter::new(&step.graph, &step.weights)
            .run(given)
            .unwrap();
        for (name, value) in &found {
            let (value, expected) = (value.floats()[0], expected[name].floats()[0]);
            let error = (value - expected).abs();
            assert!(
                error <= expected.abs() / 128.0,
                "{model} {name}: {value}, {expected}"
            );
        }
        for name in &step.trained {
            let own = engine.gradient(name).unwrap();
            let theirs = expected[&format!("grad.{name}")].floats();
            let square = |x: f32| f64::from(x).powi(2);
            let error: f64 = own
                .floats()
                .iter()
                .zip(theirs)
                .map(|(a, b)| square(a - b))
                .sum();
            let norm: f64 = theirs.iter().map(|b| square(*b)).sum();
            assert!(error <= 0.01 * norm, "{model} {name}: {error} of {norm}");
        }
    }
}

/// Updates of f32 weights round a few times; bf16 weights land on one of the two neighbours of the
/// exact result, on average without bias.
#[test]
fn updates_are_those_of_adamw() {
    if !device() {
        return;
    }
    for dtype in [DType::F32, DType::BF16] {
        let setup = Setup {
            dtype,
            ..Setup::default()
        };
        let (step, mut engine, program) = on_device(MODELS[0], &setup);
        let what = trainable(&step, dtype);
        let (mut bias, mut spread) = (0.0f64, 0.0f64);
        for n in 1..=2 {
            engine.run(program, &inputs(&step)).unwrap();
            let update = update(n);
            let before: Vec<_> = what.iter().map(|t| state(&mut engine, &t.name)).collect();
            engine.update(&update).unwrap();
            for (number, (one, before)) in what.iter().zip(before).enumerate() {
                let exact = common::device::trainable(&step, DType::F32)[number].clone();
                let reference = adamw::Step::new(&update, &exact, number).unwrap();
                let after = state(&mut engine, &one.name);
                assert!(after[1].iter().all(|g| *g == 0.0), "{}", one.name);
                for i in 0..after[0].len() {
                    let (mut m, mut v) = (before[2][i], before[3][i]);
                    let moments = (&mut m, &mut v);
                    let gradient = f64::from(before[1][i]);
                    let w = reference.apply(i, before[0][i], gradient, moments);
                    // The sum of what a moment was and of the gradient may cancel.
                    let scale = before[2][i].abs() + gradient.abs() as f32;
                    let first = (after[2][i] - m).abs() <= 1e-6 * scale;
                    let second = (after[3][i] - v).abs() <= 1e-6 * v + 1e-37;
                    assert!(first && second, "{} {i}", one.name);
                    let error = f64::from(after[0][i] - w);
                    match one.dtype {
                        DType::BF16 => {
                            assert!(error.abs() <= f64::from(w.abs()) / 128.0 + 1e-6);
                            bias += error;
                            spread += error * error;
                        }
                        _ => assert!(error.abs() <= 1e-6 * f64::from(w.abs()) + 1e-7),
                    }
                }
            }
        }
        // Five standard deviations of a sum of independent errors.
        assert!(
            bias.abs() <= 5.0 * spread.sqrt(),
            "{bias} of {}",
            spread.sqrt()
        );
    }
}

/// A weight, its gradient and its moments.
fn state(engine: &mut CudaEngine, name: &str) -> [Vec<f32>; 4] {
    let weight = engine.weight(name).unwrap();
    let gradient = engine.gradient(name).unwrap();
    let moments = [State::Moment1, State::Moment2].map(|m| engine.state(name, m).unwrap());
    let [first, second] = moments;
    [weight, gradient, first, second].map(|t| t.floats().to_vec())
}

#[test]
fn losses_fall_and_runs_repeat_to_the_bit() {
    if !device() {
        return;
    }
    let setup = Setup {
        seq_len: 64,
        sequences: 4,
        ..Setup::default()
    };
    let run = || {
        let (step, mut engine, program) = on_device("models/books-1m", &setup);
        let losses = (1..=20).map(|n| {
            let loss = engine.run(program, &inputs(&step)).unwrap()["loss"].floats()[0];
            let norm = engine.gradient_norm().unwrap();
            engine.update(&update(n)).unwrap();
            (loss, norm)
        });
        losses.collect::<Vec<_>>()
    };
    let first = run();
    assert!(first[19].0 < 0.8 * first[0].0, "{first:?}");
    assert_eq!(first, run());
}

/// What is wrong is said, and the engine goes on.
#[test]
fn bad_inputs_are_refused() {
    if !device() {
        return;
    }
    let (step, mut engine, program) = on_device(MODELS[0], &Setup::default());
    let good = inputs(&step);
    let long = vec![0; step.tokens + 1];
    let outside = vec![i32::MAX; step.tokens];
    let negative = vec![-1; step.tokens];
    let cases = [
        (vec![], "was not given"),
        (vec![("ids", &long[..])], "elements"),
        (vec![("ids", &outside[..])], "below"),
        (vec![("ids", &negative[..])], "below"),
        (vec![("labels", &outside[..])], "below"),
    ];
    for (changed, expected) in cases {
        let names: Vec<&str> = changed.iter().map(|(n, _)| *n).collect();
        let kept = good
            .iter()
            .filter(|(n, _)| !names.contains(n) && !changed.is_empty());
        let given: Vec<_> = kept.copied().chain(changed.iter().copied()).collect();
        let error = engine.run(program, &given).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(engine.run(Program(9), &good).is_err());
    assert!(
        engine
            .set_weight(&step.trained[0], &Tensor::f32(&[1], vec![0.0]))
            .is_err()
    );
    assert!(engine.program(&step.graph, step.tokens + 1).is_err());
    assert!(engine.run(program, &good).unwrap()["loss"].floats()[0].is_finite());
}
