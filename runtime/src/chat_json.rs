//! The `tojson` filter of chat templates, as Python's `json.dumps` writes it.
//!
//! Models were trained on that spelling: a space after `,` and `:`, no escapes for HTML, characters
//! beyond ASCII as they are.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// Deeper nesting than any message has would overflow the stack.
const MAX_DEPTH: usize = 64;

/// How the text is laid out.
struct Style {
    ensure_ascii: bool,
    /// Spaces a level; `None` keeps everything on one line.
    indent: Option<usize>,
    sort_keys: bool,
}

/// The filter: `value|tojson(indent=None, ensure_ascii=False, sort_keys=False)`.
pub(crate) fn tojson(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let style = Style {
        ensure_ascii: options.get::<Option<bool>>("ensure_ascii")? == Some(true),
        indent: indent.map(|indent| indent.min(MAX_DEPTH)),
        sort_keys: options.get::<Option<bool>>("sort_keys")? == Some(true),
    };
    options.assert_all_used()?;
    let mut out = String::new();
    write(&mut out, value, &style, 0)?;
    Ok(Value::from_safe_string(out))
}

fn write(out: &mut String, value: &Value, style: &Style, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(refused("tojson: the value is nested too deeply"));
    }
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&value.to_string()),
        ValueKind::String => write_string(out, &value.to_string(), style),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            write_all(out, ['[', ']'], &items, style, depth, |out, item| {
                write(out, item, style, depth + 1)
            })?;
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if style.sort_keys {
                keys.sort();
            }
            write_all(out, ['{', '}'], &keys, style, depth, |out, key| {
                write_string(out, &key.to_string(), style);
                out.push_str(": ");
                write(out, &value.get_item(key)?, style, depth + 1)
            })?;
        }
        _ => return Err(refused("tojson: the value has no JSON form")),
    }
    Ok(())
}

/// Writes the items of a list or map between its brackets.
fn write_all(
    out: &mut String,
    [open, close]: [char; 2],
    items: &[Value],
    style: &Style,
    depth: usize,
    mut item: impl FnMut(&mut String, &Value) -> Result<(), Error>,
) -> Result<(), Error> {
    out.push(open);
    for (index, value) in items.iter().enumerate() {
        match (index, style.indent) {
            (0, None) => {}
            (_, None) => out.push_str(", "),
            (0, Some(_)) => {}
            (_, Some(_)) => out.push(','),
        }
        new_line(out, style, depth + 1);
        item(out, value)?;
    }
    if !items.is_empty() {
        new_line(out, style, depth);
    }
    out.push(close);
    Ok(())
}

fn new_line(out: &mut String, style: &Style, depth: usize) {
    if let Some(indent) = style.indent {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', indent * depth));
    }
}

fn write_string(out: &mut String, text: &str, style: &Style) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' || (style.ensure_ascii && !c.is_ascii()) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn refused(reason: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

#[cfg(test)]
mod tests {
    use minijinja::Environment;

    fn render(expression: &str) -> Result<String, minijinja::Error> {
        let mut environment = Environment::new();
        environment.add_filter("tojson", super::tojson);
        environment.render_str(&format!("{{{{ {expression} }}}}"), minijinja::context! {})
    }

    #[test]
    fn spelled_as_python_does() {
        for (expression, expected) in [
            ("none|tojson", "null"),
            ("missing|tojson", "null"),
            (
                "[true, false, 1, -2, 1.0, 0.5]|tojson",
                "[true, false, 1, -2, 1.0, 0.5]",
            ),
            ("[]|tojson", "[]"),
            ("{}|tojson", "{}"),
            (
                "{'z': 1, 'a': [{'b': 'c'}]}|tojson",
                r#"{"z": 1, "a": [{"b": "c"}]}"#,
            ),
            (
                "{'z': 1, 'a': 2}|tojson(sort_keys=true)",
                r#"{"a": 2, "z": 1}"#,
            ),
            (
                "'<a href=\"x\">&é\\n\\t\\\\</a>'|tojson",
                r#""<a href=\"x\">&é\n\t\\</a>""#,
            ),
            ("'é😀'|tojson(ensure_ascii=true)", r#""\u00e9\ud83d\ude00""#),
            ("'é'|tojson(ensure_ascii=false)", r#""é""#),
            ("'\u{1}'|tojson", "\"\\u0001\""),
        ] {
            assert_eq!(render(expression).unwrap(), expected, "{expression}");
        }
    }

    #[test]
    fn indented() {
        assert_eq!(
            render("{'a': [1, 2], 'b': [], 'c': {}}|tojson(indent=2)").unwrap(),
            "{\n  \"a\": [\n    1,\n    2\n  ],\n  \"b\": [],\n  \"c\": {}\n}"
        );
        assert_eq!(render("[1]|tojson(indent=4)").unwrap(), "[\n    1\n]");
    }

    #[test]
    fn unknown_options_and_deep_values_are_errors() {
        assert!(render("1|tojson(colour=2)").is_err());
        let deep = format!("{}{}|tojson", "[".repeat(70), "]".repeat(70));
        assert!(render(&deep).is_err());
    }
}
