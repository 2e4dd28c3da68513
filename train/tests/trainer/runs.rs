//! Runs that come to their end.

use rabitc_frontend::{Checkpoint, lower};
use rabitc_ir::{Interpreter, Tensor, WeightStore};
use rabitc_train::interpreter::InterpreterEngine;
use rabitc_train::job::Engines;
use rabitc_train::memory::MemoryPlan;
use rabitc_train::metrics::Record;
use rabitc_train::recipe::{Method, Start, WeightType};

use super::*;

/// Engines over the interpreter.
struct Reference;

impl Engines for Reference {
    fn engine(&self) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(InterpreterEngine::new()))
    }

    fn storage(&self) -> DType {
        DType::F32
    }
}

/// Every method, start and type of weights lowers the divergence, and leaves a checkpoint that is
/// a model.
#[test]
fn all_methods_learn() {
    let model = Model::new(5);
    let cases = [
        (Method::Rabit, Start::Importance, WeightType::F32, 2),
        (Method::Independent, Start::Iterative, WeightType::F32, 2),
        (Method::Frozen, Start::Greedy, WeightType::F32, 3),
        (Method::Rabit, Start::Iterative, WeightType::Bf16, 1),
    ];
    for (method, start, weights, paths) in cases {
        let dir = tempfile::tempdir().unwrap();
        let mut recipe = recipe();
        (recipe.method, recipe.weights, recipe.paths) = (method, weights, paths);
        recipe.initial.start = start;
        recipe.steps = 24;
        let setting = Setting::new(&model, recipe);
        let outcome = setting.run(dir.path(), false, &Cpu).unwrap();
        assert_eq!((outcome.from, outcome.steps), (0, 24), "{method:?}");
        let kl = validations(dir.path());
        let (first, last) = (kl[0], kl[kl.len() - 1]);
        assert!(last < 0.9 * first, "{method:?}: {kl:?}");
        lower(&Checkpoint::open(dir.path()).unwrap(), &Default::default()).unwrap();
    }
}

/// The checkpoint computes what the last validation measured: the interpreter gets the same
/// divergence from its graph as the engine did from the student.
#[test]
fn the_checkpoint_is_the_student() {
    for method in [Method::Rabit, Method::Independent] {
        let (model, dir) = (Model::new(6), tempfile::tempdir().unwrap());
        let mut recipe = recipe();
        recipe.method = method;
        let setting = Setting::new(&model, recipe);
        setting.run(dir.path(), false, &Cpu).unwrap();
        let logits = |folder: &Path| {
            let checkpoint = Checkpoint::open(folder).unwrap();
            let graph = lower(&checkpoint, &Default::default()).unwrap().graph;
            let mut all = Vec::new();
            for window in setting.valid.windows(16, 0) {
                let ids = setting.valid.ids(window, 16).to_vec();
                let inputs = [
                    ("ids", ids),
                    ("positions", (0..16).collect()),
                    ("rows", (0..16).collect()),
                ];
                let inputs = inputs
                    .map(|(name, v): (_, Vec<i32>)| (name.to_string(), Tensor::i32(&[16], v)));
                let outputs = Interpreter::new(&graph, &checkpoint).run(inputs).unwrap();
                all.extend(outputs["logits"].floats().to_vec());
            }
            all
        };
        let (student, teacher) = (logits(dir.path()), logits(&model.path()));
        let rows = teacher.chunks(23).zip(student.chunks(23));
        let divergences = rows.map(|(p, q)| divergence(p, q));
        let found = divergences.sum::<f64>() / (teacher.len() / 23) as f64;
        let expected = *validations(dir.path()).last().unwrap();
        // Logits in f32 of sums over fewer than a hundred products each.
        assert!(
            (found - expected).abs() < 1e-4,
            "{method:?}: {found} for {expected}"
        );
    }
}

fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let log_softmax = |x: &[f32]| {
        let sum: f64 = x.iter().map(|x| f64::from(*x).exp()).sum();
        x.iter()
            .map(|x| f64::from(*x) - sum.ln())
            .collect::<Vec<_>>()
    };
    let (p, q) = (log_softmax(p), log_softmax(q));
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
}

