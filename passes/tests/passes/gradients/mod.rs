//! Gradients: every op's and whole models' against finite differences in f64, straight-through
//! estimates against their definition, and what autodiff does to a graph.

mod models;
mod ops;
mod straight_through;
mod structure;

use std::collections::BTreeMap;

use rabitc_ir::ops::source::{Input, Weight};
use rabitc_ir::verify::verify;
use rabitc_ir::{DType, Data, Graph, Interpreter, NodeId, Tensor, Type};
use rabitc_passes::autodiff::{Differentiate, autodiff};

type Values<F> = BTreeMap<String, Tensor<F>>;

/// Numbers in −1..1 by SplitMix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn tensor(&mut self, shape: &[usize]) -> Tensor {
        let number = |_| (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        let data = (0..shape.iter().product()).map(number).collect();
        Tensor::f32(shape, data)
    }
}

/// Adds an f32 weight and its random value.
fn weight(graph: &mut Graph, store: &mut Values<f32>, name: &str, value: Tensor) -> NodeId {
    let ty = Type::fixed(DType::F32, &value.shape);
    store.insert(name.to_string(), value);
    let source = Weight {
        name: name.to_string(),
        ty,
    };
    graph.add(name, source, &[]).expect("a new name")
}

/// Adds an i32 input of a fixed shape.
fn indices(graph: &mut Graph, name: &str, len: usize) -> NodeId {
    let source = Input {
        name: name.to_string(),
        ty: Type::fixed(DType::I32, &[len]),
    };
    graph.add(name, source, &[]).expect("a new name")
}

fn request(weights: &[&str]) -> Differentiate {
    Differentiate {
        loss: "loss".into(),
        weights: weights.iter().map(|w| w.to_string()).collect(),
        ..Differentiate::default()
    }
}

/// The graph with its gradients, verified.
#[track_caller]
fn differentiated(graph: &Graph, request: &Differentiate) -> Graph {
    let mut graph = graph.clone();
    autodiff(&mut graph, request).unwrap_or_else(|e| panic!("{e}"));
    verify(&graph).unwrap_or_else(|e| panic!("{e}\n{}", rabitc_ir::text::print(&graph)));
    graph
}

/// The outputs in f64.
fn run(graph: &Graph, store: &Values<f32>, inputs: &Values<f32>) -> Values<f64> {
    let inputs = inputs.clone().into_iter().map(|(n, t)| (n, t.widen()));
    let outputs = Interpreter::wide(graph, store).run(inputs);
    outputs.unwrap_or_else(|e| panic!("{e}"))
}

/// A graph whose loss is evaluated again and again with one weight changed.
struct Loss<'a> {
    graph: &'a Graph,
    store: &'a Values<f32>,
    inputs: &'a Values<f32>,
}

impl Loss<'_> {
    /// The loss with element `i` of a weight moved by `step`.
    fn moved(&self, name: &str, i: usize, step: f64) -> f64 {
        let mut run = Interpreter::wide(self.graph, self.store);
        let mut value: Tensor<f64> = self.store[name].clone().widen();
        if let Data::F32(v) = &mut value.data {
            v[i] += step;
        }
        run.give_weight(name, value);
        let inputs = self.inputs.clone().into_iter();
        let outputs = run.run(inputs.map(|(n, t)| (n, t.widen())));
        outputs.expect("it ran before")["loss"].floats()[0]
    }

    /// The central difference with a step of `h`.
    fn difference(&self, name: &str, i: usize, h: f64) -> f64 {
        (self.moved(name, i, h) - self.moved(name, i, -h)) / (2.0 * h)
    }

    /// Asserts that `gradient` is the derivative with respect to element `i` of a weight.
    ///
    /// Halving the step leaves a quarter of the truncation error, so the two differences are
    /// further from each other than the second is from the derivative. What they share is the
    /// rounding of the loss, a sum of some hundred terms, divided by the step.
    #[track_caller]
    fn check(&self, name: &str, i: usize, gradient: f64) {
        const STEP: f64 = 1e-4;
        let (wide, narrow) = (
            self.difference(name, i, STEP),
            self.difference(name, i, STEP / 2.0),
        );
        let magnitude = 1.0 + self.moved(name, i, 0.0).abs();
        let rounding = 1e3 * f64::EPSILON * magnitude / STEP;
        let bound = (wide - narrow).abs() + rounding;
        let error = (narrow - gradient).abs();
        assert!(
            error <= bound,
            "{name}[{i}]: gradient {gradient}, difference {narrow} ± {bound}"
        );
    }
}

/// Checks `most` elements of the gradient of every weight in `weights` against differences, and
/// that one of them is not zero.
#[track_caller]
fn check_gradients(
    graph: &Graph,
    weights: &[&str],
    store: &Values<f32>,
    inputs: &Values<f32>,
    most: usize,
) {
    let outputs = run(&differentiated(graph, &request(weights)), store, inputs);
    let loss = Loss {
        graph,
        store,
        inputs,
    };
    let mut rng = Rng(7);
    let mut largest = 0.0f64;
    for name in weights {
        let gradient = outputs[&format!("grad.{name}")].floats();
        assert_eq!(gradient.len(), store[*name].floats().len());
        let all = gradient.len() <= most;
        for n in 0..gradient.len().min(most) {
            let i = if all { n } else { rng.below(gradient.len()) };
            loss.check(name, i, gradient[i]);
            largest = largest.max(gradient[i].abs());
        }
    }
    assert!(largest > 0.0, "every gradient is zero");
}
