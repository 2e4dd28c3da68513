//! What a run is said to take, beside what it takes.

use rabitc_train::memory::MemoryPlan;

use super::*;

/// Weights of 16 bits, which the engine holds as f32 and reads as they are.
#[test]
fn the_plan_is_what_the_engine_holds() {
    let model = Model::new(4);
    let dir = tempfile::tempdir().unwrap();
    let mut recipe = recipe();
    recipe.weights = WeightType::Bf16;
    recipe.noise.rate = 0.5;
    recipe.noise.from = NoiseSource::Teacher;
    let setting = Setting::new(&model, recipe);
    let held = setting.run(dir.path(), false, &Cpu).unwrap().memory;
    let (graph, window) = (&setting.teacher.graph, Some(16));
    let plan = MemoryPlan::new(graph, &setting.recipe, DType::F32, window).unwrap();
    assert_eq!(held.weights, plan.weights + plan.teacher);
    // Beside what is planned, a step has a few numbers a token for itself.
    let tokens = setting.recipe.tokens().unwrap() as u64;
    let own = held.activations.checked_sub(plan.activations);
    assert!(
        own.is_some_and(|own| own <= 8 * 4 * tokens),
        "{held:?} {plan:?}"
    );
}
