//! The small files beside the weights: configuration, tokenizer, chat template, generation
//! settings. Every read is limited in size.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::Error;

/// Limits in bytes: far above any real file, far below what would hurt.
pub(crate) const CONFIG_LIMIT: u64 = 4 << 20;
pub(crate) const INDEX_LIMIT: u64 = 128 << 20;
const TOKENIZER_LIMIT: u64 = 256 << 20;

/// The small files of a checkpoint folder, each read when it is asked for.
#[derive(Clone, Debug)]
pub struct SideFiles {
    folder: PathBuf,
}

/// What `tokenizer_config.json` and its neighbours say about using the tokenizer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenizerSettings {
    /// The Jinja chat template.
    pub chat_template: Option<String>,
    /// Text of the beginning-of-sequence token.
    pub bos_token: Option<String>,
    /// Text of the end-of-sequence token.
    pub eos_token: Option<String>,
    /// Text of the padding token.
    pub pad_token: Option<String>,
    /// Text of the unknown token.
    pub unk_token: Option<String>,
    /// Whether prompts begin with the beginning-of-sequence token.
    pub add_bos_token: Option<bool>,
}

impl SideFiles {
    pub(crate) fn new(folder: &Path) -> Self {
        SideFiles {
            folder: folder.to_path_buf(),
        }
    }

    /// `tokenizer.json`, unparsed. `None` if there is none.
    pub fn tokenizer(&self) -> Result<Option<String>, Error> {
        self.read("tokenizer.json", TOKENIZER_LIMIT)
    }

    /// `tokenizer_config.json`, unparsed. `None` if there is none.
    pub fn tokenizer_config(&self) -> Result<Option<String>, Error> {
        self.read("tokenizer_config.json", TOKENIZER_LIMIT)
    }

    /// `generation_config.json`, unparsed. `None` if there is none.
    pub fn generation_config(&self) -> Result<Option<String>, Error> {
        self.read("generation_config.json", CONFIG_LIMIT)
    }

    /// Chat template and special tokens. A template in a file of its own (`chat_template.jinja`,
    /// then `chat_template.json`) comes before the one in `tokenizer_config.json`.
    pub fn tokenizer_settings(&self) -> Result<TokenizerSettings, Error> {
        let config = self.json("tokenizer_config.json", TOKENIZER_LIMIT)?;
        let mut settings = TokenizerSettings::default();
        if let Some(config) = &config {
            settings.chat_template = template(&config["chat_template"]);
            settings.bos_token = token_text(&config["bos_token"]);
            settings.eos_token = token_text(&config["eos_token"]);
            settings.pad_token = token_text(&config["pad_token"]);
            settings.unk_token = token_text(&config["unk_token"]);
            settings.add_bos_token = config["add_bos_token"].as_bool();
        }
        if let Some(json) = self.json("chat_template.json", CONFIG_LIMIT)? {
            settings.chat_template = template(&json["chat_template"]).or(settings.chat_template);
        }
        if let Some(text) = self.read("chat_template.jinja", CONFIG_LIMIT)? {
            settings.chat_template = Some(text);
        }
        Ok(settings)
    }

    fn read(&self, name: &str, limit: u64) -> Result<Option<String>, Error> {
        let path = self.folder.join(name);
        if !path.exists() {
            return Ok(None);
        }
        read_limited(&path, limit).map(Some)
    }

    fn json(&self, name: &str, limit: u64) -> Result<Option<Value>, Error> {
        let Some(text) = self.read(name, limit)? else {
            return Ok(None);
        };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|e| Error::file(&self.folder.join(name), format!("not valid JSON: {e}")))
    }
}

/// A template is a string, or a list of named ones of which `default` is meant.
fn template(value: &Value) -> Option<String> {
    if let Some(text) = value.as_str() {
        return Some(text.to_string());
    }
    let named = value.as_array()?.iter().find(|t| t["name"] == "default")?;
    named["template"].as_str().map(str::to_string)
}

/// A special token is a string or an object with its text under `content`.
fn token_text(value: &Value) -> Option<String> {
    value
        .as_str()
        .or_else(|| value["content"].as_str())
        .map(str::to_string)
}

/// Reads a whole text file that may not be longer than `limit` bytes.
pub(crate) fn read_limited(path: &Path, limit: u64) -> Result<String, Error> {
    // Asked before opening: to open a pipe would wait for a writer.
    if !std::fs::metadata(path).map_err(Error::io(path))?.is_file() {
        return Err(Error::file(path, "not a regular file"));
    }
    let file = File::open(path).map_err(Error::io(path))?;
    let mut text = String::new();
    let read = file
        .take(limit + 1)
        .read_to_string(&mut text)
        .map_err(Error::io(path))?;
    if read as u64 > limit {
        return Err(Error::file(path, format!("longer than {limit} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn settings_come_from_every_form() {
        let dir = folder(&[(
            "tokenizer_config.json",
            r#"{"bos_token":{"content":"<s>"},"eos_token":"</s>","add_bos_token":true,
                "chat_template":[{"name":"tool","template":"T"},{"name":"default","template":"D"}]}"#,
        )]);
        let side = SideFiles::new(dir.path());
        let settings = side.tokenizer_settings().unwrap();
        assert_eq!(settings.bos_token.as_deref(), Some("<s>"));
        assert_eq!(settings.eos_token.as_deref(), Some("</s>"));
        assert_eq!(settings.add_bos_token, Some(true));
        assert_eq!(settings.chat_template.as_deref(), Some("D"));
        std::fs::write(
            dir.path().join("chat_template.json"),
            r#"{"chat_template":"J"}"#,
        )
        .unwrap();
        assert_eq!(
            side.tokenizer_settings().unwrap().chat_template.as_deref(),
            Some("J")
        );
        std::fs::write(dir.path().join("chat_template.jinja"), "F").unwrap();
        assert_eq!(
            side.tokenizer_settings().unwrap().chat_template.as_deref(),
            Some("F")
        );
    }

    #[test]
    fn absent_files_are_none_and_damaged_ones_errors() {
        let dir = folder(&[]);
        let side = SideFiles::new(dir.path());
        assert_eq!(side.tokenizer().unwrap(), None);
        assert_eq!(
            side.tokenizer_settings().unwrap(),
            TokenizerSettings::default()
        );
        std::fs::write(dir.path().join("tokenizer_config.json"), "{").unwrap();
        let error = side.tokenizer_settings().unwrap_err().to_string();
        assert!(
            error.contains("tokenizer_config.json: not valid JSON"),
            "{error}"
        );
    }

    #[test]
    fn files_over_the_limit_are_refused() {
        let dir = folder(&[("a", "12345")]);
        let path = dir.path().join("a");
        assert_eq!(read_limited(&path, 5).unwrap(), "12345");
        let error = read_limited(&path, 4).unwrap_err().to_string();
        assert!(error.contains("longer than 4 bytes"), "{error}");
        let error = read_limited(dir.path(), 4).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }
}
