//! Checkpoint forms: what is trained, packed by another program, or fitted here is one and the
//! same artifact; and what cannot be compiled is refused with nothing left behind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rabitc::compile::{Options, Progress, Summary, compile, parse_targets};
use rabitc_frontend::Checkpoint;
use rabitc_ir::ops::residual_sign::derive_signs;
use rabitc_ir::{DType, Tensor, WeightStore};
use rabitc_passes::svid::{Init, fit_scales};
use rabitc_rbx::Artifact;
use safetensors::tensor::{Dtype, TensorView};

const PATHS: usize = 3;

struct Silent;

impl Progress for Silent {
    fn phase(&mut self, _: &'static str, _: u64) {}
    fn advance(&mut self, _: u64) {}
}

fn fixture(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("models/fixtures").join(name)
}

fn build(checkpoint: &Path, output: &Path) -> anyhow::Result<Summary> {
    let options = Options {
        output: Some(output.to_path_buf()),
        passes: rabitc_passes::Options {
            paths: PATHS,
            ..Default::default()
        },
        ..Options::new(checkpoint.to_path_buf(), parse_targets("cpu:native")?)
    };
    compile(&options, &mut Silent)
}

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn stored(checkpoint: &Checkpoint) -> Tensors {
    let names = checkpoint.names().map(str::to_string);
    names
        .map(|name| {
            let info = checkpoint.info(&name).expect("it is listed");
            let bytes = checkpoint.bytes(&name).expect("it is listed").to_vec();
            (name, (info.dtype, info.shape, bytes))
        })
        .collect()
}

fn write(folder: &Path, config: &Path, tensors: &Tensors) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::copy(config, folder.join("config.json")).unwrap();
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        let view = TensorView::new(*dtype, shape.clone(), bytes).expect("bytes fill the shape");
        (name.clone(), view)
    });
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

/// The block linears of a checkpoint with their scales as compile fits them.
fn fitted(checkpoint: &Checkpoint) -> Vec<(String, Tensor, Tensor, Tensor)> {
    let names = checkpoint.names().filter(|n| n.ends_with("_proj.weight"));
    names
        .map(|name| {
            let w = checkpoint.load(name).unwrap();
            let (d_out, d_in) = (w.shape[0], w.shape[1]);
            let fit = fit_scales(w.floats(), d_out, d_in, PATHS, Init::Greedy).unwrap();
            let scales = |v: &[half::f16], d: usize| {
                let bytes: Vec<u8> = v.iter().flat_map(|x| x.to_le_bytes()).collect();
                Tensor::from_le_bytes(DType::F16, &[PATHS, d], &bytes).unwrap()
            };
            let base = name.strip_suffix(".weight").unwrap().to_string();
            (base, w, scales(&fit.g, d_out), scales(&fit.h, d_in))
        })
        .collect()
}

fn scale_entry(t: &Tensor) -> (Dtype, Vec<usize>, Vec<u8>) {
    (Dtype::F16, t.shape.clone(), t.to_le_bytes())
}

fn weights(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let artifact = Artifact::open(path).unwrap();
    let tensors = artifact.tensors().filter(|(n, _)| !n.starts_with("rbx/"));
    tensors
        .map(|(name, _)| (name.to_string(), artifact.bytes(name).unwrap().to_vec()))
        .collect()
}

#[test]
fn dense_trained_and_packed_checkpoints_give_the_same_signs_and_scales() {
    let folder = tempfile::tempdir().unwrap();
    let dense = fixture("llama2");
    let checkpoint = Checkpoint::open(&dense).unwrap();
    let (mut trained, mut packed) = (stored(&checkpoint), stored(&checkpoint));
    for (base, w, g, h) in fitted(&checkpoint) {
        let (d_out, d_in) = (w.shape[0], w.shape[1]);
        let shape = [PATHS, d_out, d_in];
        let bits = derive_signs(w.floats(), g.floats(), h.floats(), shape);
        for tensors in [&mut trained, &mut packed] {
            tensors.insert(format!("{base}.rb_g"), scale_entry(&g));
            tensors.insert(format!("{base}.rb_h"), scale_entry(&h));
        }
        packed.remove(&format!("{base}.weight"));
        let shape = vec![PATHS, d_out, d_in.div_ceil(8)];
        packed.insert(format!("{base}.rb_bits"), (Dtype::U8, shape, bits));
    }
    let config = dense.join("config.json");
    let [a, b, c] = ["dense", "trained", "packed"].map(|n| folder.path().join(format!("{n}.rbx")));
    build(&dense, &a).unwrap();
    for (name, tensors, output) in [("trained", &trained, &b), ("packed", &packed, &c)] {
        write(&folder.path().join(name), &config, tensors);
        build(&folder.path().join(name), output).unwrap();
    }
    // Scales of a single segment keep the name they have in the checkpoint.
    let expected = weights(&a);
    assert!(
        expected.keys().any(|k| k.ends_with("packed_signs")),
        "{:?}",
        expected.keys()
    );
    assert!(weights(&b) == expected, "trained and dense differ");
    assert!(weights(&c) == expected, "packed and dense differ");
}

