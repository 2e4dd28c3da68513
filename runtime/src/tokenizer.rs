//! Text to token ids and back, as `tokenizer.json` defines it.

use crate::error::Error;
use crate::tokenizer_config::TokenizerConfig;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A model's tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    add_bos: bool,
    bos_id: Option<u32>,
    eos_id: Option<u32>,
}

impl Tokenizer {
    /// A tokenizer from the content of `tokenizer.json` and what `tokenizer_config.json` says.
    ///
    /// Truncation and padding that the file asks for are left out: they are for batches of
    /// training, and would silently cut a prompt.
    ///
    /// # Errors
    /// Content that is not a tokenizer, or special tokens that its vocabulary does not have.
    pub fn from_bytes(json: &[u8], config: &TokenizerConfig) -> Result<Tokenizer, Error> {
        let reading = "cannot read tokenizer.json";
        // The library panics on JSON that is broken in certain places.
        serde_json::from_slice::<serde_json::Value>(json)
            .map_err(|error| refused(format!("{reading}: {error}")))?;
        let mut inner = guarded(reading, || tokenizers::Tokenizer::from_bytes(json))?;
        inner.with_padding(None);
        inner
            .with_truncation(None)
            .map_err(|error| refused(error.to_string()))?;
        let id_of = |key: &str, token: &Option<String>| match token {
            None => Ok(None),
            Some(text) => inner.token_to_id(text).map(Some).ok_or_else(|| {
                refused(format!(
                    "{key} {text:?} is not in tokenizer.json's vocabulary"
                ))
            }),
        };
        let bos_id = id_of("bos_token", &config.bos_token)?;
        let eos_id = id_of("eos_token", &config.eos_token)?;
        Ok(Tokenizer {
            inner,
            add_bos: config.add_bos_token == Some(true),
            bos_id,
            eos_id,
        })
    }

    /// The ids of `text`.
    ///
    /// With `add_special`, what the file's post-processor adds is added; so is the BOS token if
    /// `tokenizer_config.json` has `add_bos_token` and the post-processor did not. A BOS token
    /// that the text itself begins with is not doubled. Without `add_special` (for text that a
    /// chat template made) nothing is added. Special tokens written in the text are recognised.
    ///
    /// # Errors
    /// Text that the tokenizer's model cannot represent.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, Error> {
        let encoding = guarded("cannot encode", || {
            self.inner.encode_fast(text, add_special)
        })?;
        let mut ids = encoding.get_ids().to_vec();
        if let (true, Some(bos)) = (add_special, self.bos_id) {
            let present = ids.iter().take_while(|&&id| id == bos).count();
            if present == 0 && self.add_bos {
                ids.insert(0, bos);
            }
            ids.drain(..present.saturating_sub(1));
        }
        Ok(ids)
    }

    /// The text of `ids`, without special tokens if `skip_special`. Bytes that are not UTF-8
    /// become U+FFFD; ids that no token has (models pad their vocabulary) have no text.
    ///
    /// # Errors
    /// A decoder that fails on these tokens.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, Error> {
        guarded("cannot decode", || self.inner.decode(ids, skip_special))
    }

    /// How many tokens the vocabulary has, added ones included. The model may have more logits.
    pub fn token_count(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of a token given by its text in the vocabulary, such as `<|eot_id|>`.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// A token's text in the vocabulary (in the tokenizer's own alphabet, not decoded).
    pub fn token_of(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// The token at the beginning of a text, if `tokenizer_config.json` names one.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }

    /// The token at the end of a text, if `tokenizer_config.json` names one.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos_id
    }
}

/// Calls the tokenizer library, which panics on some inconsistent files where it should fail.
fn guarded<T>(doing: &str, call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, Error> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(refused(format!("{doing}: {error}"))),
        Err(_) => Err(refused(format!(
            "{doing}: the tokenizer's data is inconsistent"
        ))),
    }
}

fn refused(reason: String) -> Error {
    Error::Tokenizer { reason }
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
mod tests;
