//! Artifacts: the same input gives the same bytes, damage is found, misfits are refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rabitc::compile::{Options, Progress, Targets, compile};
use rabitc_rbx::level::Arch;
use rabitc_rbx::{Artifact, Level};
use rabitc_runtime::pool::Pool;
use rabitc_runtime::{Model, Session};

struct Silent;

impl Progress for Silent {
    fn phase(&mut self, _: &'static str, _: u64) {}
    fn advance(&mut self, _: u64) {}
}

fn options(output: &Path, levels: Vec<Level>) -> Options {
    let checkpoint = concat!(env!("CARGO_MANIFEST_DIR"), "/models/books-1m");
    let targets = Targets {
        levels,
        gpus: Vec::new(),
    };
    Options {
        output: Some(output.to_path_buf()),
        ..Options::new(PathBuf::from(checkpoint), targets)
    }
}

fn build(output: &Path, levels: Vec<Level>) {
    compile(&options(output, levels), &mut Silent).expect("the example model compiles");
}

fn check(path: &Path) -> Result<(), String> {
    let artifact = Artifact::open(path).map_err(|e| e.to_string())?;
    artifact.check().map_err(|e| e.to_string())
}

#[test]
fn compiling_twice_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["a.rbx", "b.rbx"].map(|n| folder.path().join(n));
    let levels = vec![Level::X86V2, Level::X86V3, Level::Aarch64];
    paths.iter().for_each(|p| build(p, levels.clone()));
    let [a, b] = paths.map(|p| std::fs::read(p).unwrap());
    assert!(a == b, "two compilations differ");
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        2,
        "something was left behind"
    );
}

#[test]
fn an_artifact_is_a_safetensors_file_with_aligned_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.rbx");
    build(&path, vec![Level::X86V2]);
    let bytes = std::fs::read(&path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("any reader can open it");
    let start = bytes.as_ptr() as usize;
    for (name, tensor) in tensors.tensors() {
        let offset = tensor.data().as_ptr() as usize - start;
        assert!(
            name.starts_with("rbx/pad/") || offset.is_multiple_of(64),
            "{name} lies at {offset}"
        );
    }
}

#[test]
fn every_flipped_bit_is_caught() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.rbx");
    build(&path, vec![Level::X86V2]);
    check(&path).expect("it is intact");
    let intact = std::fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(intact[..8].try_into().unwrap()) as usize;
    // All of the length, then strides through header and data that share no factor with 8.
    let flips = (0..64usize)
        .chain((64..header * 8).step_by(1009))
        .chain((header * 8..intact.len() * 8).step_by(20_011));
    let mut count = 0;
    for bit in flips {
        let mut damaged = intact.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &damaged).unwrap();
        assert!(
            check(&path).is_err(),
            "bit {bit} was flipped and nobody noticed"
        );
        count += 1;
    }
    assert!(count > 500, "only {count} bits were tried");
}

#[test]
fn truncated_and_foreign_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.rbx");
    build(&path, vec![Level::X86V2]);
    let intact = std::fs::read(&path).unwrap();
    for keep in [0, 1, 7, 8, 100, 4096, intact.len() / 2, intact.len() - 1] {
        std::fs::write(&path, &intact[..keep]).unwrap();
        let error = check(&path).expect_err("a truncated file");
        assert!(error.contains("a.rbx"), "{error}");
    }
    let checkpoint = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/models/books-1m/model.safetensors"
    );
    let error = check(Path::new(checkpoint)).expect_err("a checkpoint is no artifact");
    assert!(error.contains("no .rbx artifact"), "{error}");
    assert!(check(folder.path()).is_err());
    assert!(check(&folder.path().join("absent.rbx")).is_err());
}

#[test]
fn code_for_another_architecture_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.rbx");
    let foreign = match Level::native()
        .expect("this machine has a CPU level")
        .arch()
    {
        Arch::X86_64 => Level::Aarch64,
        Arch::Aarch64 => Level::X86V2,
    };
    build(&path, vec![foreign]);
    let error = Model::open(&path)
        .err()
        .expect("no code for this machine")
        .to_string();
    let native = Level::native().unwrap().name();
    assert!(
        error.contains(foreign.name()) && error.contains(native),
        "{error}"
    );
}

