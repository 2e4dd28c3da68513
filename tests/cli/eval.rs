//! `rabitc eval`, against figures computed here from what `rabitc logits` writes.

use std::path::Path;

use crate::common::*;

/// Some text that the example model finds neither trivial nor foreign.
fn text() -> String {
    let stories = reference()["greedy"].as_array().unwrap().clone();
    let texts: Vec<_> = stories
        .iter()
        .map(|s| s["text"].as_str().unwrap())
        .collect();
    texts.join("\n").repeat(2)
}

/// All tokens of a text, none added.
fn tokens(text: &str) -> Vec<u32> {
    let args = [
        "run",
        arg(books()),
        "-p",
        text,
        "--raw",
        "-n",
        "1",
        "--json",
    ];
    ids(&rabitc(&args).json()["prompt_ids"])
}

/// Log probabilities after each token of windows, by another way through the program.
fn log_probabilities(model: &Path, windows: &[u32], window: usize) -> Vec<Vec<f64>> {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (
        dir.path().join("ids.safetensors"),
        dir.path().join("out.safetensors"),
    );
    write_ids(&input, [windows.len() / window, window], windows);
    rabitc(&["logits", arg(model), arg(&input), "-o", arg(&output)]);
    let (shape, logits) = floats(&output, "logits");
    let row = |row: &[f32]| {
        let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        row.iter().map(|x| f64::from(*x) - sum.ln()).collect()
    };
    logits.chunks(shape[2]).map(row).collect()
}

fn best(row: &[f64]) -> usize {
    (0..row.len())
        .max_by(|a, b| row[*a].total_cmp(&row[*b]))
        .unwrap()
}

#[test]
fn figures_follow_the_protocol() {
    const WINDOW: usize = 40;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("text.txt");
    std::fs::write(&file, text()).unwrap();
    let args = [
        "--text",
        arg(&file),
        "--window",
        "40",
        "--json",
        "--against",
    ];
    let base = [&["eval", arg(books())][..], &args, &[arg(books_dense())]].concat();
    let report = rabitc(&base).json();

    let all = tokens(&text());
    // Each window needs a token more, which is the first of the next one.
    let windows = (all.len() - 1) / WINDOW;
    assert!(
        windows > 5 && !(all.len() - 1).is_multiple_of(WINDOW),
        "{}",
        all.len()
    );
    let inputs = &all[..windows * WINDOW];
    let [q, p] = [books(), books_dense()].map(|m| log_probabilities(m, inputs, WINDOW));
    let n = inputs.len() as f64;
    let nll = |rows: &[Vec<f64>]| {
        let terms = rows
            .iter()
            .zip(&all[1..])
            .map(|(row, target)| -row[*target as usize]);
        terms.sum::<f64>() / n
    };
    let kl = |(p, q): (&Vec<f64>, &Vec<f64>)| -> f64 {
        p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum()
    };
    let kl = p.iter().zip(&q).map(kl).sum::<f64>() / n;
    let agreeing = p.iter().zip(&q).filter(|(p, q)| best(p) == best(q)).count();

    let close = |key: &str, expected: f64| {
        let found = report[key].as_f64().unwrap();
        assert!(
            (found / expected - 1.0).abs() < 1e-4,
            "{key}: {found}, expected {expected}"
        );
    };
    close("nll", nll(&q));
    close("ppl", nll(&q).exp());
    close("reference_ppl", nll(&p).exp());
    close("kl", kl);
    close("top1", agreeing as f64 / n);
    assert_eq!(report["tokens"], inputs.len());
    assert_eq!(report["windows"], windows);
    assert_eq!(report["window"], WINDOW);
    assert!(report["seconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_model_agrees_with_itself_and_alone_there_is_nothing_to_compare() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("text.txt");
    std::fs::write(&file, text()).unwrap();
    let model = arg(books_dense());
    let base = [
        "eval",
        model,
        "--text",
        arg(&file),
        "--window",
        "64",
        "--max-windows",
        "2",
    ];
    let itself = rabitc(&[&base[..], &["--json", "--against", model]].concat()).json();
    assert!(itself["kl"].as_f64().unwrap().abs() < 1e-6, "{itself}");
    assert_eq!(itself["top1"], 1.0);
    assert_eq!(itself["ppl"], itself["reference_ppl"]);
    assert_eq!(itself["tokens"], 128);
    let alone = rabitc(&[&base[..], &["--json", "--threads", "1"]].concat()).json();
    assert_eq!(alone["ppl"], itself["ppl"]);
    for key in ["kl", "top1", "reference_ppl"] {
        assert!(alone[key].is_null(), "{alone}");
    }
    let table = rabitc(&[&base[..], &["--against", model]].concat()).out;
    assert!(table.contains("| artifact "), "{table}");
    assert!(table.contains("100.00%"), "{table}");
    assert!(table.contains("128 tokens in 2 windows of 64"), "{table}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let [short, long, foreign] =
        ["short.txt", "long.txt", "foreign.txt"].map(|n| dir.path().join(n));
    std::fs::write(&short, "Too short.").unwrap();
    std::fs::write(&long, text()).unwrap();
    std::fs::write(&foreign, b"caf\xe9").unwrap();
    let model = arg(books());
    let refused = |file: &Path, more: &[&str], words: &[&str]| {
        refuses(
            &[&["eval", model, "--text", arg(file)], more].concat(),
            words,
        );
    };
    refused(&short, &[], &["short.txt", "needs 1025", "--window"]);
    refused(&foreign, &[], &["foreign.txt", "UTF-8", "byte 3"]);
    refused(&dir.path().join("absent.txt"), &[], &["absent.txt"]);
    refused(&long, &["--window", "0"], &["--window 0"]);
    refused(&long, &["--window", "1025"], &["1 to 1024"]);
    refused(
        &long,
        &["--window", "9", "--max-windows", "0"],
        &["--max-windows 0"],
    );
    let other = dir.path().join("llama2.rbx");
    compile(&models("fixtures/llama2"), &other, &[]);
    refused(
        &long,
        &["--against", arg(&other)],
        &["llama2.rbx", "320", "2048"],
    );
    misused(&["eval", model], "--text");
}

#[test]
fn other_tokenizers_do_not_compare() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("text.txt");
    std::fs::write(&file, text()).unwrap();
    let checkpoint = books_copy();
    // The same vocabulary in another file: harmless here, but nobody can tell.
    edit_json(&checkpoint.path().join("tokenizer.json"), |t| {
        t["version"] = "1.0".into()
    });
    let other = dir.path().join("other.rbx");
    compile(checkpoint.path(), &other, &EXACT);
    let args = [
        "eval",
        arg(books()),
        "--text",
        arg(&file),
        "--against",
        arg(&other),
    ];
    refuses(&args, &["other.rbx", "tokenizers differ"]);
}
