//! Checkpoints: found whatever an interrupted run left beside them, and refused when damaged.

use rabitc_train::store::{Lock, Saved, clean};

use super::failing::{Failing, Fault};
use super::*;

fn trained() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut recipe = recipe();
    recipe.steps = 4;
    let model = Model::new(1);
    let setting = Setting::new(&model, recipe);
    setting.run(dir.path(), false, &Cpu).unwrap();
    dir
}

/// However far a run came with saving when it was killed, the checkpoint before is found.
#[test]
fn unfinished_checkpoints_do_not_count() {
    let dir = trained();
    let path = |name: &str| dir.path().join(name);
    assert_eq!(Saved::find(dir.path()).unwrap().unwrap().state.step, 4);
    // Killed while the optimizer's file was written, and between the two files.
    std::fs::write(path(".unfinished-optimizer-00000008.safetensors"), "x").unwrap();
    std::fs::copy(
        path("optimizer-00000004.safetensors"),
        path("optimizer-00000008.safetensors"),
    )
    .unwrap();
    let unfinished = path(".unfinished-optimizer-00000008.safetensors");
    let next = path("optimizer-00000008.safetensors");
    assert_eq!(Saved::find(dir.path()).unwrap().unwrap().state.step, 4);
    // Who only looks changes nothing.
    assert!(unfinished.exists() && next.exists());
    let lock = Lock::take(dir.path()).unwrap().unwrap();
    clean(dir.path(), Some(4), &lock).unwrap();
    assert!(!unfinished.exists() && !next.exists());
    assert_eq!(Saved::find(dir.path()).unwrap().unwrap().state.step, 4);
    // Killed before the first model was in its place.
    std::fs::remove_file(path("model.safetensors")).unwrap();
    assert!(Saved::find(dir.path()).unwrap().is_none());
    assert!(Saved::find(&path("nowhere")).unwrap().is_none());
}

#[test]
fn damage_is_refused() {
    let refused = |damage: &dyn Fn(&Path), words: &str| {
        let dir = trained();
        damage(dir.path());
        let message = Saved::find(dir.path()).err().unwrap().to_string();
        assert!(message.contains(words), "`{words}` is not in: {message}");
    };
    let optimizer = "optimizer-00000004.safetensors";
    refused(
        &|dir| std::fs::remove_file(dir.join(optimizer)).unwrap(),
        optimizer,
    );
    let shorten = |dir: &Path, name: &str| {
        let bytes = std::fs::read(dir.join(name)).unwrap();
        std::fs::write(dir.join(name), &bytes[..bytes.len() - 5]).unwrap();
    };
    refused(&|dir| shorten(dir, optimizer), "truncated");
    refused(&|dir| shorten(dir, "model.safetensors"), "truncated");
    let model = Model::new(1);
    let foreign = |dir: &Path| {
        let from = model.path().join("model.safetensors");
        std::fs::copy(from, dir.join("model.safetensors")).unwrap();
    };
    refused(&foreign, "was not written by training");
    let swap = |dir: &Path| {
        let mut bytes = std::fs::read(dir.join(optimizer)).unwrap();
        let state = b"\\\"step\\\":4";
        let at = bytes.windows(state.len()).position(|w| w == state);
        bytes[at.expect("the state names the step") + state.len() - 1] = b'5';
        std::fs::write(dir.join(optimizer), bytes).unwrap();
    };
    refused(&swap, "is of step 5, the model of step 4");
}

/// What f16 does not hold is refused before it is rounded, and so are moments that could not be
/// read again: the checkpoint before is all that counts, and goes on.
#[test]
fn what_could_not_be_read_again_is_not_saved() {
    let model = Model::new(6);
    let setting = Setting::new(&model, recipe());
    for (fault, words) in [
        (Fault::Scale, "rb_h` holds 70000, and f16 ends at 65504"),
        (Fault::Moment, "has become inf"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let failing = Failing::new(fault, 8);
        let error = setting.run(dir.path(), false, &failing).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(words), "{message}");
        assert!(message.contains("model."), "{message}");
        assert_eq!(Saved::find(dir.path()).unwrap().unwrap().state.step, 4);
        let outcome = setting.run(dir.path(), true, &Cpu).unwrap();
        assert_eq!((outcome.from, outcome.steps), (4, 12));
    }
}
