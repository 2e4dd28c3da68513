use std::fs;
use std::io::Write;
use std::path::Path;

use super::*;

fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

fn message<T>(result: io::Result<T>) -> String {
    result.err().expect("it is refused").to_string()
}

#[test]
fn a_file_is_replaced_as_a_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    write(&path, b"old").unwrap();
    let mut file = AtomicFile::create(&path).unwrap();
    file.write_all(b"new").unwrap();
    assert_eq!(entries(dir.path()).len(), 2);
    drop(file);
    assert_eq!(fs::read(&path).unwrap(), b"old");
    write(&path, b"new").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(entries(dir.path()), ["file"]);
    let absent = dir.path().join("absent").join("file");
    assert!(message(write(&absent, b"new")).contains("there is no folder"));
}

#[test]
fn a_known_temporary_name_is_taken_again() {
    let dir = tempfile::tempdir().unwrap();
    let [target, temporary] = ["file", ".unfinished"].map(|name| dir.path().join(name));
    fs::write(&temporary, "what a kill has left").unwrap();
    let mut file = AtomicFile::create_as(&target, &temporary).unwrap();
    file.write_all(b"new").unwrap();
    file.finish().unwrap();
    assert_eq!(entries(dir.path()), ["file"]);
    assert_eq!(fs::read(&target).unwrap(), b"new");
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    assert!(message(write(dir.path(), b"new")).contains("directory"));
    let (mut reader, writer) = std::io::pipe().unwrap();
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
    let path = Path::new(&path);
    if path.exists() {
        write(path, b"new").unwrap();
        assert_eq!(message(AtomicFile::create(path)), "is no regular file");
        drop(writer);
        let mut found = String::new();
        std::io::Read::read_to_string(&mut reader, &mut found).unwrap();
        assert_eq!(found, "new");
    }
}

#[cfg(unix)]
#[test]
fn permissions_are_those_of_any_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let [ours, others] = ["ours", "others"].map(|name| dir.path().join(name));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    write(&ours, b"").unwrap();
    fs::write(&others, b"").unwrap();
    assert_eq!(mode(&ours), mode(&others));
    let [ours, others] = ["our folder", "other folder"].map(|name| dir.path().join(name));
    AtomicFolder::create(&ours).unwrap().finish().unwrap();
    fs::create_dir(&others).unwrap();
    assert_eq!(mode(&ours), mode(&others));
}

#[test]
fn a_folder_appears_with_all_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent");
    let present = dir.path().join("present");
    fs::create_dir(&present).unwrap();
    for out in [&absent, &present] {
        let before = entries(dir.path());
        drop(filled(out));
        assert_eq!(entries(dir.path()), before);
        let folder = filled(out);
        assert_eq!(folder.in_place(&folder.path().join("a")), out.join("a"));
        assert_eq!(folder.in_place(folder.path()), *out);
        assert_eq!(folder.in_place(dir.path()), dir.path());
        folder.finish().unwrap();
        assert_eq!(entries(out), ["a", "b"]);
        assert!(message(AtomicFolder::create(out)).contains("not empty"));
    }
    assert_eq!(entries(dir.path()), ["absent", "present"]);
    let inside = AtomicFolder::create(&absent.join("a"));
    assert!(inside.is_err(), "a file is no folder");
    let nowhere = AtomicFolder::create(&dir.path().join("x/y"));
    assert!(message(nowhere).contains("there is no folder"));
}

/// An unfinished folder with two files.
fn filled(out: &Path) -> AtomicFolder {
    let folder = AtomicFolder::create(out).unwrap();
    folder.file("a").unwrap().write_all(b"a").unwrap();
    assert!(folder.file("a").is_err(), "it is there already");
    write(&folder.path().join("b"), b"b").unwrap();
    folder
}

#[test]
fn scratch_files_go_away() {
    let scratch = Scratch::new(b"bytes").unwrap();
    let path = scratch.path().to_path_buf();
    assert_eq!(fs::read(&path).unwrap(), b"bytes");
    drop(scratch);
    assert!(!path.exists());
}
