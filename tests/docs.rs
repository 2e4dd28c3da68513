//! The tables of the documentation say what the code says.
//!
//! A table that follows from code stands between `<!-- name -->` and `<!-- /name -->`. A failing
//! test prints what has to stand there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rabitc_ir::attr::AttrText;
use rabitc_ir::{DType, Op, Type};
use rabitc_rbx::Level;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// What stands between the two markers of `name` in `file`, without blank lines around it.
fn marked(file: &str, name: &str) -> String {
    let text = read(file);
    let (open, close) = (format!("<!-- {name} -->"), format!("<!-- /{name} -->"));
    let inner = text
        .split_once(&open)
        .and_then(|(_, rest)| rest.split_once(&close));
    let (inner, _) = inner.unwrap_or_else(|| panic!("{file} has no {open} … {close}"));
    inner.trim().to_string()
}

/// Compares a marked part with what it should be.
fn check(file: &str, name: &str, expected: &str) {
    let (found, expected) = (marked(file, name), expected.trim());
    assert!(
        found == expected,
        "between the `{name}` markers of {file} should stand\n\n{expected}\n"
    );
}

/// A table row; a bar in a cell would end it.
fn row<S: AsRef<str>>(cells: impl IntoIterator<Item = S>) -> String {
    let cells: Vec<_> = cells
        .into_iter()
        .map(|c| c.as_ref().replace('|', "\\|"))
        .collect();
    format!("| {} |\n", cells.join(" | "))
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

#[test]
fn op_table() {
    let mut table =
        row(["op", "operands", "attributes", "what it computes"]) + "|---|---|---|---|\n";
    for op in Op::table() {
        let operands: Vec<_> = op.operands.iter().map(|o| code(o)).collect();
        let attributes = attributes(op.name).into_iter();
        let attributes: Vec<_> = attributes
            .map(|(name, kind)| format!("{} {kind}", code(&name)))
            .collect();
        // Links between items of the code lead nowhere here.
        let doc = op
            .doc
            .replace("[`", "`")
            .replace("`]", "`")
            .replace("crate::", "ir::");
        let stage = if op.compile_time { "*" } else { "" };
        let name = format!("{}{stage}", code(op.name));
        table += &row([name, operands.join(", "), attributes.join(", "), doc]);
    }
    check("docs/formats.md", "ops", &table);
}

/// Name and kind of every attribute of an op, in order. The parser tells: it names the first
/// attribute that is missing, and what it expected in place of a value that cannot be.
fn attributes(op: &str) -> Vec<(String, String)> {
    let (mut known, mut found) = (Vec::new(), Vec::new());
    loop {
        let error = match Op::from_text(op, &known) {
            Ok(_) => return found,
            Err(error) => error,
        };
        let name = quoted(&error, " is missing").unwrap_or_else(|| panic!("{op}: {error}"));
        known.push((name.clone(), AttrText::Word("?".into())));
        let refusal = Op::from_text(op, &known).expect_err("`?` is no value");
        let (kind, value) = kind(&refusal);
        known.last_mut().expect("just pushed").1 = value;
        found.push((name, kind));
    }
}

/// `x` of a message "attribute `x`…" that ends in `end`.
fn quoted(message: &str, end: &str) -> Option<String> {
    let name = message.strip_suffix(end)?.strip_prefix("attribute `")?;
    Some(name.strip_suffix('`')?.to_string())
}

/// The kind of attribute that refused a value with this message, and a value that it takes.
fn kind(refusal: &str) -> (String, AttrText) {
    let word = |w: &str| AttrText::Word(w.into());
    if refusal.contains("unknown dtype") {
        return ("dtype".into(), word("f32"));
    }
    let expected = refusal.split_once("expected ").map(|(_, rest)| rest);
    let expected = expected.and_then(|e| e.rsplit_once(", found "));
    let (kind, value) = match expected.expect(refusal).0 {
        "an unsigned integer" => ("integer", word("1")),
        "a number" => ("number", word("1")),
        "true or false" => ("bool", word("true")),
        "a quoted string" => ("string", AttrText::Str(String::new())),
        "a type" => ("type", AttrText::Type(Type::fixed(DType::F32, &[1]))),
        "a list" => ("list", AttrText::List(Vec::new())),
        other => {
            let words = other.strip_prefix("one of ");
            let words = words.unwrap_or_else(|| panic!("a new kind of attribute: {other}"));
            let first = words.split(", ").next().unwrap_or(words);
            return (words.replace(", ", " or "), word(first));
        }
    };
    (kind.to_string(), value)
}

#[test]
fn pass_table() {
    let mut table = row(["", "pass", "what it does"]) + "|---:|---|---|\n";
    for (i, pass) in rabitc_passes::PASSES.iter().enumerate() {
        table += &row([
            (i + 1).to_string(),
            code(pass.name),
            pass.description.into(),
        ]);
    }
    check("docs/architecture.md", "passes", &table);
}

#[test]
fn level_names() {
    let names: Vec<_> = Level::ALL.iter().map(|l| code(l.name())).collect();
    check("docs/formats.md", "levels", &names.join(", "));
}

#[test]
fn every_verb_is_in_the_readme() {
    let output = Command::new(env!("CARGO_BIN_EXE_rabitc"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let (_, list) = help.split_once("Commands:\n").expect("a list of commands");
    let verbs = list.lines().take_while(|l| l.starts_with("  "));
    let verbs = verbs
        .filter_map(|l| l.split_whitespace().next())
        .filter(|v| *v != "help");
    let table = marked("README.md", "verbs");
    let listed = table
        .lines()
        .filter_map(|l| l.strip_prefix("| `rabitc ")?.split(['`', ' ']).next());
    assert_eq!(listed.collect::<Vec<_>>(), verbs.collect::<Vec<_>>());
}

#[test]
fn every_architecture_is_in_the_readme() {
    let table = marked("README.md", "families");
    for name in rabitc_frontend::architectures() {
        assert!(table.contains(&code(name)), "{name}");
    }
}

/// Files below `folder` whose name ends in `end`, build output and hidden folders left out.
fn files(folder: &Path, end: &str, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        if name.starts_with('.') || name == "target" {
            continue;
        }
        match path.is_dir() {
            true => files(&path, end, out),
            false if name.ends_with(end) => out.push(path),
            false => {}
        }
    }
}

fn relative(path: &Path) -> String {
    let path = path.strip_prefix(root()).unwrap_or(path);
    path.to_string_lossy().replace('\\', "/")
}

#[test]
fn unsafe_code_is_where_the_inventory_says() {
    let mut sources = Vec::new();
    files(root(), ".rs", &mut sources);
    // The inventory is of what users run.
    sources.retain(|path| !path.iter().any(|part| part == "tests" || part == "benches"));
    let is_unsafe = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
        let mut words = code.flat_map(|l| l.split(|c: char| !(c.is_alphanumeric() || c == '_')));
        words.any(|w| w == "unsafe")
    };
    let found: BTreeSet<_> = sources
        .iter()
        .filter(|p| is_unsafe(p))
        .map(|p| relative(p))
        .collect();
    let table = marked("docs/architecture.md", "unsafe");
    let rows = table
        .lines()
        .filter_map(|l| l.strip_prefix("| `")?.split('`').next());
    assert_eq!(rows.map(str::to_string).collect::<BTreeSet<_>>(), found);
}

#[test]
fn links_and_named_files_exist() {
    let mut documents = Vec::new();
    files(root(), ".md", &mut documents);
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        let folder = document.parent().unwrap();
        let links = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        for link in links.filter(|l| !l.contains("://") && !l.starts_with('#')) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = folder.join(path);
            assert!(target.exists(), "{}: {link}", relative(&document));
            if !anchor.is_empty() {
                let found = anchors(&fs::read_to_string(target).unwrap()).contains(anchor);
                assert!(found, "{}: {link}", relative(&document));
            }
        }
        for path in named_paths(&text) {
            let exists = root().join(path).exists() || folder.join(path).exists();
            assert!(
                exists,
                "{} names {path}, which does not exist",
                relative(&document)
            );
        }
    }
}

/// What links can name in a document: its headings, as code hosts spell them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter_map(|l| l.strip_prefix('#'));
    let spell = |heading: &str| -> String {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(spell).collect()
}

/// Source files and folders that the text names in backquotes, such as `ir/src/op.rs`.
fn named_paths(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text
        .lines()
        .filter(|l| !l.starts_with("    "))
        .flat_map(|l| l.split('`').skip(1).step_by(2));
    quoted.filter(|q| {
        let plain = q
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "/_.-".contains(c));
        let path = q.contains('/') && (q.ends_with(".rs") || q.ends_with('/'));
        plain && path && !q.contains("NAME")
    })
}
