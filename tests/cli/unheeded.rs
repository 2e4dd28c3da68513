//! Options that would go unheeded are refused, and so is what would fail only after a long time.

use crate::common::*;

#[test]
fn options_that_exclude_each_other_are_a_wrong_command_line() {
    let (checkpoint, model) = (models("books-1m"), books());
    let (checkpoint, model) = (arg(&checkpoint), arg(model));
    let cases: [(&[&str], &str); 11] = [
        (&["run", model, "--ids", "1", "--system", "x"], "--system"),
        (&["verify", model, "--hashes-only", "--seed", "1"], "--seed"),
        (&["verify", model, "--hashes-only", "-t", "1"], "--threads"),
        (
            &[
                "compile",
                checkpoint,
                "-o",
                "x",
                "--keep-dense",
                "--paths",
                "3",
            ],
            "--paths",
        ),
        (
            &[
                "compile",
                checkpoint,
                "-o",
                "x",
                "--keep-dense",
                "--keep-dense-layers",
                "down",
            ],
            "--keep-dense-layers",
        ),
        (
            &["compile", checkpoint, "-o", "x", "--keep-dense-layers", ""],
            "--keep-dense-layers",
        ),
        (
            &["compile", checkpoint, "--emit", "ir", "--json"],
            "--output",
        ),
        (&["train", checkpoint, "--window", "9"], "--valid"),
        (&["train", checkpoint, "--max-windows", "9"], "--valid"),
        (&["train", checkpoint, "--noise-span", "4"], "--noise"),
        (&["train", checkpoint, "--noise-from", "teacher"], "--noise"),
    ];
    for (args, word) in cases {
        misused(args, word);
    }
}

#[test]
fn options_without_effect_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = models("books-1m");
    let (out, stage) = (folder.path().join("out"), folder.path().join("stage"));
    let compile = ["compile", arg(&checkpoint), "-o", arg(&out)];
    let twice = format!("ir:{0},asm:{0}", arg(&stage));
    for (more, words) in [
        (&["--init", "greedy", "--init-iters", "5"][..], "no cycles"),
        (&["--json", "--emit", "ir"], "--emit STAGE:FILE"),
        (&["--emit", &twice], "two stages go to"),
    ] {
        refuses(&[&compile[..], more].concat(), &[words]);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let noise = ["--noise", "0.1", "--noise-from", "teacher"];
    let train = [&["train", arg(&checkpoint), "--dry-run"], &noise[..]].concat();
    refuses(
        &[&train[..], &["--noise-order", "2"]].concat(),
        &["--noise-order"],
    );
    for more in [&["--tokens", "4"][..], &["--steps", "--tokens", "4"]] {
        let args = [&["bench", arg(books())], more].concat();
        refuses(&args, &["--tokens", "--device cuda"]);
    }
}

/// Before anything is read, compiled or measured.
#[test]
fn outputs_that_cannot_be_written_are_refused_first() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "{}").unwrap();
    let inside = file.join("out");
    let (absent, config) = (folder.path().join("absent"), models("books-1m/config.json"));
    refuses(
        &["compile", arg(&absent), "-o", arg(&inside)],
        &[arg(&inside), "there is no folder"],
    );
    refuses(
        &["compile", arg(&absent), "-o", arg(folder.path())],
        &["is no regular file"],
    );
    let tune = ["tune", arg(&config), "--budget", "1440m", "--cache"];
    #[cfg(target_os = "linux")]
    {
        // A folder in which nobody may create anything.
        let cache = folder.path().join("link").join("cache.json");
        std::os::unix::fs::symlink("/proc/self", folder.path().join("link")).unwrap();
        refuses(&[&tune[..], &[arg(&cache)]].concat(), &[arg(&cache)]);
    }
    let other = folder.path().join("other.json");
    std::fs::write(&other, [0xff; 40]).unwrap();
    let words = [arg(&other), "no tuning cache that can be used"];
    refuses(&[&tune[..], &[arg(&other)]].concat(), &words);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_standard_output_is_named() {
    for args in [
        &["inspect", arg(books())][..],
        &["run", arg(books()), "-p", "x", "-n", "3"],
        &["compile", arg(&models("books-1m")), "--emit", "ir"],
    ] {
        let full = std::fs::File::create("/dev/full").unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_rabitc"))
            .args(args)
            .stdout(full)
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.starts_with("rabitc: error: standard output: "),
            "{said}"
        );
    }
}
