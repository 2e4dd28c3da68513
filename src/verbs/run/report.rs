//! Where generated tokens go, and what is reported at the end.

use anyhow::Result;
use rabitc_runtime::stream_decoder::StreamDecoder;
use rabitc_runtime::tokenizer::Tokenizer;
use serde::Serialize;

use super::generate::{Finish, Generation, Timed};
use crate::ui;

/// What is written to standard output while tokens come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Text.
    Text,
    /// Token ids, separated by commas.
    Ids,
    /// Nothing.
    Silent,
}

/// Takes tokens as they come.
pub struct Sink<'a> {
    decoder: Option<StreamDecoder<'a>>,
    output: Output,
    text: String,
    count: usize,
}

impl<'a> Sink<'a> {
    /// A sink for what follows `prompt`. Without a tokenizer there is no text.
    pub fn new(tokenizer: Option<&'a Tokenizer>, prompt: &[u32], output: Output) -> Result<Self> {
        let mut decoder = tokenizer.map(|t| StreamDecoder::new(t, true));
        if let Some(decoder) = &mut decoder {
            decoder.prime(prompt)?;
        }
        Ok(Sink {
            decoder,
            output,
            text: String::new(),
            count: 0,
        })
    }

    /// Takes the next token.
    pub fn push(&mut self, id: u32) -> Result<()> {
        if self.output == Output::Ids {
            let comma = if self.count > 0 { "," } else { "" };
            ui::print(&format!("{comma}{id}"))?;
        }
        self.count += 1;
        match &mut self.decoder {
            Some(decoder) => {
                let piece = decoder.push(id)?;
                self.take(&piece)
            }
            None => Ok(()),
        }
    }

    /// Ends the line and gives the whole text, if there is a tokenizer.
    pub fn finish(mut self) -> Result<Option<String>> {
        let decoded = self.decoder.is_some();
        if let Some(decoder) = self.decoder.take() {
            let rest = decoder.finish()?;
            self.take(&rest)?;
        }
        if self.output != Output::Silent {
            ui::print("\n")?;
        }
        Ok(decoded.then_some(self.text))
    }

    fn take(&mut self, piece: &str) -> Result<()> {
        if self.output == Output::Text && !piece.is_empty() {
            ui::print(piece)?;
        }
        self.text.push_str(piece);
        Ok(())
    }
}

/// What `--json` prints. The field names are an interface.
#[derive(Debug, Serialize)]
pub struct Report {
    ids: Vec<u32>,
    prompt_ids: Vec<u32>,
    text: Option<String>,
    prompt_tokens_per_second: Option<f64>,
    generation_tokens_per_second: Option<f64>,
    finish_reason: Finish,
    seed: Option<u64>,
    #[serde(skip)]
    times: (Timed, Timed),
}

impl Report {
    /// Gathers what is to be reported.
    pub fn new(
        prompt: &[u32],
        generation: Generation,
        text: Option<String>,
        seed: Option<u64>,
    ) -> Report {
        Report {
            ids: generation.ids,
            prompt_ids: prompt.to_vec(),
            text,
            prompt_tokens_per_second: generation.prompt.rate(),
            generation_tokens_per_second: generation.steps.rate(),
            finish_reason: generation.finish,
            seed,
            times: (generation.prompt, generation.steps),
        }
    }

    /// Prints the report as one line of JSON.
    pub fn print_json(&self) -> Result<()> {
        ui::print(&(serde_json::to_string(self)? + "\n"))
    }

    /// Prints the speeds, why generation ended and the seed on standard error.
    pub fn print_speeds(&self) -> Result<()> {
        let finish = match self.finish_reason {
            Finish::Eos => "the text ended",
            Finish::Length => "-n tokens",
            Finish::Context => "the context is full",
        };
        let seed = self.seed.map(|seed| format!(", seed {seed}"));
        let (prompt, steps) = self.times;
        eprintln!(
            "{} [{finish}{}]",
            speeds(prompt, steps),
            seed.unwrap_or_default()
        );
        Ok(())
    }
}

/// Both speeds in one line.
pub fn speeds(prompt: Timed, steps: Timed) -> String {
    let part = |what: &str, timed: Timed| {
        let rate = timed.rate().map_or("–".to_owned(), ui::digits);
        format!("{what} {} tokens, {rate} tokens/s", timed.tokens)
    };
    format!("{}; {}", part("prompt", prompt), part("generation", steps))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn json_has_the_fields_in_order() {
        let timed = |tokens| Timed {
            tokens,
            time: Duration::from_secs(2),
        };
        let generation = Generation {
            ids: vec![4, 1],
            finish: Finish::Eos,
            prompt: timed(3),
            steps: timed(0),
        };
        let report = Report::new(&[0, 7, 8], generation, Some(" x".into()), None);
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"ids":[4,1],"prompt_ids":[0,7,8],"text":" x","prompt_tokens_per_second":1.5,"generation_tokens_per_second":null,"finish_reason":"eos","seed":null}"#
        );
        assert_eq!(
            speeds(timed(3), timed(0)),
            "prompt 3 tokens, 1.50 tokens/s; generation 0 tokens, – tokens/s"
        );
    }
}
