//! Updates against AdamW in f64.

use proptest::prelude::*;
use rabitc_ir::ops::source::Weight;
use rabitc_ir::ops::sums::WeightedSum;
use rabitc_ir::{DType, Graph, Tensor, Type};
use rabitc_train::cpu::CpuEngine;
use rabitc_train::engine::{Engine, Program, State, Trainable, Update};

use super::Rng;

/// Unit roundoff of f32.
const U: f64 = 1.0 / (1u64 << 24) as f64;

/// An engine that trains `w`, and a program that adds the weight `x` to its gradient.
fn engine(w: &Tensor, decay: f32) -> (CpuEngine, Program) {
    let mut engine = CpuEngine::new(Some(2)).unwrap();
    engine.set_weight("w", w).unwrap();
    let x = Tensor::f32(&w.shape, vec![0.0; w.floats().len()]);
    engine.set_weight("x", &x).unwrap();
    let trainable = Trainable {
        name: "w".into(),
        shape: w.shape.clone(),
        dtype: w.dtype,
        group: 1,
        decay,
    };
    engine.train(&[trainable]).unwrap();
    let mut graph = Graph::new("test");
    let source = Weight {
        name: "x".into(),
        ty: Type::fixed(DType::F32, &w.shape),
    };
    let x = graph.add("x", source, &[]).unwrap();
    let factors = vec![1.0];
    let gradient = graph
        .add("gradient", WeightedSum { factors }, &[x])
        .unwrap();
    graph.set_output("grad.w", gradient);
    let program = engine.program(&graph, 1).unwrap();
    (engine, program)
}

/// One step in f64: the moments and the weight after it.
fn adamw(u: &Update, decay: f32, w: f64, g: f64, [m, v]: [f64; 2]) -> [f64; 3] {
    let (beta1, beta2) = (f64::from(u.beta1), f64::from(u.beta2));
    let g = g * f64::from(u.gradient_factor);
    let m = beta1 * m + (1.0 - beta1) * g;
    let v = beta2 * v + (1.0 - beta2) * g * g;
    let correct = |x: f64, beta: f64| x / (1.0 - beta.powf(u.step as f64));
    let direction = correct(m, beta1) / (correct(v, beta2).sqrt() + f64::from(u.eps));
    let rate = f64::from(u.learning_rates[1]);
    [m, v, w - rate * (direction + f64::from(decay) * w)]
}

fn update(step: u64) -> Update {
    Update {
        step,
        seed: 3,
        learning_rates: vec![0.0, 0.01],
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-6,
        gradient_factor: 0.25,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Each step starts from what the engine holds, so that only its own roundings count: those of
    /// the constants, of the sums of the moments, which may cancel, and of the direction.
    #[test]
    fn an_update_is_a_step_of_adamw(
        n in prop_oneof![1..60usize, 4090..4200usize],
        decay in prop_oneof![Just(0.0f32), Just(0.1)],
        seed in any::<u64>(),
    ) {
        let mut rng = Rng(seed);
        let (mut engine, program) = engine(&rng.tensor(&[n]), decay);
        for step in 1..=4 {
            let g = rng.tensor(&[n]);
            engine.set_weight("x", &g).unwrap();
            engine.run(program, &[]).unwrap();
            let before = held(&mut engine);
            engine.update(&update(step)).unwrap();
            let after = held(&mut engine);
            for i in 0..n {
                let [w, m, v] = [0, 1, 2].map(|k| f64::from(before[k].floats()[i]));
                let g = f64::from(g.floats()[i]);
                let [m1, v1, w1] = adamw(&update(step), decay, w, g, [m, v]);
                let error = |k: usize, x: f64| (f64::from(after[k].floats()[i]) - x).abs();
                let terms = m.abs() + g.abs();
                prop_assert!(error(1, m1) <= 4.0 * U * terms);
                prop_assert!(error(2, v1) <= 6.0 * U * v1);
                // The direction is off by what m is, and by some roundings.
                let rate = 0.01;
                let unit = rate / (v1 / (1.0 - 0.99f64.powf(step as f64))).sqrt().max(1e-6);
                let moved = unit * terms / (1.0 - 0.9f64.powf(step as f64));
                prop_assert!(error(0, w1) <= 4.0 * U * w.abs() + 16.0 * U * moved);
            }
        }
    }
}

/// The weight and both moments.
fn held(engine: &mut CpuEngine) -> [Tensor; 3] {
    let [m, v] = [State::Moment1, State::Moment2].map(|s| engine.state("w", s).unwrap());
    [engine.weight("w").unwrap(), m, v]
}

/// A weight held in bf16 becomes one of its neighbours, and is right on average.
#[test]
fn rounding_to_bf16_is_unbiased() {
    let n = 1 << 16;
    let w = Tensor {
        dtype: DType::BF16,
        ..Tensor::f32(&[n], vec![1.0; n])
    };
    let (mut engine, program) = engine(&w, 0.0);
    engine
        .set_weight("x", &Tensor::f32(&[n], vec![-1.0; n]))
        .unwrap();
    engine.run(program, &[]).unwrap();
    let mut update = update(1);
    let step = 1.0 / 128.0;
    update.learning_rates[1] = 0.3 * step;
    engine.update(&update).unwrap();
    let after = engine.weight("w").unwrap();
    assert_eq!(after.dtype, DType::BF16);
    let ups = after.floats().iter().map(|x| match *x {
        1.0 => 0.0,
        x if x == 1.0 + step => 1.0,
        x => panic!("{x} is no neighbour of 1"),
    });
    // Five standard deviations of a binomial count.
    let (mean, deviation) = (0.3 * n as f64, (0.3 * 0.7 * n as f64).sqrt());
    let ups: f64 = ups.sum();
    assert!((ups - mean).abs() < 5.0 * deviation, "{ups} of {n}");
    let halves: Vec<f32> = after
        .floats()
        .chunks(2)
        .map(|pair| pair[0] - pair[1])
        .collect();
    assert!(halves.iter().any(|x| *x != 0.0), "neighbours round alike");
}

#[test]
fn gradients_add_up_and_can_be_cleared() {
    let mut rng = Rng(4);
    let n = 5000;
    let (mut engine, program) = engine(&rng.tensor(&[n]), 0.0);
    let g = rng.tensor(&[n]);
    engine.set_weight("x", &g).unwrap();
    let norm = g
        .floats()
        .iter()
        .map(|x| f64::from(*x).powi(2))
        .sum::<f64>()
        .sqrt();
    for runs in 1..=3 {
        engine.run(program, &[]).unwrap();
        let found = engine.gradient_norm().unwrap();
        // Sums of a chunk of 4096 squares in 16 lanes or more, and the gradients' own roundings.
        let bound = (4096.0 / 16.0 + 8.0) * U * norm * f64::from(runs);
        assert!((found - norm * f64::from(runs)).abs() <= bound);
    }
    let memory = engine.memory();
    let bytes = 4 * n as u64;
    let held = [memory.weights, memory.gradients, memory.moments];
    assert_eq!(held, [2 * bytes, bytes, 2 * bytes]);
    engine.clear_gradients().unwrap();
    assert_eq!(engine.gradient_norm().unwrap(), 0.0);
}
