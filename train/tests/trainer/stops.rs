//! Runs that stop, and go on as if they had not.

use rabitc_train::recipe::Method;
use rabitc_train::store::Saved;

use super::failing::{Failing, Fault};
use super::*;

/// The model's file and what is beside it, by name.
pub(crate) fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name, std::fs::read(entry.path()).unwrap())
    });
    let mut files: Vec<_> = entries
        .filter(|(name, _)| name.ends_with(".safetensors"))
        .collect();
    files.sort();
    files
}

/// The tensors of a safetensors file: what follows the header.
fn data(file: &[u8]) -> &[u8] {
    let header = u64::from_le_bytes(file[..8].try_into().unwrap());
    &file[8 + header as usize..]
}

/// Stopped after any number of updates, in any stage, a run that goes on has the same losses and
/// leaves the same weights to the last bit.
#[test]
fn going_on_changes_nothing() {
    let model = Model::new(1);
    let noise = |from, span, order| Noise {
        rate: 0.2,
        from,
        span,
        order,
    };
    for (method, accumulate, noise) in [
        (Method::Rabit, 2, noise(NoiseSource::Text, 1, 1)),
        (Method::Frozen, 1, noise(NoiseSource::Text, 2, 3)),
        (Method::Rabit, 2, noise(NoiseSource::Teacher, 3, 0)),
        (Method::Frozen, 1, noise(NoiseSource::Teacher, 1, 0)),
    ] {
        let mut recipe = recipe();
        recipe.method = method;
        recipe.accumulate = accumulate;
        recipe.noise = noise;
        let setting = Setting::new(&model, recipe);
        let whole = tempfile::tempdir().unwrap();
        setting.run(whole.path(), false, &Cpu).unwrap();
        for after in [0, 3, 4, 6, 11] {
            let dir = tempfile::tempdir().unwrap();
            let failing = Failing::new(Fault::Stop, after);
            let error = setting.run(dir.path(), false, &failing).unwrap_err();
            assert_eq!(error.to_string(), "killed");
            let outcome = setting.run(dir.path(), true, &Cpu).unwrap();
            assert_eq!(outcome.from, after / 4 * 4);
            assert_eq!(
                records(dir.path()),
                records(whole.path()),
                "{method:?} {after}"
            );
            let (found, expected) = (files(dir.path()), files(whole.path()));
            assert_eq!(found.len(), 2);
            for ((name, a), (other, b)) in found.iter().zip(&expected) {
                assert_eq!(name, other);
                assert_eq!(data(a), data(b), "{method:?} {after} {name}");
            }
            // The header of the optimizer's file has the time that the run took.
            assert!(found[0] == expected[0], "{method:?} {after}");
        }
        // A run that has come to its end does nothing more.
        let before = (records(whole.path()), files(whole.path()));
        let outcome = setting.run(whole.path(), true, &Cpu).unwrap();
        assert_eq!(outcome.from, 12);
        assert_eq!(before, (records(whole.path()), files(whole.path())));
    }
}

