//! Whole training steps of small models.

use std::collections::BTreeMap;

use rabitc_ir::ops::effective_weight::Derive;
use rabitc_ir::{DType, Tensor};
use rabitc_train::cpu::CpuEngine;
use rabitc_train::engine::{Engine, State, Update};
use rabitc_train::interpreter::InterpreterEngine;

use super::model::{Setting, Step};

const SETTING: Setting = Setting {
    seq_len: 9,
    batch: 3,
    paths: 2,
    derive: Derive::Residual,
    frozen: 0,
    again: false,
    weights: DType::F32,
};

/// The outputs of one run in which nothing is trained, gradients among them.
fn outputs(engine: &mut dyn Engine, step: &Step) -> BTreeMap<String, Tensor> {
    step.set_weights(engine);
    let program = engine
        .program(&step.graph, step.tokens)
        .unwrap_or_else(|e| panic!("{e}"));
    engine
        .run(program, &step.inputs())
        .unwrap_or_else(|e| panic!("{e}"))
}

/// Compares losses and gradients with the interpreter's.
///
/// Rounding errors of a sum of n terms grow like √n·u (Higham and Mary, doi:10.1137/18M1226312),
/// and a gradient at the first layer has passed through some thirty sums a block, there and back,
/// which errors at most double in. Each gradient is compared as a whole, by its norm: single
/// elements may be differences of much larger numbers.
#[track_caller]
fn compare(model: &str, setting: Setting) {
    let step = Step::new(model, setting);
    let expected = outputs(&mut InterpreterEngine::new(), &step);
    let found = outputs(&mut CpuEngine::new(Some(2)).unwrap(), &step);
    assert_eq!(expected.len(), found.len());
    assert!(
        step.trained
            .iter()
            .all(|name| found.contains_key(&format!("grad.{name}")))
    );
    let widest = step
        .weights
        .values()
        .map(|w| w.floats().len().isqrt())
        .max();
    let sums = 60.0 * step.weights.keys().filter(|n| n.ends_with("rb_g")).count() as f64 / 7.0;
    let bound = sums * (widest.unwrap() as f64).sqrt() / f64::from(1 << 24);
    for (name, expected) in expected {
        let pairs = expected.floats().iter().zip(found[&name].floats());
        let pairs = pairs.map(|(a, b)| (f64::from(*a), f64::from(*b)));
        let error = pairs
            .clone()
            .map(|(a, b)| (a - b).powi(2))
            .sum::<f64>()
            .sqrt();
        let norm = pairs.map(|(a, _)| a.powi(2)).sum::<f64>().sqrt();
        assert!(norm > 0.0, "{name} is all zeros");
        assert!(
            error <= bound * norm,
            "{name}: {error:e} of {norm:e}, at most {bound:e} of it"
        );
    }
}

#[test]
fn a_step_is_what_the_interpreter_computes() {
    compare("books-1m", SETTING);
}

#[test]
fn so_it_is_with_latent_weights_of_their_own_and_activations_computed_again() {
    let derive = Derive::Independent;
    let setting = Setting {
        derive,
        paths: 3,
        frozen: 1,
        again: true,
        ..SETTING
    };
    compare("books-1m", setting);
}

/// Families with biases, norms of heads, soft caps, windows, and tied heads.
#[test]
fn so_it_is_for_all_families() {
    for family in ["gemma3", "qwen2", "qwen3", "mistral"] {
        let setting = Setting {
            again: family == "gemma3",
            ..SETTING
        };
        compare(&format!("fixtures/{family}"), setting);
    }
}

fn update(step: u64) -> Update {
    Update {
        step,
        seed: 5,
        learning_rates: vec![1e-3, 3e-3],
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        gradient_factor: 0.5,
    }
}

/// Losses of three steps of two runs each, and all that is held at their end.
fn train(threads: usize, step: &Step) -> (Vec<f32>, Vec<Vec<u32>>) {
    let mut engine = CpuEngine::new(Some(threads)).unwrap();
    step.set_weights(&mut engine);
    engine.train(&step.trainables()).unwrap();
    let program = engine.program(&step.graph, step.tokens).unwrap();
    let mut losses = Vec::new();
    for number in 1..=3 {
        for _ in 0..2 {
            let outputs = engine.run(program, &step.inputs()).unwrap();
            losses.push(outputs["loss"].floats()[0]);
        }
        let norm = engine.gradient_norm().unwrap();
        losses.push(norm as f32);
        engine.update(&update(number)).unwrap();
        assert_eq!(engine.gradient_norm().unwrap(), 0.0, "gradients remain");
    }
    let bits = |t: Tensor| t.floats().iter().map(|x| x.to_bits()).collect();
    let mut held: Vec<Vec<u32>> = Vec::new();
    for name in &step.trained {
        held.push(bits(engine.weight(name).unwrap()));
        for which in [State::Moment1, State::Moment2] {
            held.push(bits(engine.state(name, which).unwrap()));
        }
    }
    (losses, held)
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for weights in [DType::F32, DType::BF16] {
        let setting = Setting {
            seq_len: 40,
            weights,
            ..SETTING
        };
        let step = Step::new("books-1m", setting);
        let alone = train(1, &step);
        assert!(
            alone.0[6] < alone.0[0],
            "the loss does not fall: {:?}",
            alone.0
        );
        for threads in [2, 3] {
            assert!(
                alone == train(threads, &step),
                "{threads} threads, {weights}"
            );
        }
    }
}
