//! Runs the file tests: every `.rbir` file under `tests/filetests/`.
//!
//! A file is a graph with comments that say what to do with it:
//!
//! ```text
//! # test parse                     parse, print; parsing what was printed changes nothing
//! # test verify                    the same, and the verifier accepts the graph
//! # test run                       run the graph, snapshot its outputs
//! # test pass=fuse-paths,tile      run these passes, snapshot the graph
//! # test pass=fuse-paths run       … and check that the graph computes the same after them
//! # test pass=all emit=cuda:sm_90  … and plan it for a GPU, snapshot the launches
//! # show embed gate                … and the text of the kernels whose names begin so
//! # option paths=3 head=int8       options of the passes, see `directives.rs`
//! # input ids = [1, 2] / [3]       an input's values, step by step
//! # weight w = [1, -2.5]           a weight's values
//! ```
//!
//! Inputs and weights that no comment gives are pseudo-random, the same every time. What comes
//! out is compared with the snapshot beside the file; `INSTA_UPDATE=always` writes it. A file with
//! a comment `# error: text` must fail with exactly this text on exactly this line.

mod directives;
mod emit;
mod execute;
mod outcome;
mod values;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use directives::FileTest;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/filetests")
}

/// Every file with this extension in every area, in order.
fn files(extension: &str) -> Vec<PathBuf> {
    let list = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).expect("a folder that can be read");
        entries.map(|e| e.expect("an entry").path()).collect()
    };
    let areas = list(&folder()).into_iter().filter(|p| p.is_dir());
    let files = areas.flat_map(|area| list(&area));
    let wanted = files.filter(|p| p.extension().is_some_and(|e| e == extension));
    wanted.collect::<BTreeSet<_>>().into_iter().collect()
}

fn read(path: &Path) -> FileTest {
    let text = std::fs::read_to_string(path).expect("a file that can be read");
    FileTest::new(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Compares what came out with the snapshot `area/name.snap`.
fn compare(path: &Path, found: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(path.parent().expect("a file in an area"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let name = path.file_stem().expect("a file").to_string_lossy();
    settings.bind(|| insta::assert_snapshot!(&*name, found));
}

#[test]
fn every_file_does_what_it_says() {
    let files = files("rbir");
    assert!(!files.is_empty());
    let failed: Vec<_> = files
        .iter()
        .filter(|path| {
            let run = || match outcome::check(&read(path)) {
                Ok(Some(snapshot)) => compare(path, &snapshot),
                Ok(None) => {}
                Err(e) => panic!("{}: {e}", path.display()),
            };
            catch_unwind(AssertUnwindSafe(run)).is_err()
        })
        .collect();
    assert!(
        failed.is_empty(),
        "{} of {} failed: {failed:#?}",
        failed.len(),
        files.len()
    );
}

/// Of every pass there are files that say what it does, and files that say when it does nothing.
#[test]
fn every_pass_has_file_tests() {
    let tests: Vec<_> = files("rbir").iter().map(|p| read(p)).collect();
    for pass in rabitc_passes::PASSES {
        let of_pass = || {
            let positive = tests.iter().filter(|t| t.errors.is_empty());
            positive.filter(|t| t.passes == [pass.name])
        };
        let changed = of_pass().filter(|t| outcome::changes(t)).count();
        assert!(
            changed >= 2,
            "{}: {changed} files in which it does something",
            pass.name
        );
        let left = of_pass().count() - changed;
        assert!(left >= 1, "{}: no file in which it does nothing", pass.name);
    }
}

#[test]
fn every_snapshot_belongs_to_a_file() {
    for snapshot in files("snap") {
        let file = snapshot.with_extension("rbir");
        assert!(file.exists(), "{} has no file", snapshot.display());
        let positive = read(&file).errors.is_empty();
        assert!(
            positive,
            "{} belongs to a test that fails",
            snapshot.display()
        );
    }
}
