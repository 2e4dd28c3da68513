//! ^C and the termination signal: what was being written goes away, what was there before stays.
#![cfg(unix)]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::common::*;

fn start(args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rabitc"));
    command.args(args).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Waits until `ready`, sends the signal, and gives the one line that the program ends with.
fn stopped(mut child: Child, name: &str, ready: impl Fn() -> bool) -> String {
    while !ready() {
        assert_eq!(child.try_wait().unwrap(), None, "it ended by itself");
        std::thread::sleep(Duration::from_millis(1));
    }
    signal(&child, name);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

/// Whether something has a temporary name in `folder`, and keeps it for a while: a command tries
/// first whether it could write there.
fn writing(folder: &Path) -> bool {
    let names = || -> Vec<OsString> {
        let entries = std::fs::read_dir(folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name());
        names
            .filter(|n| n.to_string_lossy().starts_with('.'))
            .collect()
    };
    let before = names();
    if before.is_empty() {
        return false;
    }
    std::thread::sleep(Duration::from_millis(20));
    names().iter().any(|name| before.contains(name))
}

/// Interrupts the command while there is a temporary name in the folder of `out`.
fn interrupted(args: &[&str], out: &Path, name: &str) {
    let folder = out.parent().unwrap();
    let before = std::fs::read_dir(folder).unwrap().count();
    let said = stopped(start(args), name, || writing(folder));
    let expected = format!("rabitc: stopped: {} was not written\n", arg(out));
    assert_eq!(said, expected, "{args:?}");
    let left = std::fs::read_dir(folder).unwrap().count();
    assert_eq!(left, before, "{args:?}");
}

/// A configuration of a model that takes seconds to write.
fn large(folder: &Path, layers: usize) -> PathBuf {
    let path = folder.join("config.json");
    std::fs::copy(models("fixtures/llama3/config.json"), &path).unwrap();
    edit_json(&path, |c| {
        c["hidden_size"] = json!(1024);
        c["intermediate_size"] = json!(4096);
        c["num_hidden_layers"] = json!(layers);
    });
    path
}

#[test]
fn compile_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (out, model) = (folder.path().join("out.rbx"), models("books-1m"));
    // Fits that take far longer than a signal.
    let args = [
        "compile",
        arg(&model),
        "-o",
        arg(&out),
        "--paths",
        "8",
        "--init-iters",
        "1000",
    ];
    interrupted(&args, &out, "INT");
    std::fs::write(&out, "a letter").unwrap();
    interrupted(&args, &out, "TERM");
    assert_eq!(std::fs::read(&out).unwrap(), b"a letter");
}

#[test]
fn logits_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let [ids, out] = ["ids", "out"].map(|name| folder.path().join(name));
    let many: Vec<u32> = (0..200_000).map(|n| n % 2000).collect();
    write_ids(&ids, [2000, 100], &many);
    let args = ["logits", arg(books()), arg(&ids), "-o", arg(&out)];
    interrupted(&args, &out, "INT");
    std::fs::write(&out, "a letter").unwrap();
    interrupted(&args, &out, "TERM");
    assert_eq!(std::fs::read(&out).unwrap(), b"a letter");
}

#[test]
fn synth_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (config, out) = (large(folder.path(), 100), folder.path().join("out"));
    let args = ["synth", arg(&config), "-o", arg(&out)];
    interrupted(&args, &out, "INT");
    // A folder that was there before is empty again.
    std::fs::create_dir(&out).unwrap();
    let said = stopped(start(&args), "TERM", || writing(&out));
    assert!(said.contains("was not written"), "{said}");
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
}

#[test]
fn export_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let [packed, out] = ["packed", "out"].map(|name| folder.path().join(name));
    let config = large(folder.path(), 16);
    rabitc(&["synth", arg(&config), "-o", arg(&packed), "--packed"]);
    let args = ["export", arg(&packed), "--hf", arg(&out)];
    interrupted(&args, &out, "INT");
    interrupted(&args, &out, "TERM");
}

/// Verbs that write nothing say no more than that.
#[test]
fn a_conversation_ends() {
    let dir = books_copy();
    std::fs::write(dir.path().join("chat_template.jinja"), "{{ messages }}").unwrap();
    let model = dir.path().join("chat.rbx");
    compile(dir.path(), &model, &[]);
    let child = start(&["run", arg(&model), "--chat"]);
    // It has its threads when it waits for what the user says.
    let tasks = format!("/proc/{}/task", child.id());
    if Path::new("/proc/self/task").exists() {
        let threads = || std::fs::read_dir(&tasks).map_or(0, |t| t.count());
        assert_eq!(stopped(child, "INT", || threads() > 1), "rabitc: stopped\n");
    } else {
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(stopped(child, "INT", || true), "rabitc: stopped\n");
    }
}
