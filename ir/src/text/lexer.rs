//! Text to tokens, each with its line.

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// Letters, digits and `_ . - + /`.
    Word(String),
    /// `%name`
    Name(String),
    /// `"…"`, unescaped.
    Str(String),
    /// One of `= ( ) { } [ ] , :`.
    Mark(char),
}

/// Whether `c` can be part of a word or a name.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '+' | '/')
}

/// Whether `text` can name a node.
pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_word)
}

/// The tokens of `text` with their line numbers from 1, or the line and message of an error.
pub(super) fn tokens(text: &str) -> Result<Vec<(Token, usize)>, (usize, String)> {
    let mut out = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let mut rest = line.char_indices().peekable();
        while let Some(&(at, c)) = rest.peek() {
            match c {
                '#' => break,
                c if c.is_whitespace() => {
                    rest.next();
                }
                '"' => {
                    rest.next();
                    let text = string(&mut rest).map_err(|e| (number, e))?;
                    out.push((Token::Str(text), number));
                }
                '=' | '(' | ')' | '{' | '}' | '[' | ']' | ',' | ':' => {
                    rest.next();
                    out.push((Token::Mark(c), number));
                }
                '%' => {
                    rest.next();
                    let name = word(&mut rest);
                    if name.is_empty() {
                        return Err((number, "`%` without a name".into()));
                    }
                    out.push((Token::Name(name), number));
                }
                c if is_word(c) => out.push((Token::Word(word(&mut rest)), number)),
                c => {
                    let column = line[..at].chars().count() + 1;
                    return Err((number, format!("unexpected `{c}` in column {column}")));
                }
            }
        }
    }
    Ok(out)
}

type Chars<'a> = std::iter::Peekable<std::str::CharIndices<'a>>;

fn word(rest: &mut Chars<'_>) -> String {
    let mut out = String::new();
    while let Some((_, c)) = rest.next_if(|(_, c)| is_word(*c)) {
        out.push(c);
    }
    out
}

fn string(rest: &mut Chars<'_>) -> Result<String, String> {
    let mut out = String::new();
    loop {
        match rest.next().map(|(_, c)| c) {
            Some('"') => return Ok(out),
            Some('\\') => match rest.next().map(|(_, c)| c) {
                Some('n') => out.push('\n'),
                Some(c @ ('"' | '\\')) => out.push(c),
                _ => return Err("unknown escape in a string".into()),
            },
            Some(c) => out.push(c),
            None => return Err("a string does not end on its line".into()),
        }
    }
}
