//! What stops `rabitc train`: kills, ^C, disks that are full. Nothing is lost by any of them.
#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rabitc_train::metrics;
use rabitc_train::store::Saved;

use crate::common::*;
use crate::train::{book, command, records, run, steps, trained};

fn start(args: &[String], errors: Stdio) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rabitc"));
    command.args(args).stdout(Stdio::null()).stderr(errors);
    command.spawn().unwrap()
}

/// Updates that are done in `dir`.
fn done(dir: &Path) -> usize {
    steps(&metrics::read(dir).unwrap_or_default()).len()
}

/// Waits until the run in `dir` has done `updates` updates, or has ended.
fn wait(child: &mut Child, dir: &Path, updates: usize) {
    while done(dir) < updates && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Starts the command and kills it when it has done `updates` updates.
fn killed(args: &[String], dir: &Path, updates: usize) {
    let mut child = start(args, Stdio::null());
    wait(&mut child, dir, updates);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_run_that_was_killed_goes_on_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    let mut args = command(&dir);
    args.push("--resume".to_owned());
    for updates in [1, 5, 11, 12, 17] {
        killed(&args, &dir, updates);
    }
    run(&args);
    assert_eq!(records(&dir), records(trained()));
    let data = |dir: &Path| {
        let bytes = std::fs::read(dir.join("model.safetensors")).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[8 + header..].to_vec()
    };
    assert!(data(&dir) == data(trained()), "the weights differ");
}

/// The command of a run that does not end by itself.
fn endless(dir: &Path) -> Vec<String> {
    let mut args = command(dir);
    let at = args.iter().position(|arg| arg == "--steps").unwrap();
    args[at + 1] = "1000000".to_owned();
    args.push("--resume".to_owned());
    args
}

/// Starts the command, sends the signal when it has done `updates` updates, and gives the update
/// that it stopped after.
fn stopped(args: &[String], dir: &Path, name: &str, updates: usize) -> usize {
    let mut child = start(args, Stdio::piped());
    wait(&mut child, dir, updates);
    signal(&child, name);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    let step = done(dir);
    let last = said.lines().last().unwrap();
    let expected = format!("rabitc: stopped after step {step}, which ");
    assert!(last.starts_with(&expected), "{said}");
    assert!(
        last.ends_with("the same command with --resume goes on"),
        "{said}"
    );
    let saved = Saved::find(dir).unwrap().unwrap();
    assert_eq!(saved.state.step, step as u64);
    step
}

#[test]
fn the_first_interrupt_ends_a_run_after_its_update() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, dir] = ["whole", "run"].map(|name| folder.path().join(name));
    let args = endless(&dir);
    let first = stopped(&args, &dir, "INT", 4);
    let last = stopped(&args, &dir, "TERM", first + 4);
    assert!(first >= 4 && last >= first + 4);
    // One more: what was measured after the last is written then.
    killed(&endless(&whole), &whole, last + 1);
    let until = |dir: &Path| {
        let records = records(dir).into_iter();
        records
            .filter(|r| r.step() <= last as u64)
            .collect::<Vec<_>>()
    };
    assert_eq!(until(&dir), until(&whole));
}

#[test]
fn the_second_interrupt_ends_a_run_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    let (model, text) = (models("books-1m"), book("docs/architecture.md"));
    // An update of many seconds.
    let args = [
        "train",
        arg(&model),
        "-o",
        arg(&dir),
        "--text",
        arg(&text),
        "--batch",
        "8",
        "--accumulate",
        "100000",
        "--init",
        "greedy",
        "--no-diagnostics",
    ];
    let mut child = start(&args.map(str::to_owned), Stdio::piped());
    while !dir.join("model.safetensors").exists() {
        assert_eq!(child.try_wait().unwrap(), None);
        std::thread::sleep(Duration::from_millis(2));
    }
    signal(&child, "INT");
    let mut said = String::new();
    let errors = child.stderr.take().unwrap();
    BufReader::new(errors).read_line(&mut said).unwrap();
    assert!(said.contains("once more stops at once"), "{said}");
    assert_eq!(child.try_wait().unwrap(), None);
    signal(&child, "INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(done(&dir), 0);
    assert_eq!(Saved::find(&dir).unwrap().unwrap().state.step, 0);
}

/// A file that may not grow is what a full disk looks like to a program.
#[test]
fn a_full_disk_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    let mut args = command(&dir);
    killed(&args, &dir, 5);
    args.push("--resume".to_owned());
    let parts: Vec<&str> = args.iter().map(String::as_str).collect();
    // Fewer bytes than the optimizer's file takes.
    let said = limited(1000, &parts);
    let last = said.lines().last().unwrap();
    assert!(
        last.contains("optimizer-000000") && last.contains("too large"),
        "{said}"
    );
    assert_eq!(unfinished(&dir), 0);
    run(&args);
    assert_eq!(records(&dir), records(trained()));
}
