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
    for (method, accumulate, order) in [(Method::Rabit, 2, 1), (Method::Frozen, 1, 3)] {
        let mut recipe = recipe();
        recipe.method = method;
        recipe.accumulate = accumulate;
        recipe.noise = Noise { rate: 0.2, order };
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