/// A checkpoint with one thing wrong, and what the error must name.
type Damage = (&'static str, fn(&mut Tensors), &'static [&'static str]);

const DAMAGES: &[Damage] = &[
    (
        "a NaN weight",
        |t| {
            let entry = t.get_mut("model.layers.1.mlp.up_proj.weight").unwrap();
            entry.2[6..8].copy_from_slice(&0x7fc0u16.to_le_bytes());
        },
        &["model.layers.1.mlp.up_proj.weight", "3"],
    ),
    (
        "an infinite norm",
        |t| {
            let entry = t.get_mut("model.norm.weight").unwrap();
            entry.2[0..2].copy_from_slice(&0xff80u16.to_le_bytes());
        },
        &["model.norm.weight"],
    ),
    (
        "a missing tensor",
        |t| {
            t.remove("model.layers.0.self_attn.k_proj.weight");
        },
        &["model.layers.0.self_attn.k_proj.weight"],
    ),
    (
        "an extra tensor",
        |t| {
            let entry = t["model.norm.weight"].clone();
            t.insert("model.layers.0.self_attn.surprise".into(), entry);
        },
        &["model.layers.0.self_attn.surprise"],
    ),
    (
        "a wrong shape",
        |t| {
            let entry = t.get_mut("lm_head.weight").unwrap();
            entry.1.swap(0, 1);
        },
        &["lm_head.weight", "320", "96"],
    ),
];

#[test]
fn damaged_checkpoints_are_refused_by_tensor_and_leave_nothing() {
    let dense = fixture("llama2");
    let intact = stored(&Checkpoint::open(&dense).unwrap());
    for (what, damage, words) in DAMAGES {
        let folder = tempfile::tempdir().unwrap();
        let mut tensors = intact.clone();
        damage(&mut tensors);
        let checkpoint = folder.path().join("checkpoint");
        write(&checkpoint, &dense.join("config.json"), &tensors);
        let error = build(&checkpoint, &folder.path().join("out.rbx")).err();
        let error = error.unwrap_or_else(|| panic!("{what} was compiled"));
        let text = format!("{error:#}");
        for word in *words {
            assert!(text.contains(word), "{what}: {text}");
        }
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 1, "{what} left something behind");
    }
}

#[test]
fn an_output_that_cannot_be_written_is_named_and_an_old_one_stays() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("absent/out.rbx");
    let error = format!("{:#}", build(&fixture("llama2"), &nowhere).err().unwrap());
    assert!(error.contains("absent/out.rbx"), "{error}");
    let old = folder.path().join("old.rbx");
    std::fs::write(&old, "precious").unwrap();
    let checkpoint = folder.path().join("checkpoint");
    let mut tensors = stored(&Checkpoint::open(fixture("llama2")).unwrap());
    DAMAGES[0].1(&mut tensors);
    write(
        &checkpoint,
        &fixture("llama2").join("config.json"),
        &tensors,
    );
    build(&checkpoint, &old)
        .err()
        .expect("NaN weights are refused");
    assert_eq!(std::fs::read(&old).unwrap(), b"precious");
}

#[test]
fn targets_are_parsed_and_unknown_ones_named() {
    let targets = parse_targets("cpu:x86-64-v3,cpu:x86-64-v2,cpu:x86-64-v3").unwrap();
    let names: Vec<_> = targets.levels.iter().map(|l| l.name()).collect();
    assert_eq!(names, ["x86-64-v2", "x86-64-v3"]);
    for (bad, word) in [("gpu", "gpu"), ("cpu:i386", "i386"), ("", "target")] {
        let error = parse_targets(bad).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}
