//! The end of a program: a process of its own, since nothing can be written after it.

use std::fs;
use std::io::Write;
use std::time::Duration;

use rabitc_files::{AtomicFile, AtomicFolder, Scratch, abandon};

#[test]
fn what_is_unfinished_is_removed_and_nothing_is_finished_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let [done, file, folder] = ["done", "file", "folder"].map(|name| dir.path().join(name));
    rabitc_files::write(&done, b"complete").unwrap();
    fs::write(&file, "old").unwrap();
    let mut unfinished = AtomicFile::create(&file).unwrap();
    unfinished.write_all(b"new").unwrap();
    let whole = AtomicFolder::create(&folder).unwrap();
    whole.file("a").unwrap().write_all(b"a").unwrap();
    let inside = AtomicFile::create(&whole.path().join("b")).unwrap();
    let scratch = Scratch::new(b"bytes").unwrap();
    let place = scratch.path().to_path_buf();

    let mut abandoned = abandon();
    abandoned.sort();
    assert_eq!(abandoned, [file.clone(), folder.clone()]);
    assert!(!place.exists());
    // These wait for an end that does not come here.
    std::thread::spawn(move || unfinished.finish());
    std::thread::spawn(move || drop((inside, whole, scratch)));
    let late = dir.path().join("late");
    std::thread::spawn(move || rabitc_files::write(&late, b"late"));
    std::thread::sleep(Duration::from_millis(50));
    let mut left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    left.sort();
    assert_eq!(left, [done, file.clone()]);
    assert_eq!(fs::read(&file).unwrap(), b"old");
}