/// The CPU's engine and the interpreter make the same of a run, up to rounding. With greedy scales
/// the start is the same, and updates are small beside their rate only where a gradient is
/// rounding, so a few steps stay close together.
#[test]
fn engines_agree() {
    let model = Model::new(7);
    let mut recipe = recipe();
    recipe.steps = 3;
    recipe.initial.start = Start::Greedy;
    recipe.loss.text = 0.3;
    recipe.loss.diversity = 0.2;
    recipe.accumulate = 2;
    let setting = Setting::new(&model, recipe);
    let losses = |engines: &dyn Engines| {
        let dir = tempfile::tempdir().unwrap();
        setting.run(dir.path(), false, engines).unwrap();
        let steps = records(dir.path()).into_iter().filter_map(|r| match r {
            Record::Step(s) => Some([
                s.loss,
                s.kl,
                s.hidden.unwrap(),
                s.text.unwrap(),
                s.diversity.unwrap(),
                s.gradient_norm,
            ]),
            _ => None,
        });
        steps.collect::<Vec<_>>()
    };
    let (cpu, reference) = (losses(&Cpu), losses(&Reference));
    assert_eq!(cpu.len(), 3);
    // Sums of f32 products; the loss is exact to a few units in the last place.
    for (a, b) in cpu[0].iter().zip(reference[0]) {
        assert!(
            (a - b).abs() < 1e-4 * b.abs().max(1.0),
            "{cpu:?} {reference:?}"
        );
    }
    for (a, b) in cpu.iter().zip(&reference) {
        assert!((a[0] - b[0]).abs() < 0.02 * b[0], "{cpu:?} {reference:?}");
    }
}

/// The overlap of paths is that of the comparison of the layers, and a factor on it lowers it.
#[test]
fn diversity_lowers_the_overlap_of_paths() {
    let model = Model::new(11);
    let correlation = |factor: f32| {
        let dir = tempfile::tempdir().unwrap();
        let mut recipe = recipe();
        recipe.paths = 3;
        recipe.loss.diversity = factor;
        let setting = Setting::new(&model, recipe);
        setting.run(dir.path(), false, &Cpu).unwrap();
        let mut last = records(dir.path()).into_iter().filter_map(|r| match r {
            Record::Layers(l) => Some(l.layers),
            _ => None,
        });
        let layers = last.next_back().unwrap();
        let shares = layers.iter().map(|l| l.covariance / l.energy);
        shares.sum::<f64>() / layers.len() as f64
    };
    let (without, with) = (correlation(0.0), correlation(1.0));
    assert!(with < without - 0.01, "{without} {with}");
}

/// What moments are allocated is what the plan says: half of the bytes for one shared weight.
#[test]
fn one_shared_weight_takes_half_the_moments() {
    let model = Model::new(8);
    let plan = |method: Method| {
        let mut recipe = recipe();
        recipe.method = method;
        MemoryPlan::new(&model.teacher().graph, &recipe, DType::F32, Some(16)).unwrap()
    };
    let (rabit, independent) = (plan(Method::Rabit), plan(Method::Independent));
    let latent = 8.0;
    let scales = rabit.optimizer_per_binarized - latent;
    assert!(scales > 0.0);
    let expected = 2.0 * latent + scales;
    assert!((independent.optimizer_per_binarized - expected).abs() < 1e-9);
    assert!(rabit.activations > 0 && rabit.total < independent.total);
    let dir = tempfile::tempdir().unwrap();
    let setting = Setting::new(&model, recipe());
    let held = setting.run(dir.path(), false, &Cpu).unwrap().memory;
    assert_eq!(held.gradients, rabit.gradients);
    assert_eq!(held.moments, rabit.optimizer);
    assert_eq!(held.weights, rabit.weights + rabit.teacher);
}

/// A trained checkpoint is a start like any other: the first measurement is the last one of the
/// run that left it.
#[test]
fn a_trained_student_goes_on() {
    let (model, dir) = (Model::new(9), tempfile::tempdir().unwrap());
    let mut setting = Setting::new(&model, recipe());
    setting.run(dir.path(), false, &Cpu).unwrap();
    let trained = Teacher::open(dir.path(), BufferPrecision::Auto).unwrap();
    let info = WeightStore::info(&trained.checkpoint, "model.layers.1.mlp.up_proj.rb_g");
    assert_eq!(info, Some((DType::F16, vec![2, 27])));
    setting.student = Some(trained);
    let next = tempfile::tempdir().unwrap();
    setting.run(next.path(), false, &Cpu).unwrap();
    let (before, after) = (validations(dir.path()), validations(next.path()));
    assert_eq!(before.last(), after.first());
    setting.recipe.paths = 3;
    let other = next.path().join("other");
    let message = setting.refused(&other, false);
    let words = "has 2 paths in `model.layers.0.self_attn.q_proj`, the run begins with 3";
    assert!(message.contains(words), "{message}");
    assert!(!other.exists());
}