#[test]
fn what_is_no_number_stops_the_run_and_names_the_step() {
    let model = Model::new(2);
    let setting = Setting::new(&model, recipe());
    for (fault, after, what) in [
        (Fault::Nan, 6, "step 7: the loss is NaN"),
        (Fault::Infinite, 5, "step 6: the gradient's norm is inf"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let failing = Failing::new(fault, after);
        let error = setting.run(dir.path(), false, &failing).unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with(what), "{message}");
        assert!(
            message.ends_with("keeps the checkpoint of step 4"),
            "{message}"
        );
        // What it keeps goes on.
        assert_eq!(setting.run(dir.path(), true, &Cpu).unwrap().from, 4);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let model = Model::new(3);
    let folder = || tempfile::tempdir().unwrap();
    let refused = |change: &dyn Fn(&mut Setting), words: &str| {
        let mut setting = Setting::new(&model, recipe());
        change(&mut setting);
        let (dir, inner) = (folder(), "run");
        let message = setting.refused(&dir.path().join(inner), false);
        assert!(message.contains(words), "`{words}` is not in: {message}");
        assert!(!dir.path().join(inner).exists(), "{words}");
    };
    refused(
        &|s| s.corpus = corpus(27, 1),
        "text: 27 tokens make 2 sequences of 9, but 3 are needed",
    );
    refused(
        &|s| s.recipe.seq_len = 65,
        "sequences of 65 tokens: the model has 1 to 64",
    );
    refused(&|s| s.recipe.paths = 9, "9 paths: 1 to 8 are possible");
    refused(&|s| s.recipe.steps = 0, "the number of steps");
    refused(&|s| s.recipe.batch = usize::MAX / 3, "smaller");
    refused(
        &|s| s.recipe.optimizer.rates.shared = f32::NAN,
        "the learning rate",
    );
    refused(
        &|s| s.recipe.optimizer.rates.rest = f32::INFINITY,
        "the learning rate of the rest is inf; it must be 0 or more, and finite",
    );
    refused(
        &|s| s.recipe.optimizer.beta1 = 1.0,
        "beta1 is 1; it must be from 0 to below 1",
    );
    refused(
        &|s| s.recipe.optimizer.eps = 0.0,
        "epsilon is 0; it must be above 0",
    );
    refused(&|s| s.recipe.optimizer.final_rate = 1.5, "from 0 to 1");
    refused(
        &|s| s.recipe.initial.exponent = 1000.0,
        "the exponent of importance is 1000; it must be from 0 to 4",
    );
    refused(
        &|s| s.recipe.initial.iters = 4_000_000_000,
        "4000000000 cycles of the fit: 1 to 1000 are possible",
    );
    refused(
        &|s| s.recipe.keep_dense = vec!["gate".into(), "moe".into()],
        "no dense linear layer has a name that matches `*moe*`",
    );
    refused(&|s| s.recipe.initial.tokens = 0, "importance");
    refused(
        &|s| s.recipe.noise.rate = 1.5,
        "the share of noise is 1.5; it must be from 0 to 1",
    );
    refused(&|s| s.recipe.noise.rate = f32::NAN, "of noise is NaN");
    refused(&|s| s.recipe.noise.order = 4, "after 4 tokens");
    refused(
        &|s| s.recipe.noise.span = 0,
        "noise of 0 tokens in a row: 1 to 256 are possible",
    );
    refused(&|s| s.recipe.noise.span = 257, "257 tokens in a row");
    refused(
        &|s| s.recipe.accumulate = usize::MAX,
        "more tokens than can be counted",
    );
    let other = CONFIG.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
    let other = Model::of(&other, 3);
    let words = "do not match: 1 and 2 layers";
    refused(&|s| s.student = Some(other.teacher()), words);
    let wide = Model::of(&CONFIG.replace("27", "28"), 3);
    refused(
        &|s| s.student = Some(wide.teacher()),
        "do not match: `model.layers.0.mlp",
    );
}

#[test]
fn a_model_without_dense_layers_is_no_teacher() {
    let (model, dir) = (Model::new(3), tempfile::tempdir().unwrap());
    let mut setting = Setting::new(&model, recipe());
    setting.run(dir.path(), false, &Cpu).unwrap();
    setting.teacher = Teacher::open(dir.path(), BufferPrecision::Auto).unwrap();
    let message = setting.refused(&dir.path().join("next"), false);
    assert!(message.contains("a teacher is dense"), "{message}");
    let mut setting = Setting::new(&model, recipe());
    setting.recipe.keep_dense = vec!["*".into()];
    let message = setting.refused(&dir.path().join("next"), false);
    assert!(message.contains("no linear layer is left"), "{message}");
}

/// An error of the hidden states that is no part of the loss stops nothing: it is left out.
#[test]
fn a_measurement_that_is_no_number_is_left_out() {
    let model = Model::new(2);
    let mut setting = Setting::new(&model, recipe());
    setting.recipe.loss.hidden = 0.0;
    let hidden = |dir: &Path| -> Vec<Option<f64>> {
        let steps = records(dir).into_iter().filter_map(|r| match r {
            Record::Step(step) => Some(step.hidden),
            _ => None,
        });
        steps.collect()
    };
    let dir = tempfile::tempdir().unwrap();
    let failing = Failing::new(Fault::Hidden, 0);
    setting.run(dir.path(), false, &failing).unwrap();
    assert_eq!(hidden(dir.path()), [None; 12]);
    let dir = tempfile::tempdir().unwrap();
    setting.run(dir.path(), false, &Cpu).unwrap();
    assert!(
        hidden(dir.path())
            .iter()
            .all(|h| h.is_some_and(|h| h > 0.0))
    );
}

/// A run that is told to stop saves, ends, and goes on as if nothing had been.
#[test]
fn told_to_stop_a_run_saves_and_ends() {
    let model = Model::new(1);
    for method in [Method::Rabit, Method::Frozen] {
        let mut recipe = recipe();
        recipe.method = method;
        let setting = Setting::new(&model, recipe);
        let whole = tempfile::tempdir().unwrap();
        setting.run(whole.path(), false, &Cpu).unwrap();
        for after in [0, 3, 6, 12] {
            let dir = tempfile::tempdir().unwrap();
            let mut stopping = Stopping { after, done: 0 };
            let outcome = setting.observed(dir.path(), false, &Cpu, &mut stopping);
            assert_eq!(outcome.unwrap().steps, after);
            assert_eq!(Saved::find(dir.path()).unwrap().unwrap().state.step, after);
            setting.run(dir.path(), true, &Cpu).unwrap();
            assert_eq!(
                records(dir.path()),
                records(whole.path()),
                "{method:?} {after}"
            );
            for ((_, a), (_, b)) in files(dir.path()).iter().zip(&files(whole.path())) {
                assert_eq!(data(a), data(b), "{method:?} {after}");
            }
        }
    }
}

/// Tells the run to stop once so many updates are done.
struct Stopping {
    after: u64,
    done: u64,
}

impl Observer for Stopping {
    fn phase(&mut self, _: &str) {}
    fn step(&mut self, record: &StepRecord) {
        self.done = record.step;
    }
    fn validation(&mut self, _: &ValidationRecord) {}
    fn stopped(&self) -> bool {
        self.done >= self.after
    }
}