#[test]
fn the_context_limit_and_bad_tokens_are_errors_that_read_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.rbx");
    let native = Level::native().expect("this machine has a CPU level");
    build(&path, vec![native]);
    let model = Arc::new(Model::open(&path).unwrap());
    let pool = Arc::new(Pool::new(2).unwrap());
    assert!(Session::new(model.clone(), pool.clone(), 0).is_err());
    assert!(Session::new(model.clone(), pool.clone(), 1 << 20).is_err());
    let mut session = Session::new(model, pool, 20).unwrap();
    let vocab = session.model().manifest().model.vocab_size as u32;
    assert!(session.step(&[vocab], &[]).is_err());
    assert!(session.step(&[], &[]).is_err());
    assert!(session.step(&[1, 2], &[2]).is_err());
    assert!(session.read(&[5; 21], &mut |_| {}).is_err());
    assert_eq!(session.position(), 0);
    session.read(&[5; 20], &mut |_| {}).unwrap();
    let error = session.step(&[5], &[0]).unwrap_err().to_string();
    assert!(error.contains("20 positions are taken"), "{error}");
}

#[test]
fn reading_in_blocks_and_one_by_one_agree() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.rbx");
    build(
        &path,
        vec![Level::native().expect("this machine has a CPU level")],
    );
    let model = Arc::new(Model::open(&path).unwrap());
    let ids: Vec<u32> = (0..71).map(|i| i * 13 % 2000).collect();
    let last = |threads: usize, single: bool| -> Vec<f32> {
        let pool = Arc::new(Pool::new(threads).unwrap());
        let mut session = Session::new(model.clone(), pool, 80).unwrap();
        if single {
            ids[..70].iter().for_each(|id| {
                session.step(&[*id], &[]).unwrap();
            });
            return session.step(&ids[70..], &[0]).unwrap().to_vec();
        }
        session.read(&ids, &mut |_| {}).unwrap().to_vec()
    };
    let block = last(2, false);
    assert_eq!(block, last(1, false), "threads change the result");
    let single = last(2, true);
    // Dense products sum in another order in blocks; the tables' rounding can follow.
    let spread = block.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    for (a, b) in block.iter().zip(&single) {
        assert!((a - b).abs() < 1e-2 * spread, "{a} and {b}");
    }
}

/// Writes the artifact at `path` again with a changed manifest, all hashes in order.
fn rewrite(path: &Path, to: &Path, change: impl Fn(&mut rabitc_rbx::Manifest)) {
    let artifact = Artifact::open(path).unwrap();
    let mut manifest = artifact.manifest().clone();
    manifest.hashes.clear();
    change(&mut manifest);
    let entries = artifact.tensors().map(|(name, tensor)| {
        let bytes = artifact.bytes(name).unwrap();
        rabitc_rbx::Entry {
            name: name.to_string(),
            dtype: match tensor.dtype.as_str() {
                "F32" => "F32",
                "F16" => "F16",
                "BF16" => "BF16",
                _ => "U8",
            },
            shape: tensor.shape.clone(),
            bytes: bytes.len(),
            produce: Box::new(move || Ok(bytes.to_vec())),
        }
    });
    rabitc_rbx::write(to, manifest, entries.collect(), &mut |_| {}).unwrap();
}

#[test]
fn plans_that_point_outside_their_memory_are_refused() {
    type Change = fn(&mut rabitc_rbx::Manifest);
    let folder = tempfile::tempdir().unwrap();
    let (path, changed) = (folder.path().join("a.rbx"), folder.path().join("b.rbx"));
    build(&path, vec![Level::X86V2]);
    rewrite(&path, &changed, |_| {});
    check(&changed).expect("an unchanged manifest is fine");
    let changes: [(&str, Change); 5] = [
        ("logits", |m| {
            m.programs[0].logits = m.programs[0].arena_bytes - 4
        }),
        ("logits", |m| m.model.vocab_size = usize::MAX),
        ("layers", |m| m.model.n_layers = usize::MAX),
        ("phases", |m| m.programs[1].steps.reverse()),
        ("kernels", |m| {
            m.targets[0].entries.pop();
        }),
    ];
    for (word, change) in changes {
        rewrite(&path, &changed, change);
        let error = check(&changed).expect_err(word);
        assert!(error.contains(word), "{word}: {error}");
    }
}
