use std::fs;
use std::path::Path;

use proptest::prelude::*;
use rabitc_ir::{DType, WeightStore};
use safetensors::tensor::TensorView;
use tempfile::TempDir;

use super::*;

/// The bytes of a safetensors file.
fn file(tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        let view = TensorView::new(*dtype, shape.to_vec(), data).unwrap();
        (name.to_string(), view)
    });
    safetensors::serialize(views, None).unwrap()
}

fn one(name: &str) -> Vec<u8> {
    file(&[(name, Dtype::F32, &[2], vec![0; 8])])
}

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn index(map: &str) -> Vec<u8> {
    format!(r#"{{"metadata":{{}},"weight_map":{{{map}}}}}"#).into_bytes()
}

const INDEX: &str = "model.safetensors.index.json";

/// Opening `name` inside a folder with these files fails with a message that holds `expected`.
fn refused(files: &[(&str, &[u8])], name: &str, expected: &str) {
    let dir = folder(files);
    let text = Checkpoint::open(dir.path().join(name))
        .unwrap_err()
        .to_string();
    assert!(text.contains(expected), "`{expected}` is not in: {text}");
    let folder = dir.path().to_str().unwrap();
    assert!(text.starts_with(folder), "no file is named: {text}");
}

#[test]
fn a_checkpoint_opens_by_folder_file_and_index() {
    let (a, b) = (one("a"), one("b"));
    let map = index(r#""a":"s1.safetensors","b":"s2.safetensors""#);
    let dir = folder(&[
        ("s1.safetensors", &a),
        ("s2.safetensors", &b),
        (INDEX, &map),
    ]);
    for path in [dir.path().to_path_buf(), dir.path().join(INDEX)] {
        let checkpoint = Checkpoint::open(path).unwrap();
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(checkpoint.files().count(), 2);
        assert_eq!(checkpoint.total_bytes(), 16);
        assert_eq!(checkpoint.folder(), dir.path());
    }
    let single = Checkpoint::open(dir.path().join("s1.safetensors")).unwrap();
    assert_eq!(single.names().collect::<Vec<_>>(), ["a"]);
    assert_eq!(single.info("b"), None);
    fs::write(dir.path().join("model.safetensors"), one("whole")).unwrap();
    let whole = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(whole.names().collect::<Vec<_>>(), ["whole"]);
}

#[test]
fn what_is_no_checkpoint_is_refused() {
    refused(&[], "", "holds neither");
    refused(&[], "absent.safetensors", "No such file");
    refused(&[("x.bin", b"x")], "x.bin", "not a checkpoint");
    refused(&[("m.safetensors", b"")], "m.safetensors", "0 bytes");
    let cut = &one("a")[..20];
    refused(&[("m.safetensors", cut)], "m.safetensors", "truncated");
    let good = one("a");
    let cut = &good[..good.len() - 1];
    refused(
        &[("m.safetensors", cut)],
        "m.safetensors",
        "tensor `a`: data offsets [0, 8] lie outside",
    );
}

#[test]
fn indices_that_lie_are_refused() {
    let a = one("a");
    let cases: &[(&str, &str)] = &[
        (
            r#""a":"s2.safetensors""#,
            "names the shard `s2.safetensors`, which does not exist",
        ),
        (r#""a":"../s1.safetensors""#, "`../s1.safetensors` is not"),
        (r#""a":"/etc/passwd""#, "`/etc/passwd` is not"),
        (r#""a":"x/s1.safetensors""#, "`x/s1.safetensors` is not"),
        (
            r#""a":"x\\s1.safetensors""#,
            "is not a .safetensors file beside",
        ),
        (r#""a":".""#, "`.` is not"),
        (r#""a":"..""#, "`..` is not"),
        (r#""a":"""#, "`` is not"),
        (r#""a":"s1.bin""#, "`s1.bin` is not"),
        (r#""a":"./s1.safetensors""#, "`./s1.safetensors` is not"),
        (r#""a":"s1.safetensors/""#, "`s1.safetensors/` is not"),
        (
            r#""a":"s1.safetensors","b":"s1.safetensors""#,
            "tensor `b`: the index says it is in s1.safetensors, but it is in no shard",
        ),
        (r#""b":"s1.safetensors""#, "tensor `b`"),
        ("", "weight_map is empty"),
        (r#""a":3"#, "not a safetensors index"),
    ];
    for (map, expected) in cases {
        refused(
            &[("s1.safetensors", &a), (INDEX, &index(map))],
            "",
            expected,
        );
    }
    refused(&[(INDEX, b"{}")], "", "not a safetensors index");
    refused(&[(INDEX, b"\xff")], "", "UTF-8");
}

#[test]
fn shards_that_disagree_are_refused() {
    let two = file(&[
        ("a", Dtype::U8, &[1], vec![1]),
        ("b", Dtype::U8, &[1], vec![2]),
    ]);
    let map = index(r#""a":"s1.safetensors","b":"s2.safetensors""#);
    let files: &[(&str, &[u8])] = &[
        ("s1.safetensors", &two),
        ("s2.safetensors", &two),
        (INDEX, &map),
    ];
    refused(files, "", "tensor `a`: is also in s1.safetensors");
    let map = index(r#""a":"s1.safetensors""#);
    refused(
        &[("s1.safetensors", &two), (INDEX, &map)],
        "",
        "`b`: is in s1.safetensors but not in the index",
    );
    let name = "model-00001-of-00002.safetensors";
    refused(&[(name, &two), (INDEX, &map)], name, "one shard of several");
}

fn store(tensors: &[(&str, Dtype, &[usize], Vec<u8>)]) -> (TempDir, Checkpoint) {
    let dir = folder(&[("model.safetensors", &file(tensors))]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    (dir, checkpoint)
}

#[test]
fn weights_are_widened_and_must_be_finite() {
    let bf16 = |v: &[f32]| {
        v.iter()
            .flat_map(|&x| half::bf16::from_f32(x).to_le_bytes())
            .collect()
    };
    let (_dir, store) = store(&[
        ("good", Dtype::BF16, &[2, 2], bf16(&[1.0, -2.0, 0.5, 3.0])),
        (
            "nan",
            Dtype::BF16,
            &[2, 2],
            bf16(&[1.0, 2.0, f32::NAN, 3.0]),
        ),
        ("wide", Dtype::F64, &[1], vec![0; 8]),
    ]);
    let good = store.load("good").unwrap();
    assert_eq!(
        (good.dtype, good.floats()),
        (DType::BF16, &[1.0, -2.0, 0.5, 3.0][..])
    );
    assert_eq!(&*store.raw("good").unwrap(), store.bytes("good").unwrap());
    for error in [
        store.load("nan").unwrap_err(),
        store.raw("nan").unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(text.contains("`nan`: element [1, 0] is NaN"), "{text}");
        assert!(text.contains("model.safetensors"), "{text}");
    }
    assert_eq!(WeightStore::info(&store, "wide"), None);
    assert!(
        store
            .load("wide")
            .unwrap_err()
            .to_string()
            .contains("F64 is not supported")
    );
    assert!(
        store
            .load("none")
            .unwrap_err()
            .to_string()
            .contains("no weight named `none`")
    );
}

#[test]
fn packed_signs_are_bits_and_their_padding_is_checked() {
    let scales = |n: usize| vec![0; 2 * n];
    let (_dir, store) = store(&[
        (
            "w.rb_bits",
            Dtype::U8,
            &[1, 2, 2],
            vec![0xff, 0x01, 0x00, 0x00],
        ),
        ("w.rb_h", Dtype::F16, &[1, 9], scales(9)),
        (
            "bad.rb_bits",
            Dtype::U8,
            &[1, 2, 2],
            vec![0xff, 0x01, 0x00, 0x02],
        ),
        ("bad.rb_h", Dtype::F16, &[1, 9], scales(9)),
        ("odd.rb_bits", Dtype::U8, &[1, 2, 2], vec![0; 4]),
        ("odd.rb_h", Dtype::F16, &[1, 17], scales(17)),
    ]);
    assert_eq!(
        WeightStore::info(&store, "w.rb_bits"),
        Some((DType::Bit, vec![1, 2, 9]))
    );
    let signs = store.load("w.rb_bits").unwrap();
    assert_eq!((signs.sign(0, 8), signs.sign(1, 8)), (1.0, -1.0));
    let text = store.load("bad.rb_bits").unwrap_err().to_string();
    assert!(text.contains("row [0, 1] has padding bits set"), "{text}");
    assert_eq!(
        WeightStore::info(&store, "odd.rb_bits"),
        Some((DType::U8, vec![1, 2, 2]))
    );
}

/// Opens a folder whose one file holds `bytes` and reads everything that can be read.
fn read_all(bytes: &[u8]) {
    let dir = folder(&[("model.safetensors", bytes)]);
    read_folder(dir.path());
}

fn read_folder(path: &Path) {
    if let Ok(checkpoint) = Checkpoint::open(path) {
        for name in checkpoint.names() {
            assert!(checkpoint.info(name).is_some() && checkpoint.bytes(name).is_some());
            let _ = checkpoint.load(name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn damaged_files_never_panic(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..8), 0..5),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = file(&[
            ("w.rb_bits", Dtype::U8, &[1, 2, 2], vec![0xff, 0x01, 0x00, 0x00]),
            ("w.rb_h", Dtype::F16, &[1, 9], vec![0; 18]),
            ("x", Dtype::F32, &[3], vec![0; 12]),
        ]);
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        read_all(&bytes);
    }

    #[test]
    fn damaged_indices_never_panic(text in r#"[{}":,a-z\./\\ ]{0,60}"#, shard in r"[a-z\./\\]{0,20}") {
        let map = index(&format!(r#""a":"{shard}""#));
        for index in [text.as_bytes(), &map] {
            let dir = folder(&[("s.safetensors", &one("a")), (INDEX, index)]);
            read_folder(dir.path());
        }
    }
}
