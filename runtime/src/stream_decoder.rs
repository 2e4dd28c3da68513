//! Text as its tokens arrive.
//!
//! A character may span tokens, and how a token reads may depend on the one before it (a leading
//! space, for one). So a short window of recent tokens is decoded each time, and only what cannot
//! change any more is handed out: everything before an unfinished character.

use crate::error::Error;
use crate::tokenizer::Tokenizer;

/// How many tokens may end in an unfinished character before they are handed out as they are. A
/// character has at most four bytes, so beyond this it is not one.
const MAX_UNFINISHED: usize = 64;

/// What a decoder writes for bytes that are no (or not yet a) character.
const REPLACEMENT: char = '\u{fffd}';

/// Decodes one token at a time.
#[derive(Debug)]
pub struct StreamDecoder<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// Tokens decoded before, as context, then tokens whose text is not all out.
    window: Vec<u32>,
    /// How many tokens of the window are context.
    context: usize,
    /// The text of the context, and what is already out of the rest.
    emitted: String,
}

impl<'a> StreamDecoder<'a> {
    /// A decoder at the beginning of a text, which leaves special tokens out if `skip_special`.
    pub fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> StreamDecoder<'a> {
        StreamDecoder {
            tokenizer,
            skip_special,
            window: Vec::new(),
            context: 0,
            emitted: String::new(),
        }
    }

    /// Takes tokens as read already (a prompt), so that the next one is decoded as their
    /// continuation. Their text is not handed out.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn prime(&mut self, ids: &[u32]) -> Result<(), Error> {
        let start = ids.len().saturating_sub(MAX_UNFINISHED);
        self.window = ids[start..].to_vec();
        self.restart_from(0)
    }

    /// Takes the next token and returns the text that is complete now, often but not always its
    /// own; may be empty.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String, Error> {
        self.window.push(id);
        let text = self.tokenizer.decode(&self.window, self.skip_special)?;
        let finished = text.trim_end_matches(REPLACEMENT);
        let give_up = self.window.len() - self.context >= MAX_UNFINISHED;
        let ready = if give_up { &text } else { finished };
        let new = unseen(ready, &self.emitted).to_owned();
        // Tokens without text would be no context: a decoder would take the next for the first.
        if give_up || (finished.len() == text.len() && !new.is_empty()) {
            self.restart_from(self.context)?;
        } else if !new.is_empty() {
            self.emitted.clear();
            self.emitted.push_str(finished);
        }
        Ok(new)
    }

    /// What is left when no more tokens come: bytes that never became a character, as U+FFFD.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(self) -> Result<String, Error> {
        let text = self.tokenizer.decode(&self.window, self.skip_special)?;
        Ok(unseen(&text, &self.emitted).to_owned())
    }

    /// Makes the window's tokens from `start` on the context of what follows.
    fn restart_from(&mut self, start: usize) -> Result<(), Error> {
        self.window.drain(..start);
        self.context = self.window.len();
        self.emitted = self.tokenizer.decode(&self.window, self.skip_special)?;
        Ok(())
    }
}

/// What `text` has beyond `emitted`.
///
/// Some decoders revise earlier text when a token arrives, and what is out cannot be taken back:
/// then it is what follows the common beginning. A byte fallback decoder, for one, turns a whole
/// run of byte tokens into replacement characters, one a byte, when the run goes wrong; those that
/// stand for bytes already shown are passed over.
fn unseen<'t>(text: &'t str, emitted: &str) -> &'t str {
    if let Some(rest) = text.strip_prefix(emitted) {
        return rest;
    }
    let pairs = text.chars().zip(emitted.chars());
    let same = pairs.take_while(|(a, b)| a == b);
    let common: usize = same.map(|(a, _)| a.len_utf8()).sum();
    let (mut rest, shown) = (&text[common..], emitted.len() - common);
    for _ in 0..shown {
        rest = rest.strip_prefix(REPLACEMENT).unwrap_or(rest);
    }
    rest
}

#[cfg(test)]
#[path = "stream_decoder_tests.rs"]
mod tests;
