//! Steps on a CUDA device, for tests and measurements.

#![allow(dead_code)]

use rabitc_ir::DType;
use rabitc_train::cuda::CudaEngine;
use rabitc_train::engine::{Engine, EngineError, Program, Trainable, Update};

use super::Step;

/// What is trained of a step: scales in a group of their own, f32.
pub fn trainable(step: &Step, dtype: DType) -> Vec<Trainable> {
    let all = step.trained.iter().map(|name| {
        let tensor = &step.weights[name];
        let scale = name.contains(".rb_g") || name.contains(".rb_h");
        Trainable {
            name: name.clone(),
            shape: tensor.shape.clone(),
            dtype: if scale { DType::F32 } else { dtype },
            group: usize::from(scale),
            decay: if scale { 0.0 } else { 0.01 },
        }
    });
    all.collect()
}

/// An engine with the weights of a step, and its program.
pub fn engine(step: &Step, dtype: DType) -> Result<(CudaEngine, Program), EngineError> {
    let mut engine = CudaEngine::new(0)?;
    for (name, value) in &step.weights {
        engine.set_weight(name, value)?;
    }
    engine.train(&trainable(step, dtype))?;
    let program = engine.program(&step.graph, step.tokens)?;
    Ok((engine, program))
}

/// The inputs as a run takes them.
pub fn inputs(step: &Step) -> Vec<(&str, &[i32])> {
    let inputs = step.inputs.iter();
    inputs.map(|(n, v)| (n.as_str(), v.as_slice())).collect()
}

/// The update after run number `step`.
pub fn update(step: u64) -> Update {
    Update {
        step,
        seed: 7,
        learning_rates: vec![3e-4, 1e-3],
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        gradient_factor: 0.5,
    }
}
