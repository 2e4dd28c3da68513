//! `rabitc compile` on what it cannot take.

use crate::common::*;

/// A tokenizer that could not be used is refused now, not when the artifact runs.
#[test]
fn a_tokenizer_that_cannot_be_used_is_refused() {
    let whole = std::fs::read(models("books-1m/tokenizer.json")).unwrap();
    for (name, content, words) in [
        ("tokenizer.json", &b""[..], "cannot read tokenizer.json"),
        ("tokenizer.json", b"[]", "cannot read tokenizer.json"),
        (
            "tokenizer.json",
            &whole[..1000],
            "cannot read tokenizer.json",
        ),
        ("tokenizer_config.json", b"[]", "must hold a JSON object"),
        (
            "tokenizer_config.json",
            b"{\"bos_token\": \"<none such>\"}",
            "bos_token",
        ),
    ] {
        let checkpoint = books_copy();
        let out = checkpoint.path().join("out.rbx");
        std::fs::write(checkpoint.path().join(name), content).unwrap();
        let args = ["compile", arg(checkpoint.path()), "-o", arg(&out)];
        refuses(&args, &[arg(checkpoint.path()), words]);
        assert!(!out.exists());
    }
}

/// A pattern that matches nothing is most likely misspelt.
#[test]
fn a_pattern_without_a_layer_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.rbx");
    let model = models("books-1m");
    let compile = [
        "compile",
        arg(&model),
        "-o",
        arg(&out),
        "--keep-dense-layers",
    ];
    let misspelt = ["down_proj", "--keep-dense-layers", "layer.0."];
    let words = "no dense linear layer has a name that matches `*layer.0.*`";
    refuses(&[&compile[..], &misspelt].concat(), &[words]);
    assert!(!out.exists());
    rabitc(&[&compile[..], &["layers.0."]].concat());
}
