//! A conversation as the prompt text the model was trained on, by the checkpoint's chat template.
//!
//! Templates are Jinja programs, written for Hugging Face `transformers`; the environment here
//! offers what theirs does. They come with a checkpoint, so how long one may run is bounded.

use crate::chat_json::tojson;
use crate::error::Error;
use crate::strftime::strftime;
use crate::tokenizer_config::TokenizerConfig;
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, ErrorKind, Value, context};
use std::time::SystemTime;

/// The name of the template in its environment.
const NAME: &str = "chat";

/// How many instructions a template may execute; a long conversation takes some ten thousand.
const FUEL: u64 = 20_000_000;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`, in most templates.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A turn.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message {
            role: role.into(),
            content: content.into(),
        }
    }
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    /// The template called `name` of `config`, or if `None` the one called `default`, or the only
    /// one there is.
    ///
    /// # Errors
    /// No such template (the error names those there are), or one that does not parse.
    pub fn from_config(config: &TokenizerConfig, name: Option<&str>) -> Result<Self, Error> {
        let templates = &config.chat_templates;
        let wanted = name.unwrap_or("default");
        let named = templates.iter().find(|(name, _)| name == wanted);
        let only = match (name, templates.as_slice()) {
            (None, [only]) => Some(only),
            _ => None,
        };
        let Some((_, source)) = named.or(only) else {
            let names: Vec<_> = templates.iter().map(|(name, _)| name.as_str()).collect();
            return Err(refused(match names.as_slice() {
                [] => "the checkpoint has none".to_owned(),
                names => format!("there is no {wanted:?}, only {}", names.join(", ")),
            }));
        };
        let token = |token: &Option<String>| token.clone().unwrap_or_default();
        ChatTemplate::new(source, token(&config.bos_token), token(&config.eos_token))
    }

    /// A template from its source, and the tokens it may write.
    ///
    /// # Errors
    /// Source that does not parse.
    pub fn new(source: &str, bos_token: String, eos_token: String) -> Result<Self, Error> {
        let mut environment = environment()?;
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(|error| from_jinja(&error))?;
        Ok(ChatTemplate {
            environment,
            bos_token,
            eos_token,
        })
    }

    /// The text of `messages`; with `add_generation_prompt` it ends where the assistant's answer
    /// begins. Special tokens are in it, so it is encoded without adding any.
    ///
    /// # Errors
    /// A conversation that the template refuses (its own words), or a template that fails.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, Error> {
        let turn = |message: &Message| {
            Value::from_pairs([
                ("role", Value::from(message.role.as_str())),
                ("content", Value::from(message.content.as_str())),
            ])
        };
        // `tools` and `documents` are there in `transformers` too, as none: templates ask.
        let variables = context! {
            messages => messages.iter().map(turn).collect::<Vec<_>>(),
            add_generation_prompt,
            bos_token => self.bos_token.as_str(),
            eos_token => self.eos_token.as_str(),
            tools => Value::from(()),
            documents => Value::from(()),
        };
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render(variables))
            .map_err(|error| from_jinja(&error))
    }
}

/// What templates may use beyond Jinja itself.
fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .map_err(|error| from_jinja(&error))?;
    environment.set_syntax(syntax);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_fuel(Some(FUEL));
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    Ok(environment)
}

/// `raise_exception(text)`: the template refuses the conversation.
fn raise_exception(text: String) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, text))
}

/// `strftime_now(format)`: the date, in UTC, so that a prompt does not depend on the time zone.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    strftime(format, SystemTime::now()).map_err(|reason| {
        minijinja::Error::new(
            ErrorKind::InvalidOperation,
            format!("strftime_now: {reason}"),
        )
    })
}

/// Replaces `{% generation %}` … `{% endgeneration %}`, by which training finds the assistant's
/// words, by blocks that change nothing.
fn without_generation_tags(source: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(source.len()), source);
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        let word = tag.trim_start_matches("{%").trim_end_matches("%}");
        let word = word.trim_matches(['-', '+']).trim();
        out.push_str(before);
        match word {
            "generation" => out.push_str(&tag.replace(word, "if true")),
            "endgeneration" => out.push_str(&tag.replace(word, "endif")),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out + rest
}

fn from_jinja(error: &minijinja::Error) -> Error {
    let line = error.line().map(|line| format!(" (line {line})"));
    let what = match error.detail() {
        Some(detail) => detail.to_owned(),
        None => error.kind().to_string(),
    };
    refused(what + &line.unwrap_or_default())
}

fn refused(reason: String) -> Error {
    Error::ChatTemplate { reason }
}

#[cfg(test)]
#[path = "chat_tests.rs"]
mod tests;
