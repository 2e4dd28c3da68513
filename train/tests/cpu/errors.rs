//! What the engine refuses, and what it says.

use rabitc_ir::ops::cross_entropy::CrossEntropy;
use rabitc_ir::ops::embed::Embed;
use rabitc_ir::ops::paths::BinaryMatmul;
use rabitc_ir::ops::select_rows::SelectRows;
use rabitc_ir::ops::source::Weight;
use rabitc_ir::{DType, Graph, Tensor, Type};
use rabitc_train::cpu::CpuEngine;
use rabitc_train::engine::{Engine, EngineError, State, Trainable, Update};

use super::Operand::{Float, Ints};
use super::Subject;

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, EngineError>, parts: &[&str]) {
    let message = result.expect_err("it was accepted").to_string();
    for part in parts {
        assert!(message.contains(part), "`{message}` does not say `{part}`");
    }
}

fn engine(subject: &Subject) -> CpuEngine {
    let mut engine = CpuEngine::new(Some(1)).unwrap();
    for (name, value) in &subject.store {
        engine.set_weight(name, value).unwrap();
    }
    engine
}

#[test]
fn ops_that_no_training_step_contains() {
    let mut subject = Subject::new(1);
    subject.node(SelectRows {}, &[Float(vec![3, 4]), Ints(vec![0, 2])]);
    refused(
        engine(&subject).program(&subject.graph, 3),
        &["%select_rows"],
    );
    let mut subject = Subject::new(1);
    let input = subject.operand(&Ints(vec![0, 2]));
    subject.graph.set_output("ids", input);
    refused(
        engine(&subject).program(&subject.graph, 3),
        &["%input", "i32"],
    );
    let mut graph = Graph::new("test");
    let mut weight = |name: &str, ty: Type| {
        let name = name.to_string();
        graph.add(&name.clone(), Weight { name, ty }, &[]).unwrap()
    };
    let x = weight("x", Type::fixed(DType::F32, &[2, 8]));
    let signs = weight("signs", Type::fixed(DType::Bit, &[1, 4, 8]));
    let y = graph
        .add("y", BinaryMatmul { path: 0 }, &[x, signs])
        .unwrap();
    graph.set_output("y", y);
    let mut engine = CpuEngine::new(Some(1)).unwrap();
    engine
        .set_weight("x", &Tensor::f32(&[2, 8], vec![0.0; 16]))
        .unwrap();
    refused(engine.program(&graph, 2), &["%"]);
    let bits = Tensor::bytes(DType::Bit, &[1, 4, 8], vec![0; 4]);
    refused(
        engine.set_weight("signs", &bits),
        &["`signs`", "bit[1,4,8]"],
    );
}

#[test]
fn weights_that_are_not_there_or_change() {
    let mut subject = Subject::new(2);
    let table = subject.weight(&[5, 4]);
    subject.node(
        Embed { scale: 1.0 },
        &[super::Operand::Node(table), Ints(vec![0, 4])],
    );
    let mut bare = CpuEngine::new(Some(1)).unwrap();
    refused(bare.program(&subject.graph, 2), &["`w`", "not been set"]);
    refused(bare.weight("w"), &["`w`"]);
    bare.set_weight("w", &Tensor::f32(&[4, 5], vec![0.0; 20]))
        .unwrap();
    refused(
        bare.program(&subject.graph, 2),
        &["`w`", "[4, 5]", "[5, 4]"],
    );
    let other = Tensor::f32(&[5, 4], vec![0.0; 20]);
    refused(
        bare.set_weight("w", &other),
        &["`w`", "f32[4,5]", "f32[5,4]"],
    );
}

#[test]
fn inputs_that_do_not_fit() {
    let mut subject = Subject::new(3);
    subject.node(Embed { scale: 1.0 }, &[Float(vec![5, 4]), Ints(vec![0, 4])]);
    let labels = Ints(vec![0, -1]);
    subject.node(CrossEntropy {}, &[Float(vec![2, 3]), labels]);
    let mut engine = engine(&subject);
    let program = engine.program(&subject.graph, 2).unwrap();
    let mut run =
        |ids: &[i32], labels: &[i32]| engine.run(program, &[("input", ids), ("input.1", labels)]);
    run(&[4, 0], &[-1, 2]).unwrap();
    refused(run(&[5, 0], &[0, 0]), &["%embed", "5", "0..5"]);
    refused(run(&[0, -1], &[0, 0]), &["%embed", "-1"]);
    refused(run(&[0, 0], &[0, 3]), &["%cross_entropy", "3", "0..3"]);
    refused(run(&[0], &[0, 0]), &["`input`", "1", "2"]);
    refused(engine.run(program, &[("input", &[0, 0])]), &["`input.1`"]);
}

#[test]
fn training_that_makes_no_sense() {
    let mut engine = CpuEngine::new(Some(1)).unwrap();
    engine
        .set_weight("w", &Tensor::f32(&[3], vec![0.0; 3]))
        .unwrap();
    let trainable = Trainable {
        name: "w".into(),
        shape: vec![3],
        dtype: DType::F32,
        group: 1,
        decay: 0.0,
    };
    let train = |t: &Trainable| {
        let mut engine = CpuEngine::new(Some(1)).unwrap();
        engine
            .set_weight("w", &Tensor::f32(&[3], vec![0.0; 3]))
            .unwrap();
        engine.train(std::slice::from_ref(t))
    };
    let missing = Trainable {
        name: "v".into(),
        ..trainable.clone()
    };
    refused(train(&missing), &["`v`"]);
    let shape = Trainable {
        shape: vec![4],
        ..trainable.clone()
    };
    refused(train(&shape), &["`w`", "[4]"]);
    refused(engine.state("w", State::Moment1), &["`w`", "not trained"]);
    engine.train(std::slice::from_ref(&trainable)).unwrap();
    refused(engine.train(&[trainable]), &["already"]);
    let moment = Tensor::f32(&[2], vec![0.0; 2]);
    refused(
        engine.set_state("w", State::Moment2, &moment),
        &["`w`", "[3]"],
    );
    let mut update = Update {
        step: 1,
        seed: 0,
        learning_rates: vec![0.1],
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        gradient_factor: 1.0,
    };
    refused(engine.update(&update), &["`w`", "group 1"]);
    update.learning_rates.push(0.1);
    update.step = 0;
    refused(engine.update(&update), &["1"]);
}
