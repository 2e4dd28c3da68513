//! What commands write is there complete or not at all, and replaces nothing but files.

use std::path::Path;

use crate::common::*;
use crate::train::trained;

/// A file that may not grow is what a full disk looks like to a program.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let checkpoint = models("books-1m");
    let config = checkpoint.join("config.json");
    let ids = path("ids.safetensors");
    write_ids(&ids, [1, 32], &(0..32).collect::<Vec<u32>>());
    let out = path("out");
    let emit = format!("ir:{}", arg(&out));
    let commands: [(usize, &[&str]); 7] = [
        (100, &["compile", arg(&checkpoint), "-o", arg(&out)]),
        (8, &["compile", arg(&checkpoint), "--emit", &emit]),
        (100, &["logits", arg(books()), arg(&ids), "-o", arg(&out)]),
        (8, &["report", arg(trained()), "-o", arg(&out)]),
        (100, &["export", arg(trained()), "--hf", arg(&out)]),
        (100, &["synth", arg(&config), "-o", arg(&out)]),
        (
            1,
            &[
                "tune",
                arg(&config),
                "--budget",
                "50ms",
                "--cache",
                arg(&out),
            ],
        ),
    ];
    for (blocks, args) in commands {
        let said = limited(blocks, args);
        let last = said.lines().last().unwrap();
        let named = last.starts_with("rabitc: error: ") && last.contains(arg(&out));
        assert!(named && last.contains("too large"), "{args:?}: {said}");
        assert!(!out.exists(), "{args:?}");
        assert_eq!(unfinished(folder.path()), 0, "{args:?}");
    }
}

#[test]
fn outputs_replace_nothing_but_files() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = models("books-1m");
    let ids = folder.path().join("ids.safetensors");
    write_ids(&ids, [1, 2], &[1, 2]);
    let absent = folder.path().join("absent").join("out");
    let file = folder.path().join("file");
    std::fs::write(&file, "a letter").unwrap();
    let compile = |out: &Path, words: &[&str]| {
        refuses(&["compile", arg(&checkpoint), "-o", arg(out)], words);
    };
    let logits = |out: &Path, words: &[&str]| {
        refuses(&["logits", arg(books()), arg(&ids), "-o", arg(out)], words);
    };
    for refused in [&compile as &dyn Fn(&Path, &[&str]), &logits] {
        refused(folder.path(), &["is no regular file"]);
        refused(&absent, &["there is no folder", "absent"]);
        // As root, a device could be replaced by a file.
        #[cfg(unix)]
        refused(Path::new("/dev/null"), &["/dev/null", "is no regular file"]);
    }
    refuses(
        &["report", arg(trained()), "-o", arg(&absent)],
        &["there is no folder"],
    );
    for args in [
        ["export", arg(trained()), "--hf", arg(&file)],
        [
            "synth",
            arg(&checkpoint.join("config.json")),
            "-o",
            arg(&file),
        ],
    ] {
        refuses(&args, &[arg(&file)]);
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"a letter");
    assert_eq!(unfinished(folder.path()), 0);
}

/// What is no file is written to as it is.
#[cfg(target_os = "linux")]
#[test]
fn a_report_can_go_to_a_pipe() {
    let said = rabitc(&["report", arg(trained()), "--json", "-o", "/dev/stderr"]);
    assert!(said.err.starts_with("<!doctype html>"), "{}", said.err);
    assert_eq!(said.json()[0]["steps"], 20);
}
