//! The part of `tokenizer_config.json` that the runtime uses: special tokens and chat templates.

use crate::error::Error;
use serde_json::{Map, Value};

/// What `tokenizer_config.json` says. The default says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenizerConfig {
    /// Whether encoded text begins with [`TokenizerConfig::bos_token`]; `None` leaves it to
    /// `tokenizer.json`.
    pub add_bos_token: Option<bool>,
    /// The token at the beginning of a text.
    pub bos_token: Option<String>,
    /// The token at the end of a text.
    pub eos_token: Option<String>,
    /// Chat templates by name, in the file's order; a single one is named `default`.
    pub chat_templates: Vec<(String, String)>,
}

impl TokenizerConfig {
    /// Reads the file's content. Keys that the runtime does not use may hold anything.
    ///
    /// # Errors
    /// Text that is not JSON, or a used key of the wrong type; the error names the key.
    pub fn from_bytes(json: &[u8]) -> Result<TokenizerConfig, Error> {
        let root: Value =
            serde_json::from_slice(json).map_err(|error| refused(error.to_string()))?;
        let Value::Object(root) = root else {
            return Err(refused("must hold a JSON object".to_owned()));
        };
        Ok(TokenizerConfig {
            add_bos_token: boolean(&root, "add_bos_token")?,
            bos_token: token(&root, "bos_token")?,
            eos_token: token(&root, "eos_token")?,
            chat_templates: templates(&root)?,
        })
    }

    /// Replaces the chat templates by the content of a `chat_template.jinja` file, which takes
    /// precedence over those in `tokenizer_config.json`.
    pub fn set_chat_template(&mut self, source: String) {
        self.chat_templates = vec![("default".to_owned(), source)];
    }
}

fn boolean(root: &Map<String, Value>, key: &str) -> Result<Option<bool>, Error> {
    match root.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(*value)),
        Some(_) => Err(refused(format!("{key} must be true or false"))),
    }
}

/// A token is given as its text, or as an object with the text under `content`.
fn token(root: &Map<String, Value>, key: &str) -> Result<Option<String>, Error> {
    let text = match root.get(key) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(token)) => token.get("content"),
        other => other,
    };
    match text.and_then(Value::as_str) {
        Some(text) => Ok(Some(text.to_owned())),
        None => Err(refused(format!(
            "{key} must be a string or an object with a string \"content\""
        ))),
    }
}

fn templates(root: &Map<String, Value>) -> Result<Vec<(String, String)>, Error> {
    match root.get("chat_template") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(source)) => Ok(vec![("default".to_owned(), source.clone())]),
        Some(Value::Array(list)) => list.iter().map(named_template).collect(),
        Some(_) => Err(refused("chat_template must be a string or a list".into())),
    }
}

fn named_template(entry: &Value) -> Result<(String, String), Error> {
    let text = |key| entry.get(key).and_then(Value::as_str).map(str::to_owned);
    text("name").zip(text("template")).ok_or_else(|| {
        refused("each chat_template of a list must have a string name and template".into())
    })
}

fn refused(reason: String) -> Error {
    Error::TokenizerConfig { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> TokenizerConfig {
        TokenizerConfig::from_bytes(json.as_bytes()).unwrap()
    }

    #[test]
    fn tokens_are_strings_or_objects() {
        let config = read(
            r#"{"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false},
                "add_bos_token": true, "unknown": [1]}"#,
        );
        assert_eq!(config.bos_token.as_deref(), Some("<s>"));
        assert_eq!(config.eos_token.as_deref(), Some("</s>"));
        assert_eq!(config.add_bos_token, Some(true));
        assert_eq!(read(r#"{"bos_token": null}"#), TokenizerConfig::default());
    }

    #[test]
    fn templates_are_one_or_several() {
        let one = read(r#"{"chat_template": "x"}"#);
        assert_eq!(one.chat_templates, [("default".into(), "x".into())]);
        let mut several = read(
            r#"{"chat_template": [{"name": "tool_use", "template": "t"},
                                  {"name": "default", "template": "d"}]}"#,
        );
        assert_eq!(several.chat_templates[0], ("tool_use".into(), "t".into()));
        assert_eq!(several.chat_templates[1], ("default".into(), "d".into()));
        several.set_chat_template("file".to_owned());
        assert_eq!(several.chat_templates, [("default".into(), "file".into())]);
    }

    #[test]
    fn wrong_types_are_errors_that_name_the_key() {
        for (json, word) in [
            ("", "EOF"),
            ("[]", "object"),
            (r#"{"add_bos_token": 1}"#, "add_bos_token"),
            (r#"{"bos_token": 1}"#, "bos_token"),
            (r#"{"eos_token": {"text": "x"}}"#, "eos_token"),
            (r#"{"eos_token": []}"#, "eos_token"),
            (r#"{"chat_template": {}}"#, "chat_template"),
            (r#"{"chat_template": [{"name": "x"}]}"#, "chat_template"),
        ] {
            let error = TokenizerConfig::from_bytes(json.as_bytes()).unwrap_err();
            let message = error.to_string();
            assert!(message.starts_with("tokenizer_config.json: "), "{message}");
            assert!(message.contains(word), "{message}");
        }
    }
}
