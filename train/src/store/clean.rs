//! What interrupted runs leave in a folder, and its removal.

use std::fs::{self, DirEntry};
use std::path::Path;

use super::atomic::UNFINISHED;
use super::side::SIDE_FILES;
use super::{Lock, METRICS, MODEL, OPTIMIZER, OPTIMIZER_END};
use crate::error::TrainError;

/// Removes from `dir` what interrupted runs left: files under their temporary names, and
/// optimizer's files of other steps than `keep`. Nothing else is touched, whatever its name begins
/// with. `_lock` shows that no other run is at work in the folder.
///
/// # Errors
/// A folder that cannot be read, or a file that cannot be removed.
pub fn clean(dir: &Path, keep: Option<u64>, _lock: &Lock) -> Result<(), TrainError> {
    remove(dir, |name| {
        is_unfinished(name) || optimizer_step(name).is_some_and(|step| Some(step) != keep)
    })
}

/// Removes the optimizer's files of other steps than `step`.
pub(super) fn remove_others(dir: &Path, step: u64) -> Result<(), TrainError> {
    remove(dir, |name| optimizer_step(name).is_some_and(|s| s != step))
}

/// Whether `dir` holds nothing, or nothing but files that an interrupted run did not finish.
pub fn is_empty(dir: &Path) -> bool {
    let mut entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.all(|entry| is_unfinished(&name(&entry)))
}

fn remove(dir: &Path, which: impl Fn(&str) -> bool) -> Result<(), TrainError> {
    for entry in fs::read_dir(dir).map_err(TrainError::io(dir))? {
        let entry = entry.map_err(TrainError::io(dir))?;
        // Neither folders nor links are ever written here.
        let ours = entry.file_type().is_ok_and(|kind| kind.is_file());
        if ours && which(&name(&entry)) {
            let path = entry.path();
            fs::remove_file(&path).map_err(TrainError::io(&path))?;
        }
    }
    Ok(())
}

fn name(entry: &DirEntry) -> String {
    entry.file_name().to_string_lossy().into_owned()
}

/// Whether a file of this name is one that a run writes, under its temporary name.
fn is_unfinished(name: &str) -> bool {
    name.strip_prefix(UNFINISHED).is_some_and(|name| {
        let plain = [MODEL, METRICS].contains(&name) || SIDE_FILES.contains(&name);
        plain || optimizer_step(name).is_some()
    })
}

/// The step of an optimizer's file of this name.
fn optimizer_step(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(OPTIMIZER)?.strip_suffix(OPTIMIZER_END)?;
    let number = digits.len() >= 8 && digits.bytes().all(|b| b.is_ascii_digit());
    number.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_runs_write_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let ours = [
            ".unfinished-model.safetensors",
            ".unfinished-metrics.jsonl",
            ".unfinished-optimizer-00000007.safetensors",
            "optimizer-00000003.safetensors",
            "optimizer-123456789.safetensors",
        ];
        let others = [
            ".unfinished-letter.txt",
            ".unfinished-",
            "model.safetensors",
            "optimizer-00000004.safetensors",
            "optimizer-.safetensors",
            "optimizer-3.safetensors",
            "optimizer-0000000x.safetensors",
            "optimizer-notes.txt",
        ];
        for name in ours.iter().chain(&others) {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        let folder = ".unfinished-config.json";
        fs::create_dir(dir.path().join(folder)).unwrap();
        let lock = Lock::take(dir.path()).unwrap().unwrap();
        clean(dir.path(), Some(4), &lock).unwrap();
        let left = fs::read_dir(dir.path()).unwrap().map(|e| name(&e.unwrap()));
        let mut left: Vec<_> = left.collect();
        left.sort();
        let mut expected = others.map(str::to_owned).to_vec();
        expected.push(folder.to_owned());
        expected.sort();
        assert_eq!(left, expected);
    }

    #[test]
    fn a_folder_with_nothing_but_unfinished_files_is_empty() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_empty(dir.path()));
        fs::write(dir.path().join(".unfinished-metrics.jsonl"), "{").unwrap();
        assert!(is_empty(dir.path()));
        fs::write(dir.path().join(".unfinished-letter.txt"), "Dear").unwrap();
        assert!(!is_empty(dir.path()));
    }
}
