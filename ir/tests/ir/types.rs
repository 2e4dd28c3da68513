//! Type rules: what every op accepts, and what it refuses with which words. `types.txt` is the
//! table.

use std::collections::BTreeSet;

use rabitc_ir::Op;
use rabitc_ir::text::parse;

const TABLE: &str = include_str!("types.txt");

/// Attributes of a plain `residual_binary`, for those that a row leaves out.
const LAYER: &[(&str, &str)] = &[
    ("paths", "2"),
    ("prologue", "none"),
    ("act", "silu"),
    ("eps", "0"),
    ("unit_offset", "false"),
    ("residual", "false"),
    ("row_tiles", "0"),
    ("packed", "false"),
    ("activations", "unset"),
];

/// One row: op, attributes, operand types, and the result's type or the reason of the refusal.
struct Row<'a> {
    op: &'a str,
    attrs: String,
    operands: Vec<&'a str>,
    expected: Result<&'a str, &'a str>,
}

fn row(line: &str) -> Row<'_> {
    let (head, expected) = match line.split_once(" => ") {
        Some((head, ty)) => (head, Ok(ty)),
        None => {
            let (head, reason) = line.split_once(" =! ").expect(line);
            (head, Err(reason))
        }
    };
    let (head, operands) = head.rsplit_once(':').expect(line);
    let (op, attrs) = head.split_once(" {").unwrap_or((head, "}"));
    let mut attrs = attrs.strip_suffix('}').expect(line).to_string();
    if op == "residual_binary" {
        for (name, value) in LAYER {
            if !attrs.contains(&format!("{name}=")) {
                attrs += &format!(", {name}={value}");
            }
        }
    }
    Row {
        op,
        attrs,
        operands: operands.split_whitespace().collect(),
        expected,
    }
}

/// Checks one row by parsing a graph of its operands and its op.
fn check(line: &str, row: &Row<'_>) {
    let mut text = String::from("graph \"g\" {\n");
    let mut names = Vec::new();
    for (i, ty) in row.operands.iter().enumerate() {
        text += &format!("%x{i} = input {{name=\"x{i}\", ty={ty}}} : {ty}\n");
        names.push(format!("%x{i}"));
    }
    let (op, attrs, ty) = (row.op, &row.attrs, row.expected.unwrap_or("f32[]"));
    text += &format!("%y = {op}({}) {{{attrs}}} : {ty}\n}}", names.join(", "));
    let found = parse(&text).map(|_| ()).map_err(|e| e.message);
    let expected = match row.expected {
        Ok(_) => Ok(()),
        Err(reason) => Err(format!("%y = {op}: {reason}")),
    };
    assert_eq!(found, expected, "{line}");
}

#[test]
fn operands_are_accepted_and_refused() {
    let (mut accepted, mut refused) = (BTreeSet::new(), BTreeSet::new());
    let lines = TABLE
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'));
    for line in lines {
        let row = row(line);
        check(line, &row);
        match row.expected {
            Ok(_) => accepted.insert(row.op),
            Err(_) => refused.insert(row.op),
        };
    }
    for op in Op::table() {
        assert!(
            accepted.contains(op.name),
            "no accepted case for {}",
            op.name
        );
        let anything_goes = op.name == "input";
        assert!(
            anything_goes || refused.contains(op.name),
            "no refused case for {}",
            op.name
        );
    }
}
