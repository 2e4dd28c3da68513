//! Folders that a run begins in, or goes on in, and those in which it does not.

use super::failing::{Failing, Fault};
use super::stops::files;
use super::*;

/// What is refused before a run begins leaves no folder; what stops it later leaves one that says
/// how to go on.
#[test]
fn a_run_that_cannot_begin_leaves_nothing() {
    struct None;
    impl Engines for None {
        fn engine(&self) -> Result<Box<dyn Engine>, EngineError> {
            Err(EngineError::new("there is no such device"))
        }
        fn storage(&self) -> DType {
            DType::F32
        }
    }
    let (model, folder) = (Model::new(3), tempfile::tempdir().unwrap());
    let setting = Setting::new(&model, recipe());
    let dir = folder.path().join("run");
    let error = setting.run(&dir, false, &None).unwrap_err();
    assert_eq!(error.to_string(), "there is no such device");
    assert!(!dir.exists());
    std::fs::write(&dir, "a letter").unwrap();
    let message = setting.refused(&dir, false);
    assert!(
        message.ends_with("is a file, a run needs a folder"),
        "{message}"
    );
    std::fs::remove_file(&dir).unwrap();
    setting
        .run(&dir, false, &Failing::new(Fault::Stop, 0))
        .unwrap_err();
    std::fs::remove_file(dir.join("model.safetensors")).unwrap();
    let message = setting.refused(&dir, false);
    assert!(
        message.contains("not come to its first checkpoint"),
        "{message}"
    );
    assert_eq!(setting.run(&dir, true, &Cpu).unwrap().steps, 12);
}

/// Only the run that is in a folder goes on in it.
#[test]
fn other_runs_do_not_go_on() {
    let (model, dir) = (Model::new(4), tempfile::tempdir().unwrap());
    let mut setting = Setting::new(&model, recipe());
    setting.run(dir.path(), false, &Cpu).unwrap();
    let before = (records(dir.path()), files(dir.path()));
    let message = setting.refused(dir.path(), false);
    assert!(message.contains("holds a run at step 12"), "{message}");
    setting.recipe.optimizer.rates.scales = 0.5;
    setting.recipe.seed = 8;
    let message = setting.refused(dir.path(), true);
    let words = "optimizer.rates.scales 0.005 and 0.5; seed 3 and 8";
    assert!(message.contains(words), "{message}");
    let setting = Setting {
        corpus: corpus(400, 9),
        ..Setting::new(&model, recipe())
    };
    let message = setting.refused(dir.path(), true);
    assert!(message.contains("another text"), "{message}");
    let setting = Setting {
        valid: corpus(120, 9),
        ..Setting::new(&model, recipe())
    };
    let message = setting.refused(dir.path(), true);
    assert!(message.contains("another validation text"), "{message}");
    let measured = |window: Option<usize>, most: Option<usize>| {
        let setting = Setting {
            window,
            most,
            ..Setting::new(&model, recipe())
        };
        setting.refused(dir.path(), true)
    };
    for (window, most, words) in [
        (
            None,
            None,
            "is measured on a validation text: give it again",
        ),
        (Some(17), None, "--window (saved and given): 16 and 17"),
        (
            Some(16),
            Some(2),
            "--max-windows (saved and given): all and 2",
        ),
    ] {
        let message = measured(window, most);
        assert!(message.contains(words), "`{words}` is not in: {message}");
    }
    let mut setting = Setting::new(&model, recipe());
    let start = Model::new(5);
    setting.student = Some(start.teacher());
    let message = setting.refused(dir.path(), true);
    assert!(message.contains("another --student"), "{message}");
    let other = Model::new(44);
    let message = Setting::new(&other, recipe()).refused(dir.path(), true);
    assert!(message.contains("another teacher"), "{message}");
    assert_eq!(before, (records(dir.path()), files(dir.path())));
    let full = tempfile::tempdir().unwrap();
    std::fs::write(full.path().join("letter.txt"), "Dear Sir").unwrap();
    for resume in [false, true] {
        let message = Setting::new(&model, recipe()).refused(full.path(), resume);
        assert!(message.contains("the folder is not empty"), "{message}");
    }
}
