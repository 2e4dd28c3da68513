//! `rabitc logits`, against what Hugging Face transformers computed.

use std::path::Path;

use safetensors::Dtype;

use crate::common::*;

const FAMILIES: [&str; 6] = ["llama2", "llama3", "mistral", "qwen2", "qwen3", "gemma3"];

/// The most that logits may differ, in standard deviations.
const BOUND: f64 = 2e-3;

#[test]
fn all_families_give_the_expected_logits_in_blocks_and_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    for family in FAMILIES {
        let folder = models("fixtures").join(family);
        let expected = folder.join("expected.safetensors");
        let model = dir.path().join(format!("{family}.rbx"));
        compile(&folder, &model, &EXACT);
        let (shape, wanted) = floats(&expected, "logits_f32");
        for more in [&[][..], &["--decode"]] {
            let out = dir.path().join("out.safetensors");
            let base = ["logits", arg(&model), arg(&expected), "-o", arg(&out)];
            let run = rabitc(&[&base[..], more].concat());
            assert_eq!(run.out, "", "the result is in the file");
            let (found_shape, found) = floats(&out, "logits");
            assert_eq!(found_shape, shape, "{family}");
            let error = relative_error(&found, &wanted);
            assert!(error < BOUND, "{family} {more:?}: {error}");
        }
    }
}

#[test]
fn all_families_continue_as_expected() {
    let dir = tempfile::tempdir().unwrap();
    for family in FAMILIES {
        let folder = models("fixtures").join(family);
        let expected = folder.join("expected.safetensors");
        let model = dir.path().join(format!("{family}.rbx"));
        compile(&folder, &model, &EXACT);
        let (shape, input) = integers(&expected, "input_ids");
        let (_, greedy) = integers(&expected, "greedy_ids");
        let narrow = |ids: &[i64]| ids.iter().map(|id| *id as u32).collect::<Vec<_>>();
        let prompt = join(&narrow(&input[..shape[1]]));
        let base = [
            "run",
            arg(&model),
            "--ids",
            &prompt,
            "-n",
            "24",
            "--greedy",
            "--json",
        ];
        let report = rabitc(&base).json();
        let continuation = &greedy[greedy.len() - 24..];
        assert_eq!(ids(&report["ids"]), narrow(continuation), "{family}");
    }
}

#[test]
fn sequences_do_not_depend_on_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two, out] = ["one", "two", "out"].map(|n| dir.path().join(n));
    let ids: Vec<u32> = (0..2 * 37).map(|n| n * 29 % 2048).collect();
    let run = |input: &Path| {
        rabitc(&["logits", arg(books()), arg(input), "-o", arg(&out)]);
        floats(&out, "logits")
    };
    write_ids(&two, [2, 37], &ids);
    let (shape, both) = run(&two);
    assert_eq!(shape, [2, 37, 2048]);
    write_ids(&one, [1, 37], &ids[37..]);
    let (_, second) = run(&one);
    assert_eq!(both[37 * 2048..], second);
    // I32 is the same, and an earlier output is replaced.
    let data: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    write_tensor(&two, "input_ids", Dtype::I32, &[2, 37], &data);
    assert_eq!(run(&two).1, both);
}

#[test]
fn what_cannot_be_read_or_written_is_refused_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let out = file("out.safetensors");
    let refused = |name: &str, out: &Path, words: &[&str]| {
        let input = file(name);
        let args = ["logits", arg(books()), arg(&input), "-o", arg(out)];
        refuses(&args, words);
    };
    write_ids(&file("range"), [1, 2], &[1, 2048]);
    write_ids(&file("long"), [1, 1025], &[1; 1025]);
    write_ids(&file("good"), [1, 2], &[1, 2]);
    write_tensor(&file("flat"), "input_ids", Dtype::I64, &[1], &[0; 8]);
    write_tensor(&file("none"), "input_ids", Dtype::I64, &[0, 4], &[]);
    write_tensor(&file("float"), "input_ids", Dtype::F32, &[1, 1], &[0; 4]);
    write_tensor(&file("name"), "ids", Dtype::I64, &[1, 1], &[0; 8]);
    let good = std::fs::read(file("good")).unwrap();
    std::fs::write(file("cut"), &good[..good.len() - 1]).unwrap();
    for (name, words) in [
        ("range", "[0, 1] is 2048, the ids are 0 to 2047"),
        ("long", "1025 tokens, the model was made for at most 1024"),
        ("flat", "shape [1]"),
        ("none", "shape [0, 4]"),
        ("float", "is F32, expected I32 or I64"),
        ("name", "no tensor `input_ids`, but `ids`"),
        ("cut", "not a safetensors file"),
        ("absent", "No such file"),
    ] {
        refused(name, &out, &[name, words]);
    }
    let nowhere = file("folder/out.safetensors");
    refused("good", &nowhere, &["folder/out.safetensors"]);
    refused("good", dir.path(), &[arg(dir.path())]);
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().flatten().collect();
    assert_eq!(left.len(), 8, "{left:?}");
}
